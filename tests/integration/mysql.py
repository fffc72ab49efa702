"""As much of MySQL's protocol as a driver needs to connect, to be refused, and to read one number."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import threading
from types import TracebackType
from typing import Self

_CAPABILITIES = (
    0x0008_A20D  # long password, connect with database, protocol 4.1, transactions, secure connection, plugin
)
_AUTOCOMMIT = 2
_OK = b"\x00\x00\x00" + struct.pack("<HH", _AUTOCOMMIT, 0)
_EOF = b"\xfe" + struct.pack("<HH", 0, _AUTOCOMMIT)
_QUERY = 3


class MySQL:
    """A context manager: a server that checks the password, and answers 42 to every query."""

    def __init__(self, password: str) -> None:
        self.password = password
        self.accepted = self.refused = 0
        self._connections: list[socket.socket] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def disconnect(self) -> None:
        """End every connection."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            salt = bytes(1 + byte % 127 for byte in os.urandom(20))
            greeting = b"\x0a8.0.0\x00" + struct.pack("<I", 1) + salt[:8] + b"\x00"
            greeting += struct.pack("<HBHHB", _CAPABILITIES & 0xFFFF, 45, _AUTOCOMMIT, _CAPABILITIES >> 16, 21)
            _send(connection, 0, greeting + bytes(10) + salt[8:] + b"\x00mysql_native_password\x00")
            number, login = _receive(connection)
            if _proof(self.password, salt) not in login:
                self.refused += 1
                _send(connection, number + 1, b"\xff" + struct.pack("<H", 1045) + b"#28000Access denied for user")
                return
            self.accepted += 1
            _send(connection, number + 1, _OK)
            while True:
                number, command = _receive(connection)
                if command[0] != _QUERY or not command[1:].upper().startswith(b"SELECT"):
                    _send(connection, number + 1, _OK)
                    continue
                column = b"".join(_text(each) for each in (b"def", b"", b"", b"", b"total", b""))
                column += b"\x0c" + struct.pack("<HIBHB", 63, 11, 3, 0, 0) + bytes(2)
                for offset, packet in enumerate((b"\x01", column, _EOF, _text(b"42"), _EOF), 1):
                    _send(connection, number + offset, packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)
        self.disconnect()


def _proof(password: str, salt: bytes) -> bytes:
    """What ``mysql_native_password`` sends of a password."""

    def sha1(data: bytes) -> bytes:
        return hashlib.sha1(data, usedforsecurity=False).digest()

    once = sha1(password.encode())
    return bytes(one ^ two for one, two in zip(once, sha1(salt + sha1(once)), strict=True))


def _text(data: bytes) -> bytes:
    return bytes([len(data)]) + data


def _send(connection: socket.socket, number: int, packet: bytes) -> None:
    connection.sendall(struct.pack("<I", len(packet))[:3] + bytes([number % 256]) + packet)


def _receive(connection: socket.socket) -> tuple[int, bytes]:
    header = _exactly(connection, 4)
    return header[3], _exactly(connection, int.from_bytes(header[:3], "little"))


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        received = connection.recv(size - len(data))
        if not received:
            raise EOFError
        data += received
    return data

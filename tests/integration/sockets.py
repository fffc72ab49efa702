"""A server of bare sockets, for answers that no HTTP server gives."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def crowd(serve: Callable[[socket.socket, int], None]) -> Iterator[int]:
    """Serve each connection in a thread of its own, with its number from 0; yields the port."""
    threads: list[threading.Thread] = []
    opened: list[socket.socket] = []

    def run(connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), connection:
            serve(connection, number)

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=run, args=(connection, len(opened))))
            opened.append(connection)
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for connection in opened:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()

"""HTTP/1.1 messages: the bytes of a request, and a strict reader of its answer.

Written by hand because ``http.client`` loads the email package: a fifth of the CPU time of a cold start. A test holds the
reader equal to ``http.client`` for every valid answer. It rejects what RFC 9112 calls ambiguous instead of guessing.
"""

from __future__ import annotations

from ..errors import InvalidResponse
from .retry import NoAnswer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CUT_SHORT = "the connection was closed before the answer was complete"
_MAX_HEAD_BYTES = 1 << 16
_TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # noqa: S105  (RFC 9110, 5.6.2)
_HEX = "0123456789ABCDEFabcdef"
_MAX_DIGITS = 18  # of a length


def request_head(method: str, target: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """Return a request's bytes up to its body, with the body's ``Content-Length``.

    A length among the headers is left out: botocore adds one, and servers reject a request with two.

    Parameters
    ----------
    target
        The path and the query, percent-encoded.

    Raises
    ------
    ValueError
        A part has a character that would end it early. The text does not quote the part.
    """
    if not target.isascii() or not target.isprintable() or " " in target:
        raise ValueError("the request target has a character that is not allowed in HTTP")
    for name, value in headers.items():
        if name.strip(_TOKEN) or not value.isascii() or not value.isprintable():
            raise ValueError("a request header has a character that is not allowed in HTTP")
    length = f"Content-Length: {len(body or b'')}\r\n" if body is not None or method == "POST" else ""
    # One expression: no local of this frame holds a token.
    return "".join(
        [
            f"{method} {target} HTTP/1.1\r\n",
            *[f"{name}: {value}\r\n" for name, value in headers.items() if name.lower() != "content-length"],
            length,
            "\r\n",
        ]
    ).encode("ascii")


class Answer:
    """The head of an answer, read at construction, and then its body.

    Parameters
    ----------
    receive
        Returns the next bytes from the connection, or no bytes after the other side closed it.
    service
        The service's name in errors.

    Attributes
    ----------
    status
        The status code; 100 is skipped.
    headers
        By lower-case name; repeated headers are joined by a comma.
    ends_with_connection
        Whether only the end of the connection marks the end of the body, so that it may be cut short.
    keeps_connection
        Whether the connection can carry another request once the body is read.

    Raises
    ------
    InvalidResponse
        The answer is not valid HTTP/1.1.
    NoAnswer
        The connection was closed within the head.
    ConnectionResetError
        The connection was closed before the first byte.
    """

    __slots__ = (
        "_body",
        "_chunked",
        "_length",
        "_receive",
        "_rest",
        "_service",
        "ends_with_connection",
        "headers",
        "keeps_connection",
        "status",
    )

    def __init__(self, receive: Callable[[], bytes], service: str) -> None:
        self._receive = receive
        self._service = service
        self._rest = bytearray()
        self._body = bytearray()  # of chunks; not a local, because an interruption keeps the frame
        self.status, minor = self._start()
        while self.status == 100:  # Continue: the answer follows
            self.status, minor = self._start()
        headers = self.headers
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if coding is not None and coding.lower() != "chunked":
            raise self._invalid("used a transfer coding that was not requested")
        if length is not None and not (length.isascii() and length.isdigit() and len(length) <= _MAX_DIGITS):
            raise self._invalid("sent an invalid Content-Length")
        self._chunked = coding is not None
        self._length = None if length is None or self._chunked else int(length)
        if self.status in (204, 304) or self.status < 200:
            self._chunked, self._length = False, 0
        self.ends_with_connection = not self._chunked and self._length is None
        options = [option.strip() for option in headers.get("connection", "").lower().split(",")]
        self.keeps_connection = (
            not self.ends_with_connection
            and "close" not in options
            and (minor == "1" or "keep-alive" in options)
            and (coding is None or (length is None and minor == "1"))  # both at once: request smuggling
        )

    def read(self, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises
        ------
        InvalidResponse
            It is larger than ``max_bytes``, or its chunks are invalid.
        NoAnswer
            The connection was closed within the body.
        """
        if self._chunked:
            body = self._chunks(max_bytes)
        elif self._length is None:
            while self._more():
                self._limit(len(self._rest), max_bytes)
            body = self._take(len(self._rest))
        else:
            self._limit(self._length, max_bytes)
            body = self._exactly(self._length)
        if self._rest:  # bytes that nobody asked for: the start of a forged answer to the next request
            self.keeps_connection = False
        return body

    def _start(self) -> tuple[int, str]:
        """Read a status line and its headers; return the status and the minor version."""
        head = self._rest
        while (end := head.find(b"\r\n\r\n")) < 0:
            if len(head) > _MAX_HEAD_BYTES:
                raise self._invalid(f"sent more than {_MAX_HEAD_BYTES} bytes of headers")
            if not self._more():
                if head:
                    raise NoAnswer(CUT_SHORT)
                raise ConnectionResetError("closed before the answer")
        line, *fields = self._take(end + 4)[:-4].decode("latin-1").split("\r\n")
        if not (
            line[:7] == "HTTP/1." and line[7:9] in ("0 ", "1 ") and line[9:12].isdecimal() and line[12:13] in ("", " ")
        ):
            raise self._invalid("does not speak HTTP/1.1")
        self.headers = self._fields(fields)
        return int(line[9:12]), line[7]

    def _fields(self, lines: list[str]) -> dict[str, str]:
        fields: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not (name and colon) or name.strip(_TOKEN) or "\r" in value or "\n" in value or "\0" in value:
                raise self._invalid("sent an invalid header")
            name, value = name.lower(), value.strip(" \t")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return fields

    def _chunks(self, max_bytes: int) -> bytes:
        while True:
            digits = self._line().partition(";")[0].strip(" \t")
            if not digits or digits.strip(_HEX) or len(digits) > _MAX_DIGITS:
                raise self._invalid("sent an invalid chunk")
            size = int(digits, 16)
            if not size:
                break
            self._limit(len(self._body) + size, max_bytes)
            self._body += self._exactly(size)
            if self._line():
                raise self._invalid("sent an invalid chunk")
        trailers = 0
        while line := self._line():
            trailers += len(line)
            if trailers > _MAX_HEAD_BYTES:
                raise self._invalid(f"sent more than {_MAX_HEAD_BYTES} bytes of trailers")
        return bytes(self._body)

    def _line(self) -> str:
        while (end := self._rest.find(b"\n")) < 0:
            if len(self._rest) > _MAX_HEAD_BYTES:
                raise self._invalid("sent an invalid chunk")
            if not self._more():
                raise NoAnswer(CUT_SHORT)
        line = self._take(end + 1).decode("latin-1")
        if not line.endswith("\r\n") or "\r" in line[:-2]:
            raise self._invalid("sent an invalid chunk")
        return line[:-2]

    def _exactly(self, size: int) -> bytes:
        while len(self._rest) < size:
            if not self._more():
                raise NoAnswer(CUT_SHORT)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._rest[:size])
        del self._rest[:size]
        return taken

    def _more(self) -> bool:
        data = self._receive()
        self._rest += data
        return bool(data)

    def _limit(self, size: int, max_bytes: int) -> None:
        if size > max_bytes:
            raise self._invalid(f"returned more than {max_bytes} bytes")

    def _invalid(self, what: str) -> InvalidResponse:
        return InvalidResponse(f"{self._service} {what}. Check its URL, and the proxy or load balancer in front of it.")

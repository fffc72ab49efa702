"""HTTP/1.1 by hand: the same as http.client for every valid answer, and strict where http.client guesses."""

from __future__ import annotations

import http.client
import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cerberus_auth import InvalidResponse
from cerberus_auth.http.message import Answer, request_head
from cerberus_auth.http.retry import NoAnswer

LIMIT = 1 << 20
OK = b"HTTP/1.1 200 OK\r\n"
tokens = st.text("abcXYZ019-_!#", min_size=1, max_size=12)
values = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0\x0b\x0c\x1c\x1d\x1e\x85"), max_size=20)


def receiving(data: bytes, piece: int = 1 << 14) -> Callable[[], bytes]:
    """What a connection gives of these bytes, so many at a time, before the other side closes it."""
    stream = io.BytesIO(data)
    return lambda: stream.read(piece)


def read(data: bytes, piece: int = 1 << 14) -> tuple[Answer, bytes]:
    answer = Answer(receiving(data, piece), "Cerberus")
    return answer, answer.read(LIMIT)


class Socket:
    """As much of a socket as http.client reads from."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def chunked(body: bytes, sizes: list[int], extension: str, trailers: list[tuple[str, str]]) -> bytes:
    encoded = b""
    while body:
        size = sizes.pop() if sizes else len(body)
        encoded += b"%x%s\r\n%s\r\n" % (len(body[:size]), extension.encode(), body[:size])
        body = body[size:]
    return encoded + b"0\r\n" + b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in trailers) + b"\r\n"


@st.composite
def valid_answers(draw: st.DrawFn) -> bytes:
    status = draw(st.integers(200, 599))
    headers = draw(st.lists(st.tuples(tokens, values), max_size=5))
    reserved = {"connection", "content-length", "transfer-encoding"}
    headers = [header for header in headers if header[0].lower() not in reserved]
    headers += draw(st.sampled_from([[], [("Connection", "close")], [("connection", "Keep-Alive")]]))
    is_empty = status in (204, 304)
    body = b"" if is_empty else draw(st.binary(max_size=300))
    framing = draw(st.sampled_from(["length", "end"] if is_empty else ["length", "chunks", "end"]))
    if framing == "length":
        headers.append((draw(st.sampled_from(["Content-Length", "content-length"])), str(len(body))))
    if framing == "chunks":
        headers.append(("Transfer-Encoding", draw(st.sampled_from(["chunked", "Chunked"]))))
    version = "1.1" if framing == "chunks" else draw(st.sampled_from(["1.0", "1.1"]))
    head = f"HTTP/{version} {status}{draw(st.sampled_from([' OK', ' ', '']))}\r\n"
    head += "".join(f"{name}:{draw(st.sampled_from(['', ' ', '  ']))}{value}\r\n" for name, value in headers)
    if framing == "chunks":
        sizes = draw(st.lists(st.integers(1, 64), max_size=8))
        body = chunked(
            body, sizes, draw(st.sampled_from(["", ";a=b"])), draw(st.lists(st.tuples(tokens, values), max_size=2))
        )
    continues = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    return continues + head.encode("latin-1") + b"\r\n" + body


@given(valid_answers(), st.integers(1, 400))
def test_a_valid_answer_is_read_as_http_client_reads_it(data: bytes, piece: int) -> None:
    theirs = http.client.HTTPResponse(Socket(data))  # type: ignore[arg-type]
    theirs.begin()
    length, will_close, is_chunked = theirs.length, theirs.will_close, theirs.chunked
    ours, body = read(data, piece)
    assert ours.status == theirs.status
    assert body == theirs.read()
    assert ours.ends_with_connection == (length is None and not is_chunked)
    assert ours.keeps_connection == (not will_close)
    for name in {name.lower() for name in theirs.headers}:
        values = theirs.headers.get_all(name, [])
        assert ours.headers[name] == ", ".join(value.strip(" \t") for value in values)
    assert len(ours.headers) == len({name.lower() for name in theirs.headers})


@given(valid_answers(), st.data())
def test_a_cut_answer_is_no_answer_unless_only_its_end_told_its_length(data: bytes, draw: st.DataObject) -> None:
    _, body = read(data)
    cut = draw.draw(st.integers(0, max(0, len(data) - 1)))
    try:
        answer, part = read(data[:cut])
    except NoAnswer:
        return
    except ConnectionResetError:
        assert cut == 0 or data[:cut].endswith(b"100 Continue\r\n\r\n")
        return
    assert answer.ends_with_connection or part == body
    assert body.startswith(part)


AMBIGUOUS = {
    "no HTTP": b"SSH-2.0-OpenSSH\r\n\r\n",
    "HTTP/2": b"HTTP/2 200\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status in other digits": "HTTP/1.1 ²00 OK\r\n\r\n".encode("latin-1"),
    "a folded header": OK + b"A: b\r\n c\r\n\r\n",
    "a space before the colon": OK + b"Content-Length : 0\r\n\r\n",
    "a header without a colon": OK + b"Content-Length\r\n\r\n",
    "a header without a name": OK + b": 0\r\n\r\n",
    "a line feed alone": OK + b"A: b\nContent-Length: 0\r\n\r\n",
    "a carriage return alone": OK + b"A: b\rContent-Length: 0\r\n\r\n",
    "a zero byte": OK + b"A: \0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a signed length": OK + b"Content-Length: +1\r\n\r\na",
    "a negative length": OK + b"Content-Length: -1\r\n\r\na",
    "a length in hexadecimal": OK + b"Content-Length: 0x1\r\n\r\na",
    "a length in other digits": OK + "Content-Length: ²\r\n\r\na".encode("latin-1"),
    "a length without end": OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n",
    "another transfer coding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "two transfer codings": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a signed chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n",
    "a chunk with underscores": OK + b"Transfer-Encoding: chunked\r\n\r\n1_0\r\n" + bytes(16) + b"\r\n0\r\n\r\n",
    "a chunk without a size": OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n0\r\n\r\n",
    "a chunk that is longer than its size": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "a chunk with a line feed alone": OK + b"Transfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
    "a head without end": OK + b"A: b\r\n" * 20_000,
    "a chunk line without end": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 70_000,
    "trailers without end": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 20_000,
    "a body over the limit": OK + b"Content-Length: %d\r\n\r\n" % (LIMIT + 1),
    "chunks over the limit": OK + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (LIMIT + 1),
    "a body without end": OK + b"\r\n" + bytes(LIMIT + 1),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_is_ambiguous_or_too_large_is_rejected(name: str) -> None:
    with pytest.raises(InvalidResponse, match=r"^Cerberus (sent|used|does not|returned more)"):
        read(AMBIGUOUS[name])


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 1\r\n\r\nab",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_bytes_after_an_answer_or_two_framings_end_the_connection(data: bytes) -> None:
    assert not read(data)[0].keeps_connection


@pytest.mark.parametrize("framing", [b"Transfer-Encoding: chunked", b"Content-Length: 5"])
def test_an_answer_that_has_no_body_ends_with_its_head(framing: bytes) -> None:
    answer, body = read(b"HTTP/1.1 304 Not Modified\r\n" + framing + b"\r\n\r\n")  # http.client waits for a chunk
    assert (body, answer.keeps_connection) == (b"", True)


def test_an_interrupted_answer_shows_nothing_of_its_body_in_a_frame() -> None:
    pieces = iter([OK + b"Transfer-Encoding: chunked\r\n\r\n8\r\npassword\r\n", b"8\r\npass"])

    def receive() -> bytes:
        try:
            return next(pieces)
        except StopIteration:
            raise KeyboardInterrupt from None

    with pytest.raises(KeyboardInterrupt) as caught:
        Answer(receive, "Cerberus").read(LIMIT)
    shown = [repr(frame.frame.f_locals) for frame in caught.traceback if frame.path.name == "message.py"]  # type: ignore[union-attr]
    assert shown
    assert "pass" not in "".join(shown)


def test_a_request_has_the_length_of_its_body() -> None:
    headers = {"Host": "cerberus.example.com"}
    lines = request_head("POST", "/v2/auth", headers, b"{}").split(b"\r\n")
    assert lines == [b"POST /v2/auth HTTP/1.1", b"Host: cerberus.example.com", b"Content-Length: 2", b"", b""]
    assert b"Content-Length: 0\r\n" in request_head("POST", "/v2/auth", headers, None)
    assert b"Content-Length" not in request_head("GET", "/", headers, None)


@pytest.mark.parametrize("name", ["Content-Length", "content-length"])
def test_a_length_that_botocore_gives_is_not_sent_twice(name: str) -> None:
    assert request_head("POST", "/", {name: "2"}, b"{}").lower().count(b"content-length: 2\r\n") == 1
    assert request_head("POST", "/", {name: "5"}, b"{}").lower().count(b"content-length") == 1


@pytest.mark.parametrize("planted", ["a\r\nX-Injected: 1", "a\nb", "a\0b", "é", "\x7f"])
def test_a_request_carries_no_second_header_and_errors_do_not_quote_it(planted: str) -> None:
    for target, headers in ((f"/{planted}", {}), ("/", {"A": planted}), ("/", {planted: "a"}), ("/a b", {})):
        with pytest.raises(ValueError, match="not allowed in HTTP") as caught:
            request_head("GET", target, headers, None)
        assert planted not in str(caught.value)
        assert type(caught.value) is ValueError

"""The diagrams of the documentation, as SVG: sequences of messages, and boxes with arrows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from .architecture import HEAD, STYLE, box, text

_LINE = 34


class Message(NamedTuple):
    """An arrow from one participant to another. ``is_answer`` draws it dashed."""

    source: str
    target: str
    says: str
    is_answer: bool = False


class Section(NamedTuple):
    """The title of the messages below it."""

    title: str


class Box(NamedTuple):
    """A box by the centre of its upper edge."""

    x: float
    y: float
    name: str
    about: Sequence[str] = ()
    kind: str = "box"
    width: float = 150


class Arrow(NamedTuple):
    """A line through points, and the middle of its text."""

    points: Sequence[tuple[float, float]]
    says: str = ""
    at: tuple[float, float] = (0, 0)


def diagrams() -> dict[str, str]:
    """Draw all of them, by the name of the file."""
    return {
        "authentication.svg": _authentication(),
        "cache.svg": _cache(),
        "circuit-breaker.svg": _circuit_breaker(),
        "rejected-token.svg": _rejected_token(),
        "sharing.svg": _sharing(),
    }


def _authentication() -> str:
    function, cerberus, kms, sts = "Function", "Cerberus", "AWS KMS", "AWS STS"
    return _sequence(
        "KMS and STS authentication",
        {function: 80, cerberus: 410, kms: 570, sts: 690},
        [
            Section("KMS"),
            Message(function, cerberus, "POST /v2/auth/iam-principal: role ARN, region"),
            Message(cerberus, kms, "Encrypt the token"),
            Message(cerberus, function, "auth response (ciphertext)", is_answer=True),
            Message(function, kms, "Decrypt, signed by the execution role"),
            Message(kms, function, "token and lease", is_answer=True),
            Section("STS"),
            Message(function, cerberus, "POST /v2/auth/sts-identity: a signature"),
            Message(cerberus, sts, "GetCallerIdentity, signed"),
            Message(sts, cerberus, "ARN of the signer", is_answer=True),
            Message(cerberus, function, "token and lease", is_answer=True),
        ],
    )


def _sharing() -> str:
    first, table, other, cerberus = "Container A", "Table", "Container B", "Cerberus"
    return _sequence(
        "How two containers share",
        {first: 80, table: 290, other: 500, cerberus: 680},
        [
            Message(first, table, "GetItem"),
            Message(table, first, "nothing", is_answer=True),
            Message(first, table, "PutItem: lock, if free"),
            Message(other, table, "GetItem"),
            Message(table, other, "locked by another", is_answer=True),
            Message(first, cerberus, "authenticate, or read"),
            Message(cerberus, first, "answer", is_answer=True),
            Message(first, table, "PutItem: ciphertext"),
            Message(other, table, "GetItem, after a pause"),
            Message(table, other, "ciphertext, for KMS to decrypt", is_answer=True),
        ],
    )


def _cache() -> str:
    return _boxes(
        "Stages of a value in the cache",
        210,
        [
            Box(100, 80, "fresh", kind="ours", width=120),
            Box(290, 80, "due", kind="ours", width=120),
            Box(480, 80, "overdue", ("secrets only",), kind="aws", width=120),
            Box(670, 80, "gone", width=120),
        ],
        [
            Arrow([(160, 110), (228, 110)]),
            Arrow([(350, 110), (418, 110)]),
            Arrow([(540, 110), (608, 110)]),
            Arrow([(290, 80), (290, 56), (640, 56), (640, 78)], "tokens", (465, 50)),
            Arrow([(290, 140), (290, 172), (100, 172), (100, 142)]),
            Arrow([(480, 140), (480, 172), (100, 172), (100, 142)], "refreshed, or fetched again", (290, 190)),
            Arrow([(670, 140), (670, 172), (100, 172), (100, 142)]),
        ],
    )


def _circuit_breaker() -> str:
    return _boxes(
        "States of the circuit breaker",
        230,
        [
            Box(110, 90, "closed", ("fetches are allowed",), kind="ours"),
            Box(400, 90, "open", ("no request is sent",), kind="aws"),
            Box(650, 90, "trial", ("one flight, one attempt",), width=160),
        ],
        [
            Arrow([(185, 120), (323, 120)], "Cerberus failed", (254, 112)),
            Arrow([(475, 112), (568, 112)], "pause over", (521, 104)),
            Arrow([(570, 132), (477, 132)], "it failed", (523, 148)),
            Arrow([(650, 150), (650, 186), (110, 186), (110, 152)], "Cerberus answered", (380, 204)),
        ],
    )


def _rejected_token() -> str:
    return _boxes(
        "What follows a 401",
        430,
        [
            Box(380, 54, "401 to a read", width=200),
            Box(380, 144, "The cache holds another token", kind="ours", width=280),
            Box(120, 244, "Read again with it", kind="ours", width=180),
            Box(430, 244, "One authentication for all callers", kind="ours", width=260),
            Box(120, 344, "Outage", ("the token stays,", "the circuit breaker opens"), kind="aws", width=190),
            Box(380, 344, "Read again", ("success: the old token", "was invalid"), kind="ours", width=190),
            Box(640, 344, "TokenRefused", ("the 401 concerns", "the path"), width=180),
        ],
        [
            Arrow([(380, 114), (380, 142)]),
            Arrow([(240, 174), (120, 174), (120, 242)], "yes", (180, 166)),
            Arrow([(430, 204), (430, 242)], "no", (446, 226)),
            Arrow([(330, 304), (330, 324), (120, 324), (120, 342)], "out of reach", (222, 318)),
            Arrow([(400, 304), (400, 342)], "new token", (434, 327)),
            Arrow([(520, 304), (520, 324), (640, 324), (640, 342)], "same token as before", (610, 318)),
            Arrow([(475, 374), (548, 374)], "401 again", (512, 366)),
        ],
    )


def _sequence(title: str, at: dict[str, float], steps: Sequence[Message | Section]) -> str:
    height = 118 + _LINE * len(steps)
    drawn = [f'<path class="group" d="M{x} 92 V{height - 16}"/>' for x in at.values()]
    for x, name in zip(at.values(), at, strict=True):
        drawn += box(x - 54, 52, 108, 40, name, (), "box")
    for number, step in enumerate(steps):
        y = 126 + _LINE * number
        if isinstance(step, Section):
            drawn += [f'<path class="rule" d="M24 {y - 8} H736"/>', text(30, y + 7, step.title, "name left")]
        else:
            drawn += _message(at[step.source], at[step.target], y, step)
    return _whole(title, height, drawn)


def _message(source: float, target: float, y: float, message: Message) -> Iterator[str]:
    end = target + (2 if target < source else -2)
    yield f'<polyline class="arrow{" answer" if message.is_answer else ""}" points="{source},{y} {end},{y}"/>'
    yield text((source + target) / 2, y - 6, message.says, "small halo")


def _boxes(title: str, height: int, boxes: Sequence[Box], arrows: Sequence[Arrow]) -> str:
    drawn = []
    for arrow in arrows:
        points = " ".join(f"{x},{y}" for x, y in arrow.points)
        drawn.append(f'<polyline class="arrow" points="{points}"/>')
        if arrow.says:
            drawn.append(text(*arrow.at, arrow.says, "small halo"))
    for each in boxes:
        tall = 60 if len(each.about) < 2 else 70
        drawn += box(each.x - each.width / 2, each.y, each.width, tall, each.name, each.about, each.kind)
    return _whole(title, height, drawn)


def _whole(title: str, height: int, drawn: Sequence[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
            f'viewBox="0 0 760 {height}" role="img" aria-labelledby="title">',
            f'<title id="title">{title}</title><style>{STYLE}</style>',
            HEAD,
            f'<rect class="page" x="0.5" y="0.5" width="759" height="{height - 1}" rx="6"/>',
            text(24, 32, title, "title"),
            *drawn,
            "</svg>",
            "",
        ]
    )

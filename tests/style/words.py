"""Find constructions that we do not write, and say what to write instead.

``python tests/style/words.py docs README.md layer`` reads Markdown (without its code), Python (docstrings, comments and
messages) and YAML (descriptions and comments). It prints ``file:line: found: write this``, and its exit code is 1 if it found
anything. Standard library only.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

MOST_WORDS = 25
SUFFIXES = {".md", ".py", ".yaml", ".yml"}
SKIPPED_FOLDERS = {"__pycache__", "build", ".git"}


class Rule(NamedTuple):
    """A construction that we do not write: what to write instead, and an example of each."""

    pattern: str
    instead: str
    bad: str
    good: str
    messages_only: bool = False


RULES = [
    Rule(r"\blikewise\b", "also", "It likewise reads the table.", "It also reads the table."),
    Rule(
        r"\bwhereupon\b", "a new sentence with 'then'", "It ends, whereupon it restarts.", "It ends. Then it restarts."
    ),
    Rule(
        r"\b(?:where(?:by|in|of|from)|there(?:by|in|of|upon|with)|hereby|whence|hence|henceforth|hitherto|lest|albeit|"
        r"thus far|amid(?:st)?)\b",
        "modern words: 'so', 'from it', 'so that ... not'",
        "Keep it, lest it expires.",
        "Keep it, so that it does not expire.",
    ),
    Rule(r"\bfor want of\b", "because ... is missing", "Skipped for want of auth.", "Skipped because auth failed."),
    Rule(r"\bof no (?:use|avail)\b", "has no effect", "The key is of no use.", "The key has no effect."),
    Rule(r"\bof one's own\b", "your own ...", "A Cerberus of one's own.", "Your own Cerberus."),
    Rule(
        r"\b(?:its|their) fellows\b", "the other containers", "It and its fellows wait.", "The other containers wait."
    ),
    Rule(
        r"(?:^|(?<=[.;:] ))Who(?:ever)?\b(?=[^.?]*\.(?:\s|$))",
        "a subject: 'A container that ...', 'If you ...'",
        "Who finds nothing claims the item.",
        "On a miss, a container claims the item.",
    ),
    Rule(r"\bwhoever\b", "the container that ...", "It helps whoever waits.", "It helps the container that waits."),
    Rule(
        r"\b(?:that|than|whatever|and|but|for|of) who\b(?! is\b)",
        "a subject before 'who', or 'if you ...'",
        "So that who has the layer takes one.",
        "If you have the layer, add one.",
    ),
    Rule(
        r"\bthat of (?:the|a|an|its|their)\b",
        "the noun again",
        "It is that of the start.",
        "It is the start time.",
    ),
    Rule(
        r"\b(?:thundering )?herds?\b", "simultaneous requests", "It avoids a herd.", "It avoids simultaneous requests."
    ),
    Rule(r"\bin (?:the )?clear\b", "not encrypted", "STS answers in clear.", "STS responses are not encrypted."),
    Rule(r"\bbeaten\b", "another container was first", "The beaten one waits.", "The container that was second waits."),
    Rule(r"\banew\b", "again", "It reads the secret anew.", "It reads the secret again."),
    Rule(
        r"\b(?:token|secret|value|lease|entry|item|claim)(?:'s|s') li(?:fe|ves)\b",
        "lease, or the time for which it is valid",
        "The token's life ends.",
        "The token's lease ends.",
    ),
    Rule(
        r"\bby which a (?:function|container|caller)\b",
        "that lets ...",
        "A layer by which a function authenticates.",
        "A layer that lets functions authenticate.",
    ),
    Rule(
        r"\b(?:older|newer|less|more|any|one|it|that) will do\b",
        "is accepted, is enough",
        "An older one will do.",
        "An older one is accepted.",
    ),
    Rule(
        r"\b(?:has|have|had)\b[^.]{0,40}\bswitched (?:off|on)\b|\bswitched off\b",
        "disabled",
        "It has KMS switched off.",
        "KMS is disabled.",
    ),
    Rule(r"\bhand(?:s|ed|ing)? out\b", "return", "Cerberus hands out a token.", "Cerberus returns a token."),
    Rule(
        r"\bone is worth\b|\bworth (?:another|one|a) (?:attempt|try|request)\b",
        "the number or the limit",
        "A 401 is worth one try.",
        "After a 401, it tries once.",
    ),
    Rule(r"\b(?:un)?mend(?:s|ed|ing)?\b", "fix", "Say what mends it.", "Say how to fix it."),
    Rule(r"\b(?:is|are|was) no more\b", "no longer exists", "The server is no more.", "The server no longer exists."),
    Rule(r"\bth(?:e|is|at) very\b", "exactly the", "Add the very ARN.", "Add exactly the ARN."),
    Rule(r"\bin vain\b", "without success", "It asks in vain.", "It asks without success."),
    Rule(
        r"\boneself\b|\bwho one is\b|\b(?:of|for|to|in|with|at|by) one's\b",
        "you, your",
        "It knows who one is.",
        "It knows who you are.",
    ),
    Rule(r"\bserves? on\b", "stays in use", "The cached one serves on.", "The cached one stays in use."),
    Rule(r"\bupon\b", "on", "It depends upon the table.", "It depends on the table."),
    Rule(
        r"\bin mid-\w+|\bin the midst\b",
        "during",
        "Lambda froze it in mid-flight.",
        "Lambda froze it during the request.",
    ),
    Rule(r"\bdue time\b|\bere\b|\bnay\b|\bforthwith\b", "modern words", "Tell it forthwith.", "Tell it immediately."),
    Rule(r"\bmean(?:s)? harm\b|\bto be had\b", "an attacker; available", "Who means harm.", "An attacker."),
    Rule(r"\bof this moment\b", "current", "The password of this moment.", "The current password."),
    Rule(
        r"[\w)`'\"]\?(?=\s|$)",
        "what happened and what to do; a message asks no question",
        "Is CERBERUS_URL the right Cerberus?",
        "Check CERBERUS_URL.",
        messages_only=True,
    ),
]


class Text(NamedTuple):
    """A paragraph, and the line of each of its lines."""

    kind: str
    lines: tuple[tuple[int, str], ...]


class Hit(NamedTuple):
    path: Path
    line: int
    found: str
    instead: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.found!r}: write {self.instead}"


# ---- What people read, by kind of file ------------------------------------------------------------------------------------


def paragraphs(kind: str, lines: Iterable[tuple[int, str]]) -> Iterator[Text]:
    """Split lines at blank lines, at changes of the indentation, and at list items, table cells and headings."""
    current: list[tuple[int, str]] = []
    indentation = -1
    for number, line in lines:
        text = line.strip()
        own = len(line) - len(line.lstrip())
        ends = not text or re.fullmatch(r"[-=~|: ]{3,}", text)
        starts = re.match(r"(?:[-*+]|\d+\.|#+|>|:) ", text) or own < indentation or (current and own > indentation + 1)
        if (ends or starts or text.startswith("|")) and current:
            yield Text(kind, tuple(current))
            current = []
        if ends:
            indentation = -1
        elif text.startswith("|"):
            for cell in re.split(r"(?<!\\)\|", text.strip("|")):
                if cell.strip():
                    yield Text(kind, ((number, cell.strip()),))
        else:
            mark = re.match(r"(?:[-*+]|\d+\.|#+|>|:) +", text)
            indentation = own + (len(mark[0]) if mark else 0)
            current.append((number, text[len(mark[0]) if mark else 0 :]))
            if text.startswith("#"):
                yield Text(kind, tuple(current))
                current = []
    if current:
        yield Text(kind, tuple(current))


def without_code(line: str) -> str:
    """Replace code by one word, and links by their text."""
    line = re.sub(r"``.+?``|`[^`]+`", "code", line)
    line = re.sub(r"!?\[((?:[^][]|\[[^]]*\])*)\]\([^)]*\)", r"\1", line)
    return re.sub(r"<https?:[^>]*>|https?://\S+|\*\*|<!--.*?-->", "", line)


def of_markdown(content: str) -> Iterator[Text]:
    kept: list[tuple[int, str]] = []
    fence = ""
    for number, line in enumerate(content.splitlines(), 1):
        mark = re.match(r" *(`{3,}|~{3,})", line)
        if mark and (not fence or mark[1] == fence):
            fence = "" if fence else mark[1]
            kept.append((number, ""))
        elif fence or line.lstrip().startswith(":::"):
            kept.append((number, ""))
        else:
            kept.append((number, without_code(line)))
    yield from paragraphs("docs", kept)


def of_python(content: str) -> Iterator[Text]:
    tree = ast.parse(content)
    docstrings: set[ast.AST] = set()
    parts: set[ast.AST] = set()
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                docstrings.add(statement.value)
        if isinstance(node, ast.JoinedStr):
            parts.update(node.values)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node in docstrings:
            first, *rest = node.value.splitlines() or [""]
            lines = [
                (node.lineno + offset, "" if line.strip().startswith((">>>", "... ")) else without_code(line))
                for offset, line in enumerate([first.strip(), *textwrap.dedent("\n".join(rest)).splitlines()])
            ]
            yield from paragraphs("docs", lines)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in parts:
            yield from of_message(node.lineno, node.value)
        elif isinstance(node, ast.JoinedStr):
            values = [str(each.value) if isinstance(each, ast.Constant) else "X" for each in node.values]
            yield from of_message(node.lineno, "".join(values))
    comments: list[tuple[int, str]] = []
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(?:noqa|type:|fmt:|pragma|!)", token.string):
            if token.line.lstrip().startswith("#"):
                comments.append((token.start[0], without_code(token.string.lstrip("# "))))
            else:
                yield from paragraphs("docs", [(token.start[0], without_code(token.string.lstrip("# ")))])
        elif token.type not in (tokenize.NL, tokenize.COMMENT) and comments:
            yield from paragraphs("docs", comments)
            comments = []


def of_message(line: int, value: str) -> Iterator[Text]:
    """Yield a string literal if it is a message, and no pattern, path or name."""
    if len(re.findall(r"[A-Za-z]{2,}", value)) >= 3 and " " in value and not re.search(r"\\[bdswSW]|\(\?", value):
        yield Text("message", ((line, without_code(" ".join(value.split()))),))


def of_yaml(content: str) -> Iterator[Text]:
    for number, line in enumerate(content.splitlines(), 1):
        if found := re.match(r"\s*(?:Alarm|Constraint|Group)?Description:\s*(?:!Sub\s+)?(.+)", line):
            yield Text("docs", ((number, without_code(found[1].strip("\"' "))),))
        elif found := re.search(r"(?:^|\s)# (.+)", line):
            yield Text("docs", ((number, without_code(found[1])),))


READERS = {".md": of_markdown, ".py": of_python, ".yaml": of_yaml, ".yml": of_yaml}


# ---- What is wrong with it ------------------------------------------------------------------------------------------------


def hits_in(path: Path, text: Text) -> Iterator[Hit]:
    joined = "\n".join(line for _, line in text.lines)

    def line_at(offset: int) -> int:
        return text.lines[joined.count("\n", 0, offset)][0]

    flat = joined.replace("\n", " ")
    for rule in RULES:
        if rule.messages_only and text.kind != "message":
            continue
        flags = 0 if "Who" in rule.pattern else re.IGNORECASE
        for found in re.finditer(rule.pattern, flat, flags):
            yield Hit(path, line_at(found.start()), found[0].strip(), rule.instead)
    if text.kind == "docs":
        for sentence in re.finditer(r"\S.*?(?:[.!?:](?=[\s)\"']|$)|$)", flat):
            words = re.findall(r"[^\W_][\w'\u2019.,/%:+-]*", re.sub(r"\b(?:e\.g|i\.e)\.", "", sentence[0]))
            if len(words) > MOST_WORDS:
                start = " ".join(sentence[0].split()[:6])
                yield Hit(
                    path, line_at(sentence.start()), f"{start} ...", f"{MOST_WORDS} words at most, not {len(words)}"
                )


def files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            inside = (each for each in sorted(path.rglob("*")) if not SKIPPED_FOLDERS.intersection(each.parts))
            yield from (each for each in inside if each.is_file() and each.suffix in SUFFIXES)
        else:
            yield path


def check(paths: Iterable[Path]) -> list[Hit]:
    """Return everything that was found in files and folders, in the order of their lines."""
    found: list[Hit] = []
    for path in files(paths):
        of_file = [
            hit for text in READERS[path.suffix](path.read_text(encoding="utf-8")) for hit in hits_in(path, text)
        ]
        found += sorted(set(of_file), key=lambda hit: (hit.line, hit.found))
    return found


def main(arguments: list[str]) -> int:
    found = check(map(Path, arguments))
    for hit in found:
        print(hit)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

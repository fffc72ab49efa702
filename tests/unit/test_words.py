"""The word checker: each rule finds what it should, and nothing in what should be written."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from style import words

CHECKER = Path(words.__file__)


def found_in(folder: Path, name: str, content: str) -> list[words.Hit]:
    (folder / name).write_text(content)
    return words.check([folder / name])


@pytest.mark.parametrize("rule", words.RULES, ids=lambda rule: rule.bad)
def test_a_rule_finds_its_example_in_a_message(rule: words.Rule, tmp_path: Path) -> None:
    bad, good = f"raise Failure({rule.bad + ' Do it now.'!r})\n", f"raise Failure({rule.good + ' Do it now.'!r})\n"
    assert rule.instead in [hit.instead for hit in found_in(tmp_path, "bad.py", bad)]
    assert found_in(tmp_path, "good.py", good) == []


@pytest.mark.parametrize("rule", [rule for rule in words.RULES if not rule.messages_only], ids=lambda rule: rule.bad)
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("page.md", "# Title\n\nA line.\n{}\n"),
        ("page.md", "- {}\n"),
        ("page.md", "| a | b |\n| --- | --- |\n| x | {} |\n"),
        ("module.py", '"""Do it.\n\nParameters\n----------\nname : str\n    {}\n"""\n'),
        ("module.py", "# {}\nx = 1\n"),
        ("module.py", "x = 1  # {}\n"),
        ("template.yaml", "Parameters:\n  Url:\n    Description: {}\n"),
        ("template.yaml", "Timeout: 15 # {}\n"),
    ],
)
def test_a_rule_finds_its_example_everywhere(rule: words.Rule, name: str, form: str, tmp_path: Path) -> None:
    assert rule.instead in [hit.instead for hit in found_in(tmp_path, name, form.format(rule.bad))]
    assert found_in(tmp_path, name, form.format(rule.good)) == []


def test_a_hit_names_its_line(tmp_path: Path) -> None:
    (hit,) = found_in(tmp_path, "page.md", "# Title\n\nOne line\nof a paragraph that is for\nwant of a word.\n")
    assert str(hit) == f"{tmp_path}/page.md:4: 'for want of': write because ... is missing"


def test_code_is_not_read(tmp_path: Path) -> None:
    assert (
        found_in(tmp_path, "page.md", "Run `x likewise`.\n\n```text\nlikewise\n```\n\n[A link](likewise.md).\n") == []
    )
    assert found_in(tmp_path, "module.py", '"""Do it.\n\n>>> likewise = 1\n\nUse ``likewise``.\n"""\n') == []


def sentence(count: int) -> str:
    return " ".join(["word"] * count) + "."


@pytest.mark.parametrize(("count", "hits"), [(25, 0), (26, 1)])
def test_a_sentence_has_25_words_at_most(count: int, hits: int, tmp_path: Path) -> None:
    text = sentence(count)
    wrapped = text[:60] + text[60:].replace(" ", "\n    ", 1)
    assert len(found_in(tmp_path, "page.md", f"{text[:60]}{text[60:].replace(' ', chr(10), 1)} {text}\n")) == 2 * hits
    assert len(found_in(tmp_path, "module.py", f'"""Do it.\n\nParameters\n----------\nx\n    {wrapped}\n"""\n')) == hits
    assert len(found_in(tmp_path, "module.py", f'def x():\n    """{wrapped}"""\n')) == hits
    assert len(found_in(tmp_path, "page.md", f"- {text}\n- {text}\n\n| a |\n| --- |\n| {text} |\n")) == 3 * hits


def test_paragraphs_items_and_cells_are_not_one_sentence(tmp_path: Path) -> None:
    half = " ".join(["word"] * 20)
    assert (
        found_in(tmp_path, "page.md", f"# {half}\n{half}\n\n{half}\n- {half}\n- {half}\n\n| {half} | {half} |\n") == []
    )


def test_questions_are_for_pages_only(tmp_path: Path) -> None:
    assert found_in(tmp_path, "page.md", "## Can I use it?\n") == []
    assert found_in(tmp_path, "module.py", 'pattern = r"a? b? c? \\d"\n') == []


def test_the_command_prints_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "good.md").write_text("Good.\n")
    (tmp_path / "bad.md").write_text("Likewise.\n")
    for name, code in (("good.md", 0), ("bad.md", 1), (".", 1)):
        done = subprocess.run([sys.executable, CHECKER, tmp_path / name], capture_output=True, text=True, timeout=30)
        assert done.returncode == code
        assert bool(re.search(r"bad\.md:1: 'Likewise': write also\n", done.stdout)) == bool(code)

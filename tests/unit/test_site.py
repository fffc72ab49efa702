"""What the site gets in place of the repository's files, and what the pages show of this version."""

from __future__ import annotations

from pathlib import Path

import pytest

from documentation import __main__ as site
from documentation import outputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("docs/troubleshooting.md", "guides/logging.md", "guides/logging.md"),
        ("docs/guides/logging.md", "../reference/errors.md#attributes", "../reference/errors.md#attributes"),
        ("docs/guides/logging.md", "#logging", "#logging"),
        ("docs/guides/logging.md", "https://example.com/a", "https://example.com/a"),
        ("docs/guides/logging.md", "../../functions/diagnose/app.py", "../repository/functions/diagnose/app.py"),
        ("docs/guides/logging.md", "../../template.yaml#L10", "../repository/template.yaml"),
        ("docs/how-to/publishing.md", "../../.github/workflows/ci.yml", "../repository/github/workflows/ci.yml"),
        ("docs/guides/logging.md", "../../CHANGELOG.md#020", "../changelog.md#020"),
        ("SECURITY.md", "docs/reference/iam.md", "../reference/iam.md"),
        ("SECURITY.md", "LICENSE", "LICENSE"),
    ],
)
def test_links_lead_to_the_places_on_the_site(page: str, link: str, expected: str) -> None:
    text, _ = site.with_new_links(f"See [it]({link}).", ROOT / page)
    assert text == f"See [it]({expected})."


def test_files_that_pages_link_to_are_on_the_site() -> None:
    _, files = site.with_new_links("[a](../template.yaml) [b](faq.md) [c](../CHANGELOG.md)", ROOT / "docs" / "index.md")
    assert files - {ROOT / "CHANGELOG.md"} == {ROOT / "template.yaml"}
    found = site.collect()
    assert found[Path("changelog.md")].startswith(b"# Changelog\n")
    assert found[Path("repository/functions/diagnose/app.py")] == (ROOT / "functions/diagnose/app.py").read_bytes()


def test_a_reworded_log_line_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "log_lines", lambda: {"Token kept (age … s)": "INFO", "Something else": "WARNING"})
    page = (
        "| level | line | meaning |\n| INFO | `Token is kept (age … s)` | why |\n| INFO | `Zzz` | no |\n\nAnd so on.\n"
    )
    assert outputs.with_log_lines(page) == (
        "| level | line | meaning |\n| INFO | `Token kept (age … s)` | why |\n| WARNING | `Something else` |  |\n\nAnd so on.\n"
    )


def test_a_new_log_line_gets_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        outputs, "log_lines", lambda: {"Token kept (age … s)": "INFO", "Zzz": "ERROR", "Yyy": "WARNING"}
    )
    page = "| INFO | `Token is kept (age … s)` | why |\n"
    rows = ["| INFO | `Token kept (age … s)` | why |", "| WARNING | `Yyy` |  |", "| ERROR | `Zzz` |  |"]
    assert outputs.with_log_lines(page) == "\n".join(rows) + "\n"
    assert outputs.with_log_lines("| a |\n") == "| a |\n"


def test_what_changes_from_run_to_run_does_not_show() -> None:
    shown = "ok      dns                  0 ms  localhost:40311\n"
    assert outputs.stable("ok      dns                  7 ms  localhost:40195\n") == shown
    assert outputs.stable("a" * 64) == "AQJ2example"

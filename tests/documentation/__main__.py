"""Build the documentation site (``make docs``), or serve it while you write (``make docs-serve``).

Pages link to files of the repository outside ``docs``, which a site does not have. So this copies ``docs`` to
``build/docs``, adds those files in the folder ``repository``, and makes ``CHANGELOG.md`` the page of the changelog.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
COPY = ROOT / "build" / "docs"
SITE = ROOT / "build" / "site"
ZENSICAL = ROOT / ".venv-docs" / "bin" / "zensical"
CHANGELOG = ROOT / "CHANGELOG.md"
COLOR = re.compile(r"\x1b\[[0-9;]*m")
WARNING = re.compile(r"^Warning: (.+)\n.*\[ (\S+) \]", re.MULTILINE)  # of the builder: what, and where
LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(?=\))")


def place(path: Path) -> Path:
    """Return the place of a file of the repository on the site, relative to the site's top."""
    if path == CHANGELOG:
        return Path("changelog.md")
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    # The builder leaves out what begins with a dot.
    return Path("repository", *[part.lstrip(".") for part in path.relative_to(ROOT).parts])


def with_new_links(text: str, source: Path) -> tuple[str, set[Path]]:
    """Rewrite the links of a page to the places of their files on the site.

    Parameters
    ----------
    text
        The page.
    source
        Its file in the repository.

    Returns
    -------
    tuple
        The page with its new links, and the files outside ``docs`` that it links to.
    """
    files: set[Path] = set()

    def rewrite(link: re.Match[str]) -> str:
        target = (source.parent / link[2]).resolve()
        if not target.is_relative_to(ROOT) or not target.is_file():
            return link[0]  # the builder warns of it
        if not target.is_relative_to(DOCS):
            files.add(target)
        anchor = (link[3] or "") if target.suffix == ".md" else ""
        return link[1] + os.path.relpath(place(target), place(source).parent) + anchor

    return LINK.sub(rewrite, text), files


def collect() -> dict[Path, bytes]:
    """Return the content of each file of ``build/docs``, by its path there."""
    found: dict[Path, bytes] = {}
    waiting = {path for path in DOCS.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    waiting.discard(DOCS / place(CHANGELOG))  # a link, for readers of the repository
    waiting.add(CHANGELOG)
    while waiting:
        source = waiting.pop()
        content = source.read_bytes()
        if source.suffix == ".md":
            text, files = with_new_links(content.decode(), source)
            content = text.encode()
            waiting |= {file for file in files if place(file) not in found}
        found[place(source)] = content
    return found


def prepare() -> None:
    """Write ``build/docs``. An unchanged file is not written, so that the server does not rebuild its page."""
    wanted = collect()
    for path in [path for path in COPY.rglob("*") if path.is_file() and path.relative_to(COPY) not in wanted]:
        path.unlink()
    for name, content in wanted.items():
        path = COPY / name
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def build() -> int:
    """Build the site, and return the exit code: 1 for a warning, such as a link that leads nowhere."""
    shutil.rmtree(SITE, ignore_errors=True)
    done = subprocess.run(
        [ZENSICAL, "build", "--strict", "--clean"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = COLOR.sub("", done.stdout)
    warnings = WARNING.findall(output)
    for what, where in warnings:
        print(f"docs/{where}: {what}", file=sys.stderr)
    if done.returncode and not warnings:
        print(output, file=sys.stderr)
    if not done.returncode:
        print(f"Built {SITE.relative_to(ROOT)}/index.html")
    return done.returncode


def serve() -> int:
    """Serve the site until Ctrl+C, and copy what changed every second."""
    with subprocess.Popen([ZENSICAL, "serve"], cwd=ROOT) as server:
        try:
            while server.poll() is None:
                time.sleep(1)
                prepare()
        except KeyboardInterrupt:
            server.terminate()
        return server.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--serve", action="store_true", help="serve it, and rebuild each page that changes")
    arguments = parser.parse_args()
    prepare()
    sys.exit(serve() if arguments.serve else build())

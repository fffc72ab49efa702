"""The package's modules that keep values, loaded anew for one test: with clocks of its own, and perhaps one edit."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

import pytest

import cerberus_auth

FOLDER = Path(cerberus_auth.__file__).parent
NAMES = ("deadline", "caching.kept", "caching.flight", "caching.breaker", "caching.cache", "auth")
"""Each after those that it imports."""

Edit = tuple[str, str, str]
"""A module's name without its room, a part of its text, and what takes its place."""


@functools.cache
def _code(name: str, old: str = "", new: str = "") -> CodeType:
    path = FOLDER / f"{name.replace('.', '/')}.py"
    source = path.read_text()
    assert not old or source.count(old) == 1, f"not once in {name}: {old}"
    return compile(source.replace(old, new) if old else source, f"edited {path.name}" if old else str(path), "exec")


def load(edit: Edit | None = None) -> Any:
    """Return the modules by their last names. The errors are those of everybody."""
    loaded: dict[str, ModuleType] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            short = name.rpartition(".")[2]
            module = ModuleType(f"cerberus_auth.{name}")
            module.__package__ = module.__name__.rpartition(".")[0]
            patch.setitem(sys.modules, module.__name__, module)
            exec(_code(name, *edit[1:]) if edit and edit[0] == short else _code(name), module.__dict__)  # noqa: S102
            loaded[short] = module
    return SimpleNamespace(**loaded)

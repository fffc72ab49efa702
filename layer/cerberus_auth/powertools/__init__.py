"""Powertools for AWS Lambda: a parameters provider, and a middleware with metrics, traces and logs.

Never imported by the rest of the package. Needs Powertools 3, of its own layer or of the extra ``powertools``. The names below
load on first use: the provider brings boto3 along, which nobody needs for the middleware.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .middleware import STEP_METRICS, CerberusMiddleware
    from .parameters import CerberusProvider

__all__ = ["STEP_METRICS", "CerberusMiddleware", "CerberusProvider"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(".parameters" if name == "CerberusProvider" else ".middleware", __name__)
    value: object = getattr(module, name)
    globals()[name] = value
    return value

"""The integration with Powertools for AWS Lambda: a middleware with metrics, traces and logs, and a parameters provider.

It requires Powertools 3, from a layer or from the extra ``powertools``. Each name loads its module at first use: the provider
loads boto3, which the middleware does not need.
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

"""Authenticate to Cerberus from AWS Lambda as the function's execution role, and read secrets.

Each name loads its module at first use, so ``import cerberus_auth`` takes less than 1 ms.

Examples
--------
>>> from cerberus_auth import CerberusClient
>>> cerberus = CerberusClient()  # at module scope: reads the environment
>>> cerberus.read("app/orders/db")  # doctest: +SKIP
<Secret {'username': ***, 'password': ***}>
"""

from ._version import __version__

TYPE_CHECKING = False  # importing typing takes time, and the runtime client does not load it
if TYPE_CHECKING:
    from .auth import CerberusAuth
    from .client import CerberusClient, Secret
    from .errors import (
        AccessDenied,
        AuthenticationFailed,
        BlockedAtEdge,
        CerberusError,
        CerberusUnavailable,
        ConfigurationError,
        DeadlineExceeded,
        DecryptionDenied,
        InvalidResponse,
        MethodNotOffered,
        PrincipalRejected,
        SecretNotFound,
        TokenRefused,
    )
    from .settings import Settings

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "BlockedAtEdge",
    "CerberusAuth",
    "CerberusClient",
    "CerberusError",
    "CerberusUnavailable",
    "ConfigurationError",
    "DeadlineExceeded",
    "DecryptionDenied",
    "InvalidResponse",
    "MethodNotOffered",
    "PrincipalRejected",
    "Secret",
    "SecretNotFound",
    "Settings",
    "TokenRefused",
    "__version__",
]

_MODULES = {"CerberusAuth": "auth", "CerberusClient": "client", "Secret": "client", "Settings": "settings"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f".{_MODULES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))

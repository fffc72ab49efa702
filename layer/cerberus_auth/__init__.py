"""Authenticate to Cerberus from AWS Lambda as the function's execution role.

The names below load on first use, so that ``import cerberus_auth`` costs next to nothing.
"""

from ._version import __version__

TYPE_CHECKING = False  # typing's own constant costs the import of typing, which the runtime client has not loaded
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

"""What can go wrong, as a caller sees it.

No error holds a token, a ciphertext, a plaintext, a credential or a signature, and none repeats the text of a service's
answer, which could echo one: services are quoted by their error codes only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self, TypeVar

    T = TypeVar("T")


class CerberusError(Exception):
    """Base of every error of this package. Two errors are equal when they are of one class and say the same."""

    step = ""  # of an authentication: where it failed

    def fresh(self) -> Self:
        """An equal error without traceback, cause or context, for another caller to raise."""
        error = type(self)(*self.args)
        error.step = self.step
        return error

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.args == self.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class ConfigurationError(CerberusError):
    """The settings, or the AWS credentials of the environment, cannot work. Lists every problem found at once."""


class PrincipalRejected(CerberusError):
    """Cerberus refuses the principal, the region or the signature (400, 401 or 403 of an auth request)."""

    regional = False  # whether another region may be taken


class MethodNotOffered(CerberusError):
    """The service has this way of authenticating switched off (404 of an auth request)."""


class DecryptionDenied(CerberusError):
    """KMS refuses to decrypt the auth response. Says whose policy or which region is to be mended, and how."""


class InvalidResponse(CerberusError):
    """A service answered something other than its contract says. Nothing of the answer was used."""


class CerberusUnavailable(CerberusError):
    """A service is overloaded, failing or out of reach (429, 5xx, network, TLS, timeouts), after the attempts allowed."""


class DeadlineExceeded(CerberusError):
    """The caller's time is up."""


class RenewedElsewhere(CerberusError):
    """Another container of the fleet is renewing the token. Never raised to users: only who holds a token is told."""


class TokenRefused(CerberusError):
    """Cerberus refuses (401) a token that it has only just given."""


class AccessDenied(CerberusError):
    """The token is good, but its principal may not read that path (403)."""


class SecretNotFound(CerberusError):
    """Nothing is stored under that path (404)."""


class Attempt:
    """One failed try to authenticate: with which principal, where, how, at which step, and why not."""

    __slots__ = ("error", "method", "principal", "region", "step")

    def __init__(self, principal: str, region: str, method: str, step: str, error: CerberusError) -> None:
        self.principal = principal
        self.region = region
        self.method = method
        self.step = step
        self.error = error.fresh()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attempt) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __repr__(self) -> str:
        return f"<Attempt {self}>"

    def __str__(self) -> str:
        where = f"{self.principal} in {self.region}" if self.principal else self.region
        return f"{where}, {self.method}, {self.step}: {type(self.error).__name__}: {self.error}"


class AuthenticationFailed(CerberusError):
    """Several ways to authenticate were tried and none worked; ``attempts`` lists them in order."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        self.attempts = tuple(attempts)
        super().__init__(self.attempts)

    def __str__(self) -> str:
        lines = "".join(f"\n  {number}. {attempt}" for number, attempt in enumerate(self.attempts, 1))
        return f"no way of authenticating to Cerberus worked; tried:{lines}"


def shielded(call: Callable[[], T]) -> T:
    """Call, and let an error out without the frames it came through: their locals hold tokens and ciphertexts.

    Raises
    ------
    CerberusError
        An equal of the error raised, with this frame as the first of its traceback, no cause and no context.
    """
    try:
        return call()
    except CerberusError as error:
        failure = error.fresh()
    del call
    raise failure

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
    """Base of every error of this package. Two errors are equal if they have the same class and text.

    Attributes
    ----------
    step
        The step of an authentication that failed, such as ``kms:Decrypt``. Empty for other errors.
    attempts
        The failed attempts to authenticate, in order. Empty for other errors.
    """

    step = ""
    attempts: tuple[Attempt, ...] = ()
    status = 0  # what the service answered, where that was an error of its own
    retry_after = 0.0  # seconds after which the service wants the next request
    is_fleetwide = False  # other containers of the role have the same trouble with other paths
    regional = False  # the region caused it: another region may work
    unknown_region = False  # Cerberus does not know the region
    credentials_refused = False  # AWS refused the credentials: new ones may work

    def fresh(self) -> Self:
        """Return an equal error without traceback, cause or context, for another caller to raise."""
        error = type(self)(*self.args)
        vars(error).update(vars(self))
        return error

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.args == self.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class ConfigurationError(CerberusError):
    """The settings, or the AWS credentials of the environment, cannot work. Lists every problem found at once."""


class PrincipalRejected(CerberusError):
    """Cerberus refuses the principal, the region or the signature (400, 401 or 403 with its own error body)."""


class BlockedAtEdge(CerberusError):
    """A firewall in front of Cerberus rejects the request (403 or 429 without Cerberus' own error body)."""


class MethodNotOffered(CerberusError):
    """The authentication method is disabled in Cerberus (404 of an auth request, in JSON or empty)."""


class DecryptionDenied(CerberusError):
    """KMS refuses to decrypt the auth response. The text names the policy or the region to change."""


class InvalidResponse(CerberusError):
    """An answer of Cerberus or AWS is not as in the contract. Nothing of the answer was used."""


class CerberusUnavailable(CerberusError):
    """A service is overloaded, failing or out of reach, after the attempts allowed.

    That is 429, 5xx, a redirect or a page of something in front of Cerberus, network, TLS and timeouts.

    Parameters
    ----------
    status
        What the service answered; 0 if it did not answer.
    retry_after
        Seconds after which the service wants the next request, at most 60; 0 if it named none.
    """

    def __init__(self, *args: object, status: int = 0, retry_after: float = 0) -> None:
        super().__init__(*args)
        self.status = status
        self.retry_after = retry_after


class DeadlineExceeded(CerberusError):
    """The caller's time is up."""


class TokenRefused(CerberusError):
    """Cerberus refuses (401) a token that it has only just given."""


class AccessDenied(CerberusError):
    """The token is good, but its principal may not read that path (403)."""


class SecretNotFound(CerberusError):
    """Nothing is stored under that path (404)."""


class Attempt:
    """One failed attempt to authenticate: the principal, region and method, the step that failed, and its error."""

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
    """Several attempts to authenticate failed, in different ways. ``attempts`` lists them in order."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        self.attempts = tuple(attempts)
        super().__init__(self.attempts)

    def __str__(self) -> str:
        return _listed(self.attempts)


def failure_of(attempts: Iterable[Attempt]) -> CerberusError:
    """Return the error for failed attempts: of their class if all have one class, else ``AuthenticationFailed``."""
    attempts = tuple(attempts)
    last = attempts[-1].error
    error: CerberusError
    if any(type(attempt.error) is not type(last) for attempt in attempts):
        error = AuthenticationFailed(attempts)
        error.step = last.step
    else:
        error = last.fresh()
        if len(attempts) > 1:
            error.args = (_listed(attempts),)
        error.attempts = attempts
    return error


def _listed(attempts: Iterable[Attempt]) -> str:
    lines = "".join(f"\n  {number}. {attempt}" for number, attempt in enumerate(attempts, 1))
    return f"Every attempt to authenticate to Cerberus failed:{lines}"


_CERBERUS_STEPS = ("auth request", "read")  # in which Cerberus itself is asked
_EDGE_SECONDS = 60.0  # a firewall blocks addresses that ask too often: to ask on prolongs the block


def is_outage(error: CerberusError) -> bool:
    """Tell whether an error says that Cerberus is out of reach, and nothing of one principal or one path."""
    if error.attempts:
        return any(is_outage(attempt.error) for attempt in error.attempts)
    return error.step in _CERBERUS_STEPS and isinstance(error, CerberusUnavailable | BlockedAtEdge | DeadlineExceeded)


def minimum_pause(error: CerberusError) -> float:
    """Return the seconds that Cerberus, or a firewall in front of it, wants to be left alone; 0 if it did not say."""
    errors = [attempt.error for attempt in error.attempts] or [error]
    if any(isinstance(each, BlockedAtEdge) for each in errors):
        return _EDGE_SECONDS
    return max(each.retry_after for each in errors)


def without_frames(call: Callable[[], T]) -> T:
    """Call, and let an error out without the frames that it came through: their locals can hold secrets.

    Raises
    ------
    CerberusError
        An equal of the error raised, without cause and context.
    """
    try:
        return call()
    except CerberusError as error:
        failure = error.fresh()
    del call
    raise failure

"""The errors that this package raises.

No error holds a token, ciphertext, plaintext, credential or signature. A service's response can contain one of these, so errors
quote only its error code.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self, TypeVar

    T = TypeVar("T")


class CerberusError(Exception):
    """Base class of all errors of this package.

    Two errors are equal if they have the same class and text.

    Attributes
    ----------
    step : str
        The step that failed, such as ``kms:Decrypt``. Empty if the error belongs to no step.
    attempts : tuple of Attempt
        The failed attempts to authenticate, in order. Empty for other errors.
    status : int
        The HTTP status that the service returned. 0 if it did not respond or the status is not relevant.
    retry_after : float
        Seconds to wait before the next request, as the service asked. 0 if it did not ask.
    """

    step = ""
    attempts: tuple[Attempt, ...] = ()
    status = 0
    retry_after = 0.0
    other_paths_fail = False  # reads of other paths fail too, in other containers of the role
    regional = False  # the region caused the error: another region can work
    unknown_region = False  # Cerberus does not know the region
    credentials_refused = False  # AWS rejected the credentials: new credentials can work

    def fresh(self) -> Self:
        """Return an equal error without traceback, cause and context, so that another caller can raise it."""
        error = type(self)(*self.args)
        vars(error).update(vars(self))
        return error

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.args == self.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class ConfigurationError(CerberusError):
    """The settings, the AWS credentials or the path are not valid. The text lists all problems."""


class PrincipalRejected(CerberusError):
    """Cerberus rejected the principal, the region or the signature: 400, 401 or 403 with the error body of Cerberus."""


class BlockedAtEdge(CerberusError):
    """A firewall in front of Cerberus blocked the request: 403 or 429 without the error body of Cerberus."""


class MethodNotOffered(CerberusError):
    """Cerberus does not offer the authentication method: 404 for an auth request, in JSON or empty."""


class DecryptionDenied(CerberusError):
    """KMS refused to decrypt the auth response. The text names the policy or the region to change."""


class InvalidResponse(CerberusError):
    """A response of Cerberus or AWS does not have the documented form. The package does not use any part of it."""


class CerberusUnavailable(CerberusError):
    """A service did not return a usable response within the allowed number of attempts.

    Causes are 429, 5xx, a network or TLS error, a timeout, and a redirect or page of a proxy in front of Cerberus.

    Parameters
    ----------
    status : int
        The HTTP status that the service returned. 0 if it did not respond.
    retry_after : float
        Seconds to wait before the next request, at most 60. 0 if the service did not ask for a wait.
    """

    def __init__(self, *args: object, status: int = 0, retry_after: float = 0) -> None:
        super().__init__(*args)
        self.status = status
        self.retry_after = retry_after


class DeadlineExceeded(CerberusError):
    """The timeout of the caller is over."""


class TokenRefused(CerberusError):
    """Cerberus rejected a new token (401)."""


class AccessDenied(CerberusError):
    """The principal has no permission for the path (403)."""


class SecretNotFound(CerberusError):
    """Cerberus stores nothing under the path (404)."""


class Attempt:
    """Describe one failed attempt to authenticate.

    Parameters
    ----------
    principal : str
        The ARN of the principal. Empty if it is not known.
    region : str
        The AWS region of the attempt.
    method : str
        ``kms`` or ``sts``.
    step : str
        The step that failed, such as ``auth request``.
    error : CerberusError
        The error of that step. The attempt keeps a copy without traceback.
    """

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
    """All attempts to authenticate failed, with errors of different classes. ``attempts`` lists them in order."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        self.attempts = tuple(attempts)
        super().__init__(self.attempts)

    def __str__(self) -> str:
        return _listed(self.attempts)


def combined_error(attempts: Iterable[Attempt]) -> CerberusError:
    """Return one error for several failed attempts.

    Parameters
    ----------
    attempts : iterable of Attempt
        At least one failed attempt.

    Returns
    -------
    CerberusError
        An error of the attempts' class if all have the same one, else ``AuthenticationFailed``.
    """
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
    return f"All attempts to authenticate to Cerberus failed:{lines}"


_CERBERUS_STEPS = ("auth request", "read")  # the steps that send requests to Cerberus
_EDGE_SECONDS = 60.0  # a firewall blocks addresses that send too many requests: more requests prolong the block


def is_outage(error: CerberusError) -> bool:
    """Return whether the error means that Cerberus is out of reach, and not that one principal or path failed."""
    if error.attempts:
        return any(is_outage(attempt.error) for attempt in error.attempts)
    return error.step in _CERBERUS_STEPS and isinstance(error, CerberusUnavailable | BlockedAtEdge | DeadlineExceeded)


def is_temporary(error: CerberusError) -> bool:
    """Return whether a later call can succeed without a correction: a service, or the network to it, caused the error."""
    if error.attempts:
        return any(is_temporary(attempt.error) for attempt in error.attempts)
    return isinstance(error, CerberusUnavailable | BlockedAtEdge | DeadlineExceeded)


def requested_pause(error: CerberusError) -> float:
    """Return the seconds that Cerberus, or the firewall in front of it, asked clients to wait. 0 if neither did."""
    errors = [attempt.error for attempt in error.attempts] or [error]
    if any(isinstance(each, BlockedAtEdge) for each in errors):
        return _EDGE_SECONDS
    return max(each.retry_after for each in errors)


def without_inner_frames(call: Callable[[], T]) -> T:
    """Call a function, and remove its frames from the traceback of an error: their locals can hold secrets.

    Parameters
    ----------
    call : callable
        A function without arguments.

    Returns
    -------
    object
        The result of ``call``.

    Raises
    ------
    CerberusError
        An error equal to the one that ``call`` raised, without cause and context.
    """
    try:
        return call()
    except CerberusError as error:
        failure = error.fresh()
    del call
    raise failure

"""The way from nothing to a token: every principal, in every region, by every method, until one works."""

from __future__ import annotations

from .errors import (
    Attempt,
    AuthenticationFailed,
    CerberusError,
    CerberusUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    DecryptionDenied,
    MethodNotOffered,
    PrincipalRejected,
    TokenRefused,
)
from .principal import candidates

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping
    from typing import Protocol

    from .aws import Aws
    from .clock import Deadline
    from .settings import Settings
    from .token import Token

    class AuthMethod(Protocol):
        """A way of authenticating that Cerberus offers."""

        @property
        def name(self) -> str:
            """As ``CERBERUS_AUTH_METHOD`` spells it."""

        def authenticate(self, principal: str, region: str, deadline: Deadline, *, last: bool = True) -> Token:
            """One authentication of one principal in one region; ``last``: no other region remains to be tried."""


_SKIP_SECONDS = (
    5400  # longer than the default lease: the renewal after a failure goes straight to the region that worked
)
_REJECTIONS = (PrincipalRejected, MethodNotOffered, DecryptionDenied)  # what another principal or method may mend


class Sequence:
    """Tries until the first success, and begins with that the next time."""

    def __init__(self, settings: Settings, aws: Aws, methods: Iterable[AuthMethod]) -> None:
        self._settings = settings
        self._aws = aws
        self._methods = tuple(methods)
        self._winner: tuple[AuthMethod, str] | None = None
        self._skipped: MutableMapping[str, bool] = {}  # regions that failed where another worked

    def authenticate(self, deadline: Deadline, refused: str | None = None) -> Token:
        """Authenticate.

        Parameters
        ----------
        refused
            A token that Cerberus has refused. The service can hand it out again from its cache; that is a failure.

        Raises
        ------
        CerberusError
            The error of the only attempt, ``AuthenticationFailed``, which lists several, or ``DeadlineExceeded``.
        """
        failed: list[Attempt] = []
        try:
            token = self._authenticate(deadline, refused, failed)
        except DeadlineExceeded as error:
            if not failed:
                raise
            raise DeadlineExceeded(f"{error}; before that:{''.join(f' {attempt};' for attempt in failed)}") from None
        if token is not None:
            return token
        if len(failed) == 1:
            raise failed[0].error
        raise AuthenticationFailed(failed)

    def _authenticate(self, deadline: Deadline, refused: str | None, failed: list[Attempt]) -> Token | None:
        tried = self._winner
        if tried is not None:
            token = self._in_each_region(*tried, deadline, refused, failed)
            if token is not None or not any(isinstance(attempt.error, _REJECTIONS) for attempt in failed):
                return token
            self._winner = None
        for method in self._methods:
            offered = True
            for principal in candidates(self._settings, self._aws, deadline, failed) if method.name == "kms" else [""]:
                if (method, principal) == tried:
                    continue
                token = self._in_each_region(method, principal, deadline, refused, failed)
                if token is not None:
                    self._winner = (method, principal)
                    return token
                offered = not isinstance(failed[-1].error, MethodNotOffered)
                if not offered:
                    break
            if offered and failed and not isinstance(failed[-1].error, MethodNotOffered):
                break
        return None

    def _in_each_region(
        self, method: AuthMethod, principal: str, deadline: Deadline, refused: str | None, failed: list[Attempt]
    ) -> Token | None:
        regions = sorted(self._settings.regions, key=lambda region: region in self._skipped)
        ailing: list[str] = []
        for left, region in zip(range(len(regions) - 1, -1, -1), regions, strict=True):
            share = deadline if left == 0 else deadline.within(deadline.remaining() / 2)
            try:
                token = method.authenticate(principal, region, share, last=left == 0)
                if token.value != refused:
                    self._skip(ailing)
                    return token
                del token
                error: CerberusError = TokenRefused(
                    "Cerberus hands out again the token that it has refused (it caches its answers): try again in some seconds"
                )
                error.step = "auth request"
            except CerberusError as failure:
                error = failure
            if isinstance(error, DeadlineExceeded):
                if deadline.remaining() <= 0:
                    raise error
                step, error = (
                    error.step,
                    CerberusUnavailable(f"no answer within this region's share, {share.seconds:.3g} s"),
                )
                error.step = step
            failed.append(Attempt(principal, region, method.name, error.step, error))
            if isinstance(error, MethodNotOffered | ConfigurationError):
                break  # no region changes that
            if isinstance(error, CerberusUnavailable | DecryptionDenied):
                ailing.append(region)
        return None

    def _skip(self, regions: list[str]) -> None:
        if regions:
            from cachetools import TTLCache  # 2 ms, on this path only

            if not self._skipped:
                self._skipped = TTLCache(maxsize=32, ttl=_SKIP_SECONDS)
            self._skipped.update(dict.fromkeys(regions, True))

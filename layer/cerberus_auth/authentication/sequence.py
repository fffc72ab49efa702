"""The way from nothing to a token: every principal, in every region, by every method, until one works.

*Methods*: KMS; where the service has that switched off (404) STS, and only after both the older KMS path, so that services of
today are asked no question too many. *Principals* in order, for each of them the *regions*: those that failed where another
worked go last for a while. What worked is kept for the container, and so is which methods are switched off.
"""

from __future__ import annotations

import time
from itertools import tee

from ..errors import (
    Attempt,
    AuthenticationFailed,
    CerberusError,
    CerberusUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    DecryptionDenied,
    MethodNotOffered,
    PrincipalRejected,
    RenewedElsewhere,
    TokenRefused,
)
from .principal import candidates
from .token import ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Protocol

    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..settings import Settings
    from .token import Token, Wanted

    class AuthMethod(Protocol):
        """A way of authenticating that Cerberus offers."""

        @property
        def name(self) -> str:
            """As errors spell it."""

        @property
        def setting(self) -> str:
            """As ``CERBERUS_AUTH_METHOD`` spells it."""

        def authenticate(
            self, principal: str, region: str, deadline: Deadline, wanted: Wanted = ANY, *, last: bool = True
        ) -> Token:
            """One authentication of one principal in one region; ``last``: no other region remains to be tried."""


_SKIP_LEASES = 1.5  # more than one: the renewal after a failure goes straight to the region that worked
_MIN_SKIP_SECONDS = 300.0
# What another principal or method may mend.
_REJECTIONS = (PrincipalRejected, MethodNotOffered, DecryptionDenied, TokenRefused)


class Sequence:
    """Tries until the first success, and begins with that the next time."""

    def __init__(self, settings: Settings, aws: Aws, methods: Iterable[AuthMethod]) -> None:
        self._settings = settings
        self._aws = aws
        self._methods = tuple(methods)
        self._winner: tuple[AuthMethod, str] | None = None
        self._switched_off: set[AuthMethod] = set()
        self._skipped: dict[str, tuple[float, float]] = {}  # regions that failed where another worked: until when

    def authenticate(self, deadline: Deadline, wanted: Wanted = ANY) -> Token:
        """Authenticate.

        Parameters
        ----------
        wanted
            What for. The service can hand out a refused token again from its cache; that is a failure.

        Raises
        ------
        RenewedElsewhere
            Another container is doing so, and the token held serves for a while.
        CerberusError
            The error of the only attempt, ``AuthenticationFailed``, which lists several, or ``DeadlineExceeded``.
        """
        failed: list[Attempt] = []
        try:
            token = self._authenticate(deadline, wanted, failed)
        except DeadlineExceeded as error:
            if not failed:
                raise
            raise DeadlineExceeded(f"{error}; before that:{''.join(f' {attempt};' for attempt in failed)}") from None
        if token is not None:
            return token
        if len(failed) == 1:
            raise failed[0].error
        raise AuthenticationFailed(failed)

    def _authenticate(self, deadline: Deadline, wanted: Wanted, failed: list[Attempt]) -> Token | None:
        tried = self._winner
        if tried is not None:
            token = self._in_each_region(*tried, deadline, wanted, failed)
            if token is not None or not any(isinstance(attempt.error, _REJECTIONS) for attempt in failed):
                return token
            self._winner = None
            self._switched_off.clear()
        lost = failed[-1].error if failed else None
        repeats = ""  # the setting of a method that hands out the refused token again
        found: Iterator[str] = candidates(self._settings, self._aws, deadline, failed)
        for method in sorted(self._methods, key=self._switched_off.__contains__):
            if method.setting == repeats:
                continue
            principals: Iterable[str] = [""]
            if method.setting == "kms":
                found, principals = tee(found)  # looked for once
            error: CerberusError | None = None
            for principal in principals:
                if (method, principal) == tried:
                    error = lost
                else:
                    token = self._in_each_region(method, principal, deadline, wanted, failed)
                    if token is not None:
                        self._winner = (method, principal)
                        return token
                    error = failed[-1].error
                if isinstance(error, MethodNotOffered | TokenRefused):
                    break
            if isinstance(error, MethodNotOffered):
                self._switched_off.add(method)
            elif isinstance(error, TokenRefused):
                repeats = method.setting
            elif error is not None:  # else there was nobody to offer: STS needs no name
                break
        return None

    def _in_each_region(
        self, method: AuthMethod, principal: str, deadline: Deadline, wanted: Wanted, failed: list[Attempt]
    ) -> Token | None:
        regions = sorted(self._settings.regions, key=self._is_skipped)
        ailing: list[str] = []
        for left, region in zip(range(len(regions) - 1, -1, -1), regions, strict=True):
            share = deadline if left == 0 else deadline.within(deadline.remaining() / 2)
            try:
                token = method.authenticate(principal, region, share, wanted, last=left == 0)
                if token.value != wanted.refused:
                    self._skip(ailing, token)
                    return token
                del token
                error: CerberusError = TokenRefused(
                    "Cerberus hands out again the token that it has refused (it caches its answers): try again in some seconds"
                )
                error.step = "auth request"
            except RenewedElsewhere:
                raise
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
            if isinstance(error, MethodNotOffered | ConfigurationError) or (
                isinstance(error, PrincipalRejected) and not error.regional
            ):
                break  # no region changes that
            if isinstance(error, CerberusUnavailable | DecryptionDenied):
                ailing.append(region)
        return None

    def _is_skipped(self, region: str) -> bool:
        ends = self._skipped.get(region)  # by both clocks, as with a token: a frozen container stops one of them
        return ends is not None and time.monotonic() < ends[0] and time.time() < ends[1]

    def _skip(self, regions: list[str], token: Token) -> None:
        self._skipped.pop(token.region, None)
        seconds = max(_MIN_SKIP_SECONDS, _SKIP_LEASES * token.lease_seconds)
        for region in regions:
            self._skipped[region] = (time.monotonic() + seconds, time.time() + seconds)

"""From nothing to a token: every principal, in every region, by every method, until one works.

*Methods*: KMS; where the service has it disabled (404), does not know the region, or no principal is known, STS; and only after
both the older KMS path, so that a current service gets no request too many. *Principals* in order, for each of them the
*regions*: a region that failed where another worked goes last for a while. What worked is remembered for the container, and so
is which methods do not.
"""

from __future__ import annotations

import threading
from itertools import tee

from ..deadline import Moment
from ..errors import (
    Attempt,
    BlockedAtEdge,
    CerberusError,
    CerberusUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    DecryptionDenied,
    MethodNotOffered,
    PrincipalRejected,
    TokenRefused,
    combined_error,
)
from .principal import candidates, unanswered
from .token import ANY
from .wire import waited_out

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Protocol

    from cachetools import TTLCache

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
            """Authenticate once as one principal in one region; ``last``: no other region remains to be tried."""


_SKIP_LEASES = 1.5  # more than one: the renewal after a failure goes straight to the region that worked
_MIN_SKIP_SECONDS = 300.0
_MAX_SKIPPED = 32
# Another principal or method may work.
_REJECTIONS = (PrincipalRejected, MethodNotOffered, DecryptionDenied, TokenRefused)


class Sequence:
    """Tries until the first success, and begins with it the next time."""

    def __init__(self, settings: Settings, aws: Aws, methods: Mapping[str, Callable[[], AuthMethod]]) -> None:
        self._settings = settings
        self._aws = aws
        self._methods = methods
        self._made: dict[str, AuthMethod] = {}
        self._method(next(iter(methods)))  # at initialisation
        self._winner: tuple[AuthMethod, str] | None = None
        self._unusable: set[str] = set()
        self._skipped = _Skipped()

    def authenticate(self, deadline: Deadline, wanted: Wanted = ANY) -> Token:
        """Authenticate.

        Parameters
        ----------
        wanted
            What for. The service can return a refused token again from its cache; that is a failure.

        Raises
        ------
        CerberusError
            Of the class of all failed attempts, which ``attempts`` lists; ``AuthenticationFailed`` where their classes
            differ; or ``DeadlineExceeded``.
        """
        failed: list[Attempt] = []
        try:
            token = self._authenticate(deadline, wanted, failed)
        except DeadlineExceeded as error:
            if failed:
                error.args = (f"{error} Before that:{''.join(f' {attempt};' for attempt in failed)}",)
                error.attempts = tuple(failed)
            raise
        if token is None:
            raise combined_error(failed)
        return token

    def _authenticate(self, deadline: Deadline, wanted: Wanted, failed: list[Attempt]) -> Token | None:
        tried = self._winner
        if tried is not None:
            token = self._in_each_region(*tried, deadline, wanted, failed)
            if token is not None or not any(isinstance(attempt.error, _REJECTIONS) for attempt in failed):
                return token
            if isinstance(failed[-1].error, BlockedAtEdge):
                return None
            self._winner = None
            self._unusable.clear()
        lost = failed[:]
        finished: set[str] = set()  # the settings of methods of which no other variant will work
        found: Iterator[str] = candidates(self._settings, self._aws, deadline, failed)
        for method in map(self._method, sorted(self._methods, key=self._unusable.__contains__)):
            if method.setting in finished:
                continue
            principals: Iterable[str] = [""]
            if method.setting == "kms":
                found, principals = tee(found)  # looked for once
            now: list[Attempt] = []
            for principal in principals:
                if (method, principal) == tried:
                    now = lost
                else:
                    before = len(failed)
                    token = self._in_each_region(method, principal, deadline, wanted, failed)
                    if token is not None:
                        self._winner = (method, principal)
                        return token
                    now = failed[before:]
                    if isinstance(now[-1].error, BlockedAtEdge):
                        return None  # it blocks every request
                if _concerns_method(now):
                    break
            if not now:
                continue  # nobody can say which role this is: STS needs no principal
            if not _concerns_method(now):
                break
            if isinstance(now[-1].error, TokenRefused):
                finished.add(method.setting)
                continue
            self._unusable.add(method.name)
            if now[-1].error.unknown_region:
                finished.add(method.setting)
        return None

    def _method(self, name: str) -> AuthMethod:
        """Return a method, made when it is first needed: each costs an import."""
        if name not in self._made:
            self._made[name] = self._methods[name]()
        return self._made[name]

    def _in_each_region(
        self, method: AuthMethod, principal: str, deadline: Deadline, wanted: Wanted, failed: list[Attempt]
    ) -> Token | None:
        regions = sorted(self._settings.regions, key=lambda region: (method.setting, region) in self._skipped)
        ailing: list[str] = []
        for left, region in zip(range(len(regions) - 1, -1, -1), regions, strict=True):
            share = deadline if left == 0 else deadline.within(deadline.remaining() / 2)
            error: CerberusError
            try:
                token = self._once(method, principal, region, share, wanted, left == 0)
                if token.value != wanted.refused:
                    self._skipped.discard((method.setting, region))
                    if ailing:
                        seconds = max(_MIN_SKIP_SECONDS, _SKIP_LEASES * token.lease_seconds)
                        self._skipped.add([(method.setting, each) for each in ailing], seconds)
                    return token
                del token
                error = TokenRefused("Cerberus returned the token that it rejected before. Retry in a few seconds")
                error.step = "auth request"
            except DeadlineExceeded as late:
                if deadline.remaining() <= 0:
                    raise
                error = unanswered(late, share)
                error.regional = waited_out(share.steps[-1].seconds, self._settings)
            except CerberusUnavailable as failure:
                error = failure
                error.regional |= error.step != "auth request"  # of AWS in that region
            except CerberusError as failure:
                error = failure
            failed.append(Attempt(principal, region, method.name, error.step, error))
            if (
                isinstance(error, MethodNotOffered | ConfigurationError | BlockedAtEdge)
                or (isinstance(error, PrincipalRejected) and not error.regional)
                or error.credentials_refused
            ):
                break  # no region changes that
            if error.regional:
                ailing.append(region)
        return None

    def _once(
        self, method: AuthMethod, principal: str, region: str, deadline: Deadline, wanted: Wanted, last: bool
    ) -> Token:
        """Authenticate once, and again where temporary credentials were refused and there are new ones."""
        with deadline.step("credentials"):  # first: without them Cerberus would be asked in vain
            used = self._aws.credentials(region, deadline).access_key
        try:
            return method.authenticate(principal, region, deadline, wanted, last=last)
        except CerberusError as error:
            if not error.credentials_refused:
                raise
            refused = error
        self._aws.forget_credentials()
        with deadline.step("credentials"):
            if self._aws.credentials(region, deadline).access_key == used:
                raise refused
        return method.authenticate(principal, region, deadline, wanted, last=last)


def _concerns_method(attempts: list[Attempt]) -> bool:
    """Whether no other principal will work by this method, but another method may."""
    return bool(attempts) and (
        isinstance(attempts[-1].error, MethodNotOffered | TokenRefused)
        or all(attempt.error.unknown_region for attempt in attempts)
    )


class _Skipped:
    """Methods' regions to try last, each until its time is over by either clock: a frozen container stops one of them."""

    def __init__(self) -> None:
        self._regions: TTLCache[tuple[str, str], bool] | None = None
        self._since = Moment()
        self._lock = threading.Lock()

    def __contains__(self, region: tuple[str, str]) -> bool:
        with self._lock:
            return self._regions is not None and region in self._regions

    def add(self, regions: Iterable[tuple[str, str]], seconds: float) -> None:
        """Skip these for so many seconds."""
        with self._lock:
            if self._regions is None or self._regions.ttl != seconds:
                from cachetools import TTLCache  # not before a region fails: its import is not free

                self._regions = TTLCache(_MAX_SKIPPED, seconds, timer=self._elapsed)
            self._regions.update(dict.fromkeys(regions, True))

    def discard(self, region: tuple[str, str]) -> None:
        """Skip this one no longer."""
        with self._lock:
            if self._regions is not None:
                self._regions.pop(region, None)

    def _elapsed(self) -> float:
        return self._since.age()

"""Tries each method, principal and region until one authentication succeeds.

- Methods: KMS first. STS follows where KMS is disabled (404), the region is unknown to Cerberus, or no principal is known. The
  older KMS endpoint comes last, so that a current Cerberus gets no extra request.
- Principals: in order, and for each of them all regions.
- Regions: a region that failed while another one worked goes last for a while.

The container remembers the combination that worked, and the methods that do not work.
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
from .principal import candidates, no_answer
from .token import ANY_TOKEN
from .wire import used_full_timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Protocol

    from cachetools import TTLCache

    from ..aws.calls import Aws
    from ..deadline import Deadline
    from ..settings import Settings
    from .token import Token, TokenRequest

    class AuthMethod(Protocol):
        """An authentication method of Cerberus."""

        @property
        def name(self) -> str:
            """The name in errors."""

        @property
        def setting(self) -> str:
            """The value of ``CERBERUS_AUTH_METHOD``."""

        def authenticate(
            self,
            principal: str,
            region: str,
            deadline: Deadline,
            request: TokenRequest = ANY_TOKEN,
            *,
            last: bool = True,
        ) -> Token:
            """Authenticate once as one principal in one region. ``last``: this is the last region to try."""


_SKIP_LEASES = 1.5  # more than one lease, so that the next renewal starts with the region that worked
_MIN_SKIP_SECONDS = 300.0
_MAX_SKIPPED = 32
# After these errors another principal or method can work.
_REJECTIONS = (PrincipalRejected, MethodNotOffered, DecryptionDenied, TokenRefused)


class Sequence:
    """Try combinations of method, principal and region. Start the next time with the one that worked."""

    def __init__(self, settings: Settings, aws: Aws, methods: Mapping[str, Callable[[], AuthMethod]]) -> None:
        self._settings = settings
        self._aws = aws
        self._methods = methods
        self._created: dict[str, AuthMethod] = {}
        self._method(next(iter(methods)))  # import the first method during initialisation
        self._working: tuple[AuthMethod, str] | None = None  # method and principal of the last success
        self._unusable: set[str] = set()  # names of methods that failed for every principal
        self._skipped = _SkippedRegions()

    def authenticate(self, deadline: Deadline, request: TokenRequest = ANY_TOKEN) -> Token:
        """Authenticate and return the token.

        Parameters
        ----------
        request
            Which token is accepted. If Cerberus returns the refused token from its cache, the attempt fails.

        Raises
        ------
        CerberusError
            Every attempt failed. The class is that of all attempts, which ``attempts`` lists; ``AuthenticationFailed`` if
            their classes differ.
        DeadlineExceeded
            The timeout expired.
        """
        failed: list[Attempt] = []
        try:
            token = self._authenticate(deadline, request, failed)
        except DeadlineExceeded as error:
            if failed:
                error.args = (f"{error} Earlier attempts: {' '.join(map(str, failed))}",)
                error.attempts = tuple(failed)
            raise
        if token is None:
            raise combined_error(failed)
        return token

    def _authenticate(self, deadline: Deadline, request: TokenRequest, failed: list[Attempt]) -> Token | None:
        tried = self._working
        if tried is not None:
            token = self._in_each_region(*tried, deadline, request, failed)
            if token is not None or not any(isinstance(attempt.error, _REJECTIONS) for attempt in failed):
                return token
            if isinstance(failed[-1].error, BlockedAtEdge):
                return None
            self._working = None
            self._unusable.clear()
        first_failures = failed[:]
        finished: set[str] = set()  # settings of methods whose other variants will fail too
        found: Iterator[str] = candidates(self._settings, self._aws, deadline, failed)
        for method in map(self._method, sorted(self._methods, key=self._unusable.__contains__)):
            if method.setting in finished:
                continue
            principals: Iterable[str] = [""]
            if method.setting == "kms":
                found, principals = tee(found)  # each principal is looked up once
            attempts: list[Attempt] = []
            for principal in principals:
                if (method, principal) == tried:
                    attempts = first_failures
                else:
                    before = len(failed)
                    token = self._in_each_region(method, principal, deadline, request, failed)
                    if token is not None:
                        self._working = (method, principal)
                        return token
                    attempts = failed[before:]
                    if isinstance(attempts[-1].error, BlockedAtEdge):
                        return None  # the firewall blocks every request
                if _is_method_unusable(attempts):
                    break
            if not attempts:
                continue  # no principal was found: STS needs none
            if not _is_method_unusable(attempts):
                break
            if isinstance(attempts[-1].error, TokenRefused):
                finished.add(method.setting)
                continue
            self._unusable.add(method.name)
            if attempts[-1].error.unknown_region:
                finished.add(method.setting)
        return None

    def _method(self, name: str) -> AuthMethod:
        """Return a method. Create it on first use: each one costs an import."""
        if name not in self._created:
            self._created[name] = self._methods[name]()
        return self._created[name]

    def _in_each_region(
        self, method: AuthMethod, principal: str, deadline: Deadline, request: TokenRequest, failed: list[Attempt]
    ) -> Token | None:
        regions = sorted(self._settings.regions, key=lambda region: (method.setting, region) in self._skipped)
        failing: list[str] = []
        for left, region in zip(range(len(regions) - 1, -1, -1), regions, strict=True):
            part = deadline if left == 0 else deadline.within(deadline.remaining() / 2)
            error: CerberusError
            try:
                token = self._authenticate_once(method, principal, region, part, request, left == 0)
                if token.value != request.refused:
                    self._skipped.discard((method.setting, region))
                    if failing:
                        seconds = max(_MIN_SKIP_SECONDS, _SKIP_LEASES * token.lease_seconds)
                        self._skipped.add([(method.setting, each) for each in failing], seconds)
                    return token
                del token
                error = TokenRefused(
                    "Cerberus returned the token that it rejected before (401). Retry in a few seconds."
                )
                error.step = "auth request"
            except DeadlineExceeded as timeout:
                if deadline.remaining() <= 0:
                    raise
                error = no_answer(timeout, part)
                error.regional = used_full_timeout(part.steps[-1].seconds, self._settings)
            except CerberusUnavailable as failure:
                error = failure
                # AWS in that region failed, unless this is the outage of Cerberus that a look-up repeats.
                error.regional |= error.step != "auth request" and request.outage is None
            except CerberusError as failure:
                error = failure
            failed.append(Attempt(principal, region, method.name, error.step, error))
            if (
                isinstance(error, MethodNotOffered | ConfigurationError | BlockedAtEdge)
                or (isinstance(error, PrincipalRejected) and not error.regional)
                or error.credentials_refused
            ):
                break  # another region fails too
            if error.regional:
                failing.append(region)
        return None

    def _authenticate_once(
        self, method: AuthMethod, principal: str, region: str, deadline: Deadline, request: TokenRequest, last: bool
    ) -> Token:
        """Authenticate once. If AWS refused the credentials and new ones are available, retry with them."""
        with deadline.step("credentials"):  # before the request to Cerberus, which is useless without credentials
            used = self._aws.credentials(region, deadline).access_key
        try:
            return method.authenticate(principal, region, deadline, request, last=last)
        except CerberusError as error:
            if not error.credentials_refused:
                raise
            refused = error
        self._aws.forget_credentials()
        with deadline.step("credentials"):
            if self._aws.credentials(region, deadline).access_key == used:
                raise refused
        return method.authenticate(principal, region, deadline, request, last=last)


def _is_method_unusable(attempts: list[Attempt]) -> bool:
    """Return whether this method fails for every principal, while another method can work."""
    return bool(attempts) and (
        isinstance(attempts[-1].error, MethodNotOffered | TokenRefused)
        or all(attempt.error.unknown_region for attempt in attempts)
    )


class _SkippedRegions:
    """Hold the regions to try last, by method. An entry expires by the monotonic or the wall clock, whichever is earlier."""

    def __init__(self) -> None:
        self._regions: TTLCache[tuple[str, str], bool] | None = None
        self._since = Moment()
        self._lock = threading.Lock()

    def __contains__(self, region: tuple[str, str]) -> bool:
        with self._lock:
            return self._regions is not None and region in self._regions

    def add(self, regions: Iterable[tuple[str, str]], seconds: float) -> None:
        """Skip these regions for ``seconds``."""
        with self._lock:
            if self._regions is None or self._regions.ttl != seconds:
                from cachetools import TTLCache  # loaded after the first failed region: its import costs time

                self._regions = TTLCache(_MAX_SKIPPED, seconds, timer=self._elapsed)
            self._regions.update(dict.fromkeys(regions, True))

    def discard(self, region: tuple[str, str]) -> None:
        """Stop skipping this region."""
        with self._lock:
            if self._regions is not None:
                self._regions.pop(region, None)

    def _elapsed(self) -> float:
        return self._since.age()

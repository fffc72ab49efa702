"""Temporary credentials: kept until near their end. And those of a role that is assumed first."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager

from .. import errors
from .calls import AwsRefusal, credentials_refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol, TypeVar

    from ..deadline import Deadline
    from .calls import Credentials

    T = TypeVar("T")

    class Forgetful(Protocol):
        """Keeps credentials that can be fetched anew."""

        def forget(self) -> None:
            """Fetch them anew the next time."""


ROLE_SESSION_NAME = "cerberus-auth"
_RENEW_SECONDS = 300  # fetched anew this long before their end


class Temporary:
    """Credentials with an end, fetched when first needed and again near that end.

    Parameters
    ----------
    fetch
        Gives credentials and their end, in seconds since the epoch; an end of 0 has them fetched each time.
    """

    __slots__ = ("_fetch", "_held")

    def __init__(self, fetch: Callable[[str, Deadline], tuple[Credentials, float]]) -> None:
        self._fetch = fetch
        self._held: tuple[Credentials, float] | None = None

    def get(self, region: str, deadline: Deadline) -> Credentials:
        """The credentials of this moment, whatever ``fetch`` raises."""
        held = self._held
        if held is None or time.time() > held[1] - _RENEW_SECONDS:
            held = self._held = self._fetch(region, deadline)
        return held[0]

    def forget(self) -> None:
        """Fetch them anew the next time: these were refused."""
        self._held = None


def renewing(source: Forgetful | None, call: Callable[[], T]) -> T:
    """Call; where AWS refuses the credentials themselves, and a source gives others, call once more with those.

    Raises
    ------
    AwsRefusal
        See ``AwsRefusal``.
    """
    try:
        return call()
    except AwsRefusal as refusal:
        if source is None or credentials_refused(refusal) is None:
            raise
    source.forget()
    return call()


@contextmanager
def assuming(role_arn: str, deadline: Deadline) -> Iterator[None]:
    """Around sts:AssumeRole: errors tell of that step, and a refusal tells of the two policies it needs.

    Raises
    ------
    ConfigurationError
        STS refuses.
    """
    with deadline.step("sts:AssumeRole"):
        try:
            yield
        except AwsRefusal as refusal:
            raise credentials_refused(refusal) or _refused(refusal, role_arn) from None


def _refused(refusal: AwsRefusal, role_arn: str) -> errors.ConfigurationError:
    if not refusal.code.startswith("AccessDenied"):
        return errors.ConfigurationError(
            f"{refusal.service} refuses to assume CERBERUS_ASSUME_ROLE_ARN ({refusal.code}): see that {role_arn} is a role"
        )
    allow = json.dumps({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role_arn})
    trust = json.dumps({"Effect": "Allow", "Principal": {"AWS": "<execution role>"}, "Action": "sts:AssumeRole"})
    return errors.ConfigurationError(
        f"{refusal.service} does not let the function assume CERBERUS_ASSUME_ROLE_ARN ({refusal.code}). Two policies must: the "
        f"function's execution role needs {allow}, and the trust policy of {role_arn} needs {trust}"
    )

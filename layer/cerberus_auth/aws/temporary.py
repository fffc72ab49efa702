"""Temporary credentials: kept until shortly before they expire, and fetched again when AWS rejects them."""

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

    class Source(Protocol):
        """A source of credentials that it can fetch again."""

        def forget(self) -> None:
            """Drop the credentials, so that the next call fetches new ones."""


ROLE_SESSION_NAME = "cerberus-auth"
_RENEW_SECONDS = 300  # fetched again this long before they expire


class Temporary:
    """Credentials that expire. They are fetched on first use, and again shortly before they expire.

    Parameters
    ----------
    fetch
        Returns credentials and their expiration in seconds since the epoch. An expiration of 0 means: fetch for each call.
    """

    __slots__ = ("_fetch", "_held")

    def __init__(self, fetch: Callable[[str, Deadline], tuple[Credentials, float]]) -> None:
        self._fetch = fetch
        self._held: tuple[Credentials, float] | None = None

    def get(self, region: str, deadline: Deadline) -> Credentials:
        """Return the current credentials. Errors of ``fetch`` pass through.

        Parameters
        ----------
        region
            Passed to ``fetch``.
        deadline
            Passed to ``fetch``.
        """
        held = self._held
        if held is None or time.time() > held[1] - _RENEW_SECONDS:
            held = self._held = self._fetch(region, deadline)
        return held[0]

    def forget(self) -> None:
        """Drop the credentials, so that the next call fetches new ones."""
        self._held = None


def renewing(source: Source | None, call: Callable[[], T]) -> T:
    """Make a call. If AWS rejects the credentials, drop them and repeat the call once.

    Parameters
    ----------
    source
        Where the credentials come from; None means that they cannot be fetched again.
    call
        The call to make. It gets its credentials from ``source``.

    Raises
    ------
    AwsRefusal
        AWS refused the call, or rejected the new credentials too.
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
    """Wrap a call of sts:AssumeRole: errors name this step, and a refusal shows the two policies that it requires.

    Parameters
    ----------
    role_arn
        The role to assume.
    deadline
        The deadline of the call.

    Raises
    ------
    ConfigurationError
        STS refused the call.
    """
    with deadline.step("sts:AssumeRole"):
        try:
            yield
        except AwsRefusal as refusal:
            raise credentials_refused(refusal) or _refused(refusal, role_arn) from None


def _refused(refusal: AwsRefusal, role_arn: str) -> errors.ConfigurationError:
    if not refusal.code.startswith("AccessDenied"):
        return errors.ConfigurationError(
            f"{refusal.service} refused to assume {role_arn} ({refusal.code}). Check that CERBERUS_ASSUME_ROLE_ARN names a "
            f"role."
        )
    allow = json.dumps({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role_arn})
    trust = json.dumps({"Effect": "Allow", "Principal": {"AWS": "<execution role>"}, "Action": "sts:AssumeRole"})
    return errors.ConfigurationError(
        f"{refusal.service} does not let the function assume {role_arn} ({refusal.code}). Check CERBERUS_ASSUME_ROLE_ARN. Add "
        f"{allow} to a policy of the function's execution role, and {trust} to the trust policy of {role_arn}."
    )

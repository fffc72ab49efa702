"""The record of an authentication, for metrics, traces and the doctor. It holds no secret."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..deadline import Step
    from ..errors import CerberusError


class Authentication:
    """Record one finished authentication of this process.

    Attributes
    ----------
    number : int
        1 for the first authentication with these settings.
    began : float
        Start time, in seconds since the epoch.
    seconds : float
        Duration.
    steps : tuple of Step
        Steps in the order in which they ended, each with its duration.
    renewal : bool
        Whether a token was cached before.
    principal, region : str
        Principal and region of the token. Empty after a failure. The principal is also empty for STS with a discovered
        role.
    error : CerberusError or None
        The failure; None after a success.
    """

    __slots__ = ("began", "error", "number", "principal", "region", "renewal", "seconds", "steps")

    def __init__(
        self,
        number: int,
        began: float,
        seconds: float,
        steps: Iterable[Step],
        renewal: bool,
        principal: str,
        region: str,
        error: CerberusError | None,
    ) -> None:
        self.number = number
        self.began = began
        self.seconds = seconds
        self.steps = tuple(steps)
        self.renewal = renewal
        self.principal = principal
        self.region = region
        self.error = error.fresh() if error else None

    @property
    def shared(self) -> bool:
        """Whether the token came from the shared cache, without a request to Cerberus."""
        return self.error is None and not any(step.name == "auth request" for step in self.steps)

    def __repr__(self) -> str:
        outcome = type(self.error).__name__ if self.error else f"{self.principal} in {self.region}"
        return f"<Authentication {self.number}: {outcome}, {self.seconds:.3f} s>"

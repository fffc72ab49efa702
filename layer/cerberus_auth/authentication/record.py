"""What an authentication came to: for metrics, traces and the doctor. Holds no secret."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..deadline import Step
    from ..errors import CerberusError


class Authentication:
    """One authentication of this process, ended.

    Attributes
    ----------
    number
        The first of these settings is 1.
    began
        Seconds since the epoch.
    seconds
        That it took.
    steps
        Its parts, in the order in which they ended.
    renewal
        Whether there was a token before.
    principal, region
        Of the token; empty where it failed, and the principal also where STS was not told who signs.
    error
        What it failed with; None where there is a token.
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
        """Whether the token came from those who share, and Cerberus was not asked."""
        return self.error is None and not any(step.name == "auth request" for step in self.steps)

    def __repr__(self) -> str:
        outcome = type(self.error).__name__ if self.error else f"{self.principal} in {self.region}"
        return f"<Authentication {self.number}: {outcome}, {self.seconds:.3f} s>"

"""The same arrivals under the policies of others, by arithmetic: none of them shares, so that containers only add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .model import Fleet


@dataclass(frozen=True)
class Peer:
    """How often a container calls its service."""

    name: str
    calls: int
    """For each secret."""
    authentications: int = 0
    """At a time, beside them."""
    every: float | None = None
    """Seconds until it calls anew, while it is used; the lease, if none is given."""


PEERS = (
    Peer("cerberus-python-client", 1, 1),
    Peer("boto3 + requests", 1, 1),
    Peer("Powertools", 1, every=300),  # max_age, its default
    Peer("aws caching", 2, every=3600),  # DescribeSecret and GetSecretValue; secret_refresh_interval
)


def calls(peer: Peer, fleet: Fleet, lease: float = 3600) -> tuple[int, int]:
    """Of the whole fleet: all, and those in the busiest second."""
    every = peer.every or lease
    turns = 1 + int(fleet.life // every)
    seconds = Counter(int(arrival + turn * every) for arrival in fleet.arrivals for turn in range(turns))
    at_a_time = peer.authentications + peer.calls * fleet.secrets
    return at_a_time * turns * len(fleet.arrivals), at_a_time * max(seconds.values(), default=0)

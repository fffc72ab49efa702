"""Requests of other clients for the same fleets, computed. They share nothing, so the containers add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from .model import Fleet


@dataclass(frozen=True)
class Peer:
    """Another client, with the calls of one container."""

    name: str
    column: str
    """Its column in the table."""
    calls: int
    """The number of calls for each secret."""
    authentications: int = 0
    """The number of authentications at each refresh."""
    every: float | None = None
    """Seconds between refreshes; by default the lease."""


PEERS = (
    Peer("cerberus-python-client", "Nike, boto3", 1, 1),
    Peer("boto3 + requests", "Nike, boto3", 1, 1),
    Peer("Powertools", "Powertools", 1, every=300),  # its default max_age
    Peer("aws caching", "AWS caching", 2, every=3600),  # DescribeSecret and GetSecretValue; secret_refresh_interval
)


def calls(peer: Peer, fleet: Fleet, lease: float = 3600) -> tuple[int, int]:
    """Return the calls of a fleet: in total, and in the busiest second."""
    every = peer.every or lease
    turns = 1 + int(fleet.life // every)
    seconds = Counter(int(arrival + turn * every) for arrival in fleet.arrivals for turn in range(turns))
    at_a_time = peer.authentications + peer.calls * fleet.secrets
    return at_a_time * turns * len(fleet.arrivals), at_a_time * max(seconds.values(), default=0)

"""The charts of the simulation."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.drawing import Group, Limit, Line, bars, lines

RULE = 100  # requests per hour and IP address: Cerberus' rule of thumb


def is_burst(scenario: str) -> bool:
    """Tell whether a scenario, by its name, is a burst of cold containers."""
    return re.fullmatch(r"[\d,]+ in (?:a minute|ten minutes)", scenario) is not None


def bursts(figures: dict[str, Any]) -> str:
    """Draw the requests of a cold fleet by its size."""
    found = [row for name, row in figures["simulated"].items() if is_burst(name)]
    alone = [(float(row["containers"]), float(row["peers"]["cerberus-python-client"][0])) for row in found]
    shared = [(float(row["containers"]), float(row["requests"])) for row in found]
    about = (
        "Simulated: cold containers of one role start within a minute (1,000,000: within ten minutes), one secret each.",
        "Authentications and reads together. Both scales are logarithmic: each line is ten times the one before.",
    )
    return lines(
        "Requests to Cerberus in a burst of cold containers",
        about,
        "containers",
        "requests",
        [
            Line("ours", (f"with table and key: {shared[-1][1]:,.0f}",), shared),
            Line("other", (f"nothing shared: {alone[-1][1]:,.0f}",), alone),
        ],
    )


def busiest_hour(figures: dict[str, Any]) -> str:
    """Draw the requests of fleets that run for an hour or more."""
    groups = [
        Group(name.replace(" for ", " containers, ", 1), "ours", [float(row["busiest_hour"])])
        for name, row in figures["simulated"].items()
        if re.match(r"[\d,]+ for (?:an hour|\d+ hours),", name)
    ]
    about = (
        "Simulated: one role, with table and key. Authentications and reads together; leases of an hour, CERBERUS_MAX_AGE=300.",
        '"3 s": the time that Cerberus takes to answer; otherwise 0.3 s. "503": Cerberus answers 503 for 45 minutes.',
    )
    return bars(
        "Requests to Cerberus in the busiest hour",
        about,
        "requests in an hour",
        groups,
        limit=Limit(RULE, "Cerberus' rule: fewer than 100"),
    )


def charts(figures: dict[str, Any]) -> dict[str, str]:
    """Return all charts by file name."""
    return {"bursts.svg": bursts(figures), "busiest-hour.svg": busiest_hour(figures)}

"""The charts of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .drawing import Group, bars, dots

# The names of clients and calls in charts and in the documentation.
_NAMES = {
    "cerberus-auth, from the shared cache": "cerberus-auth, from the shared table",
    "cerberus-auth, no byte-code": "cerberus-auth, layer without byte-code",
    "cerberus-auth, SDK client": "cerberus-auth, CERBERUS_AWS_CLIENT=sdk",
    "the floor: http.client and hmac": "floor: bare http.client",
    "boto3 + requests": "boto3 + requests (KMS)",
    "read(), cached": "cerberus-auth read()",
    "token()": "cerberus-auth token()",
    "get_secret(), cached": "Powertools get_secret()",
    "get_secret_string(), cached": "aws-secretsmanager-caching",
    "loopback hop, http.client": "request to a local extension, http.client",
    "loopback hop, requests": "request to a local extension, requests",
    "http.client, a kept connection": "floor: http.client",
    "cerberus-auth, read(max_age=0)": "cerberus-auth read(max_age=0)",
    "urllib3, a connection pool": "urllib3, connection pool",
    "requests, a session": "requests, session",
    "Powertools get_secret(force_fetch=True)": "Powertools get_secret(force_fetch=True), Secrets Manager",
    "boto3 get_secret_value": "boto3 get_secret_value, Secrets Manager",
    "cerberus-python-client 1.4.0, a new connection": "cerberus-python-client 1.4.0, new connection",
    "cerberus-python-client 2.5.4, a new connection": "cerberus-python-client 2.5.4, new connection",
}
# The rows of `warm_ns` for a cached read. Other clients have nothing like token().
_CACHED = (
    "read(), cached",
    "get_secret(), cached",
    "get_secret_string(), cached",
    "loopback hop, http.client",
    "loopback hop, requests",
)
# The rows of `uncached_cpu_ns` for a read of Cerberus over a reused connection.
_UNCACHED = (
    "http.client, a kept connection",
    "cerberus-auth, read(max_age=0)",
    "urllib3, a connection pool",
    "requests, a session",
)


def name_of(contestant: str) -> str:
    """Return the name of a client or call for charts and tables."""
    return _NAMES.get(contestant, contestant)


def cold(figures: dict[str, Any]) -> str:
    """Draw the CPU time of each client to the first secret, in ascending order."""
    rows = sorted((float(row["cpu_ms"]["secret"]), name) for name, row in figures["cold"].items())
    groups = [Group(name_of(name), _kind(name), [milliseconds]) for milliseconds, name in rows]
    about = (
        "CPU time of a new process beyond Lambda's runtime client, until it has its first secret.",
        "Floor: the same two requests and the signature, without checks, retries or caching. It loads all "
        f"{figures['certificates']} certificate authorities;",
        "cerberus-auth loads the one it needs, which is why it can be faster than the floor.",
    )
    return bars("Cold start to the first secret", about, "milliseconds of CPU", groups)


def _in_microseconds(nanoseconds: Mapping[str, Any], names: Iterable[str]) -> list[Group]:
    """Return the measured ones of these clients, the fastest first."""
    rows = sorted((float(nanoseconds[name]) / 1000, name_of(name)) for name in names if name in nanoseconds)
    return [Group(name, _kind(name), [microseconds]) for microseconds, name in rows]


def cached(figures: dict[str, Any]) -> str:
    """Draw the time of a cached read on a logarithmic scale."""
    groups = _in_microseconds(figures["warm_ns"], _CACHED)
    about = (
        "One more read in a warm process, answered by a cache. Logarithmic scale: each line is ten times the one before.",
        "The local extension is a stand-in: a loopback server that answers at once. A real extension takes longer.",
    )
    return dots("Cached read", about, "microseconds", groups)


def uncached(figures: dict[str, Any]) -> str:
    """Draw the CPU time of a read over a reused connection."""
    groups = _in_microseconds(figures["uncached_cpu_ns"], _UNCACHED)
    about = (
        "CPU time of one read that Cerberus answers, over a kept TLS connection.",
        "Floor: http.client, which checks nothing and does not retry.",
    )
    return bars("Uncached read", about, "microseconds of CPU", groups)


def in_handler(figures: dict[str, Any]) -> str:
    """Draw the time to the first secret in a handler by memory size."""
    found: dict[str, dict[str, float]] = figures["handler_ms"]
    rows = sorted(found.items(), key=lambda row: next(iter(row[1].values())))
    groups = [Group(name_of(name), _kind(name), list(sizes.values())) for name, sizes in rows]
    legend = [f"{int(size):,} MB" for size in rows[0][1]]
    about = (
        "Time of the first read in a handler, with the CPU share that Lambda gives to each memory size.",
        "Modules are loaded before, with a full CPU, as during initialization. Cerberus answers in 20 ms, AWS in 2 ms.",
    )
    return bars("First use in a handler", about, "milliseconds", groups, legend)


CHARTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "cold-start.svg": cold,
    "cached-read.svg": cached,
    "uncached-read.svg": uncached,
    "first-use.svg": in_handler,
}


def charts(figures: dict[str, Any]) -> dict[str, str]:
    """Return all charts by file name, without those that this machine could not measure."""
    unmeasured = {"first-use.svg"} if isinstance(figures["handler_ms"], str) else set()
    return {name: draw(figures) for name, draw in CHARTS.items() if name not in unmeasured}


def _kind(name: str) -> str:
    return "ours" if name.startswith("cerberus-auth") else "floor" if "floor" in name else "other"

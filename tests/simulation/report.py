"""What was found, as a table, and beside it what the same arrivals would be for others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import peers
from .model import Outcome
from .scenarios import TABLE_DOWN, Scenario


def figures(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """Of one scenario, for ``figures.json``. Seconds, and counts."""
    return {
        "containers": outcome.containers,
        "authentications": outcome.authentications,
        "requests": len(outcome.requests),
        "busiest_hour": outcome.busiest(3600),
        "busiest_second": outcome.busiest(1),
        "without_a_secret": outcome.failures,
        "lost": outcome.lost,
        "wait_s": {name: round(outcome.wait(part), 3) for name, part in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))},
        "longest_wait_s": round(outcome.longest_wait, 3),
        "table_reads": outcome.reads,
        "table_writes": outcome.writes,
        "kms": outcome.decrypts,
        "throttled": outcome.throttled,
        "peers": {peer.name: peers.calls(peer, scenario.fleet, scenario.conditions.lease) for peer in peers.PEERS},
    }


def table(
    found: dict[str, dict[str, Any]], measured: dict[str, Any] | None, measured_hour: dict[str, Any] | None = None
) -> str:
    """Markdown, no line longer than 100 characters."""
    return "\n".join([*_lines(found, measured), *_hour(measured_hour)]) + "\n"


def _hour(measured: dict[str, Any] | None) -> Iterator[str]:
    if measured is None:
        return
    yield from (
        "",
        f"An hour of {measured['processes']} real processes that read 5 secrets each, in time-lapse:",
        f"{measured['seconds']:g} s, with leases and `max_age` scaled down alike.",
        "",
        "| | authentications | reads | requests to Cerberus |",
        "| --- | ---: | ---: | ---: |",
    )
    for name, label in (("shared", "with the table and the key"), ("alone", "without")):
        row = measured[name]
        total = row["authentications"] + row["reads"]
        yield f"| {label} | {row['authentications']:,} | {row['reads']:,} | {total:,} |"


def _lines(found: dict[str, dict[str, Any]], measured: dict[str, Any] | None) -> Iterator[str]:
    yield from (
        "One role in one region. Leases of an hour, one secret for each container, Cerberus answering in",
        "0.3 s and taking 100 requests a second, unless the row says otherwise. DynamoDB is within the",
        "limits of one partition (6,000 reads, 500 writes a second), KMS within its quota.",
        "*Requests* are authentications and reads of Cerberus, refused ones too; *failed* are reads",
        "without a secret, of containers that never had it and of those that had.",
        "",
        "| containers | auth. | requests | in an hour | failed: new | had it | s: median | most |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    )
    for name, row in found.items():
        wait, lost = row["wait_s"], row["lost"]
        yield (
            f"| {name} | {row['authentications']:,} | {row['requests']:,} | {row['busiest_hour']:,} "
            f"| {row['without_a_secret'] - lost:,} | {lost:,} | {wait['p50']:.2f} | {wait['most']:.2f} |"
        )
    yield from (
        "",
        "The calls of AWS:",
        "",
        "| containers | table: reads | writes | throttled | KMS |",
        "| --- | ---: | ---: | ---: | ---: |",
    )
    for name, row in found.items():
        yield (f"| {name} | {row['table_reads']:,} | {row['table_writes']:,} | {row['throttled']:,} | {row['kms']:,} |")
    names = [peer.name for peer in peers.PEERS]
    yield from (
        "",
        "The same arrivals for others, who share nothing, by arithmetic: requests to their service.",
        "",
        f"| containers | this | {' | '.join(names)} |",
        f"| --- | ---: |{' ---: |' * len(names)}",
    )
    for name, row in found.items():
        if name == TABLE_DOWN:
            continue
        shown = " | ".join(f"{calls:,}" for calls, _ in row["peers"].values())
        yield f"| {name} | {row['requests']:,} | {shown} |"
    if measured:
        yield from (
            "",
            "The model beside real processes, released at once, with Cerberus answering in 0.3 s:",
            "",
            "| processes | authentications, measured | in the model |",
            "| --- | ---: | ---: |",
        )
        for count, row in measured.items():
            yield f"| {count} | {row['authentications']} | {row['model_authentications']} |"

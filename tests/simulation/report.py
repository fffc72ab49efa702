"""What was found, as a table, and beside it what the same arrivals would be for others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import peers
from .model import Outcome
from .scenarios import Scenario


def figures(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """Of one scenario, for ``figures.json``. Seconds, and counts."""
    return {
        "containers": outcome.containers,
        "authentications": outcome.authentications,
        "busiest_second": outcome.peak_second,
        "without_a_token": outcome.failures,
        "wait_s": {name: round(outcome.wait(part), 3) for name, part in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))},
        "table_reads": outcome.reads,
        "table_writes": outcome.writes,
        "decrypts": outcome.decrypts,
        "throttled": outcome.throttled,
        "peers": {peer.name: peers.calls(peer, scenario.fleet, scenario.conditions.lease) for peer in peers.PEERS},
    }


def table(found: dict[str, dict[str, Any]], measured: dict[str, Any] | None) -> str:
    """Markdown."""
    return "\n".join(_lines(found, measured)) + "\n"


def _lines(found: dict[str, dict[str, Any]], measured: dict[str, Any] | None) -> Iterator[str]:
    yield (
        "One role in one region, leases of an hour unless said, Cerberus answering in 0.3 s and taking 100 authentications a "
        "second; DynamoDB within the limits of one partition (6,000 reads, 500 writes a second), KMS within its quota."
    )
    yield from (
        "",
        "| containers | authentications | busiest second | without a token | to the token, s: median | 99 % | most "
        "| table reads | writes | KMS decrypts |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    )
    for name, row in found.items():
        wait = row["wait_s"]
        yield (
            f"| {name} | {row['authentications']:,} | {row['busiest_second']:,} | {row['without_a_token']:,} "
            f"| {wait['p50']:.2f} | {wait['p99']:.2f} | {wait['most']:.2f} | {row['table_reads']:,} "
            f"| {row['table_writes']:,} | {row['decrypts']:,} |"
        )
    names = [peer.name for peer in peers.PEERS]
    yield from (
        "",
        "The same arrivals for others, who share nothing, by arithmetic: requests to their service, and in brackets those of "
        "the busiest second. To Cerberus, each is an authentication.",
        "",
        f"| containers | cerberus-auth | {' | '.join(names)} |",
        f"| --- | ---: |{' ---: |' * len(names)}",
    )
    for name, row in found.items():
        if "table down" in name:
            continue
        shown = " | ".join(f"{calls:,} ({busiest:,})" for calls, busiest in row["peers"].values())
        yield f"| {name} | {row['authentications']:,} ({row['busiest_second']:,}) | {shown} |"
    if measured:
        yield from (
            "",
            "The model beside real processes, released at once, with Cerberus answering in 0.3 s:",
            "",
            "| processes | authentications, measured | in the model | KMS decrypts, measured | in the model |",
            "| --- | ---: | ---: | ---: | ---: |",
        )
        for count, row in measured.items():
            yield (
                f"| {count} | {row['authentications']} | {row['model_authentications']} | {row['decrypts']} "
                f"| {row['model_decrypts']} |"
            )

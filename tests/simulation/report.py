"""The figures and tables of the simulation, compared with other clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from . import peers
from .model import Outcome
from .scenarios import TABLE_DOWN, Scenario


def figures(scenario: Scenario, outcome: Outcome) -> dict[str, Any]:
    """Return the figures of one scenario for ``figures.json``: counts and seconds."""
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


def table(found: dict[str, dict[str, Any]], measured: dict[str, Any] | None) -> str:
    """Return the tables in Markdown, with at most 100 columns when aligned."""
    return "\n".join(_lines(found, measured)) + "\n"


def _lines(found: dict[str, dict[str, Any]], measured: dict[str, Any] | None) -> Iterator[str]:
    yield from (
        "# Simulated fleets",
        "",
        "Each fleet has one role in one region. Unless the row states otherwise: leases of an hour, one",
        "secret, and a Cerberus that responds in 0.3 s and accepts 100 requests per second. The model has",
        "the limits of a DynamoDB partition (6,000 reads, 500 writes per second) and KMS's quota.",
        "*Requests* are all authentications and reads that reach Cerberus, including refused ones.",
        "*Failed* are reads of cold containers without a result, *lost* those of containers that had the",
        "secret before.",
        "",
        "| containers | auths | requests | peak hour | failed | lost |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    )
    for name, row in found.items():
        lost = row["lost"]
        yield (
            f"| {name} | {row['authentications']:,} | {row['requests']:,} | {row['busiest_hour']:,} "
            f"| {row['without_a_secret'] - lost:,} | {lost:,} |"
        )
    yield from ("", "Seconds to the first secret:", "", "| containers | median | max |", "| --- | ---: | ---: |")
    for name, row in found.items():
        yield f"| {name} | {row['wait_s']['p50']:.2f} | {row['wait_s']['most']:.2f} |"
    yield from (
        "",
        "Calls to AWS (reads and writes of the table):",
        "",
        "| containers | reads | writes | throttled | KMS calls |",
        "| --- | ---: | ---: | ---: | ---: |",
    )
    for name, row in found.items():
        yield (f"| {name} | {row['table_reads']:,} | {row['table_writes']:,} | {row['throttled']:,} | {row['kms']:,} |")
    columns = {peer.column: peer.name for peer in peers.PEERS}
    yield from (
        "",
        "Requests of other clients for the same fleets, computed: containers share nothing. *Nike* is",
        "cerberus-python-client, *boto3* is boto3 with requests (the number is the same), and *AWS",
        "caching* is aws-secretsmanager-caching.",
        "",
        f"| containers | ours | {' | '.join(columns)} |",
        f"| --- | ---: |{' ---: |' * len(columns)}",
    )
    for name, row in found.items():
        if name == TABLE_DOWN:
            continue
        shown = " | ".join(f"{row['peers'][peer][0]:,}" for peer in columns.values())
        yield f"| {name} | {row['requests']:,} | {shown} |"
    if measured:
        yield from (
            "",
            "The model and real processes that start at once, with Cerberus responding in 0.3 s:",
            "",
            "| processes | authentications, measured | model |",
            "| --- | ---: | ---: |",
        )
        for count, row in measured.items():
            yield f"| {count} | {row['authentications']} | {row['model_authentications']} |"

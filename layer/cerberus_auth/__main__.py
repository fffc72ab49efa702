"""``python -m cerberus_auth doctor``."""

from __future__ import annotations

import argparse
import json
import sys

from .doctor import FAILED, Doctor, Finding, line, report


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 where all is well, 1 where a step fails."""
    parser = argparse.ArgumentParser(prog="python -m cerberus_auth")
    commands = parser.add_subparsers(required=True, metavar="command")
    doctor = commands.add_parser("doctor", help="which step on the way to a secret fails, why, and what mends it")
    doctor.add_argument("--read", metavar="PATH", default="", help="a secret to read, as category/box/path")
    doctor.add_argument("--json", action="store_true", help="for machines")
    chosen = parser.parse_args(arguments)

    def tell(finding: Finding) -> None:
        if not chosen.json:
            print(line(finding), flush=True)

    findings = Doctor(path=chosen.read, tell=tell).examine()
    if chosen.json:
        print(json.dumps(report(findings), indent=2))
    return int(any(finding.status == FAILED for finding in findings))


if __name__ == "__main__":
    sys.exit(main())

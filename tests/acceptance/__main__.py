"""Check that this package works with a Cerberus server. The suite only reads, with about 25 requests.

Set CERBERUS_URL and the other settings as for a function. Set the AWS credentials of a principal that may read the secret.
Without CERBERUS_URL, the suite runs against the local stack.

  ACCEPTANCE_SECRET  path of a secret that the principal can read (category/box/path)
  ACCEPTANCE_BOX     path of its safe deposit box (default: the first two parts of the secret's path)
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap

from cerberus_auth import ConfigurationError, Settings
from local_stack.stack import ROLE, SECRET_PATH, LocalStack

from .suite import Suite


def main(arguments: list[str] | None = None) -> int:
    """Run the suite and return the exit code: 0 if all checks pass, 1 if one fails, 2 if the suite cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m acceptance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    if os.environ.get("CERBERUS_URL"):
        return run(os.environ.get("ACCEPTANCE_SECRET", ""), os.environ.get("ACCEPTANCE_BOX", ""))
    for name in list(os.environ):  # the local stack must not use the caller's AWS settings
        if name.startswith(("AWS_", "CERBERUS_")) or name.lower().endswith(("_proxy", "_ca_bundle")):
            del os.environ[name]
    with LocalStack() as stack:
        os.environ.update(stack.environment(ROLE))
        print("CERBERUS_URL is not set: running against the local stack.")
        return run(SECRET_PATH)


def run(secret: str, box: str = "") -> int:
    """Run the checks, print the table, and return the exit code."""
    box = box or "/".join(secret.split("/")[:2])
    if not secret.startswith(f"{box}/"):
        print(
            f"ACCEPTANCE_SECRET is {secret!r}. Set it to the path of a secret in {box or 'your box'} (category/box/path).",
            file=sys.stderr,
        )
        return 2
    try:
        settings = Settings.from_env()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{settings.url}\nmethod {settings.auth_method}, region {settings.region}, secret {secret}\n")
    print(f"{'check':36}{'expected':29}result")
    failed = 0
    with Suite(settings, secret, box) as suite:
        for check in suite.checks():
            result, message = check.run()
            ok = result in check.expected
            failed += not ok
            print(f"{check.name:36}{' or '.join(check.expected):29}{result:22}{'ok' if ok else 'FAILED'}", flush=True)
            if message and not ok:
                print(textwrap.fill(message, 100, initial_indent="    ", subsequent_indent="    "))
    print(f"\n{failed} FAILED" if failed else "\nAll ok")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

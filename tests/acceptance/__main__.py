"""Check that this package and a Cerberus understand each other. Only reads: about 25 requests.

Set CERBERUS_URL and the other settings as for a function, and have AWS credentials of a principal that Cerberus knows.
Without CERBERUS_URL, the suite runs against the local stack.

  ACCEPTANCE_SECRET  a secret that this principal can read, as category/box/path
  ACCEPTANCE_BOX     its safe deposit box; by default the first two parts of that path
"""

from __future__ import annotations

import argparse
import os
import sys

from cerberus_auth import ConfigurationError, Settings
from local_stack.stack import ROLE, SECRET_PATH, LocalStack

from .suite import Suite


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 where all is well, 1 where a check failed, 2 where the suite cannot start."""
    parser = argparse.ArgumentParser(
        prog="python -m acceptance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(arguments)
    if os.environ.get("CERBERUS_URL"):
        return run(os.environ.get("ACCEPTANCE_SECRET", ""), os.environ.get("ACCEPTANCE_BOX", ""))
    for name in list(os.environ):  # the caller's own AWS has no part in it
        if name.startswith(("AWS_", "CERBERUS_")) or name.lower().endswith(("_proxy", "_ca_bundle")):
            del os.environ[name]
    with LocalStack() as stack:
        os.environ.update(stack.environment(ROLE))
        print("CERBERUS_URL is not set: running against the local stack.")
        return run(SECRET_PATH)


def run(secret: str, box: str = "") -> int:
    """Print the table, and return the exit code."""
    box = box or "/".join(secret.split("/")[:2])
    if not secret.startswith(f"{box}/"):
        print("Set ACCEPTANCE_SECRET to a secret that this principal can read: category/box/path.", file=sys.stderr)
        return 2
    try:
        settings = Settings.from_env()
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{settings.url}\nmethod {settings.auth_method}, region {settings.region}, secret {secret}\n")
    print(f"{'asked':36}{'expected':29}came")
    failed = 0
    with Suite(settings, secret, box) as suite:
        for check in suite.checks():
            came, why = check.run()
            ok = came in check.expected
            failed += not ok
            print(f"{check.asked:36}{' or '.join(check.expected):29}{came:22}{'ok' if ok else 'FAILED'}", flush=True)
            if why and not ok:
                print(f"    {why}")
    print(f"\n{failed} FAILED" if failed else "\nAll ok")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

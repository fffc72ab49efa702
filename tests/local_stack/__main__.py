"""Run a local Cerberus and AWS until Ctrl-C, and print the commands that use them."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from pathlib import Path

import cerberus_auth

from .stack import ROLE, SECRET_PATH, LocalStack


def main() -> int:
    """Run the stack and return the exit code: 0 after Ctrl-C or SIGTERM, 2 if the port is in use."""
    parser = argparse.ArgumentParser(prog="python -m local_stack", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="the port of Cerberus (default: a free one)")
    parser.add_argument("--region", default="us-west-2", help="the AWS region of the function (default: %(default)s)")
    parser.add_argument("--no-tls", action="store_true", help="use plain http")
    arguments = parser.parse_args()

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    try:
        stack = LocalStack(tls=not arguments.no_tls, region=arguments.region, port=arguments.port)
    except (OSError, OverflowError) as error:
        print(f"Cerberus cannot listen on port {arguments.port} ({error}). Choose another --port.", file=sys.stderr)
        return 2
    with stack:
        print("# Run these commands in another terminal. The AWS credentials expire after an hour.")
        package = Path(cerberus_auth.__file__).parents[1]
        for name, value in {**stack.environment(ROLE), "PYTHONPATH": str(package)}.items():
            print(f"export {name}={shlex.quote(value)}")
        code = f'from cerberus_auth import CerberusClient; print(dict(CerberusClient().read("{SECRET_PATH}")))'
        print(f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}", flush=True)
        print("The local stack is running. Press Ctrl-C to stop it.", file=sys.stderr)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m local_stack``: runs the local stack until Ctrl-C, and prints what to export to use it by hand."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading

from .stack import ROLE, SECRET_PATH, LocalStack


def main() -> int:
    """Return the exit code: 0 after Ctrl-C or SIGTERM, 2 where the port is in use."""
    parser = argparse.ArgumentParser(prog="python -m local_stack", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="Cerberus' port (default: the system chooses one)")
    parser.add_argument("--region", default="us-west-2", help="the function's region (default: %(default)s)")
    parser.add_argument("--no-tls", action="store_true", help="plain HTTP between the parts")
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
        environment = stack.environment(ROLE)
        for name, value in environment.items():
            print(f"export {name}={shlex.quote(value)}")
        code = f'from cerberus_auth import CerberusClient; print(dict(CerberusClient().read("{SECRET_PATH}")))'
        print(f"# and then: python -c {shlex.quote(code)}", flush=True)
        print("The local stack is running; the keys last an hour. Ctrl-C ends it.", file=sys.stderr)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One container of ``fleet``: a process that reads its secrets until the hour is over, and then prints what it saw.

Run as a script: ``fleet_process.py END PAUSE PATH...``. END is a time of the monotonic clock, and PAUSE is the mean number of
seconds between two invocations.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time

from cerberus_auth import CerberusClient, CerberusError


def main() -> None:
    end, pause, paths = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    client = CerberusClient()
    reads, oldest, longest = 0, 0.0, 0.0
    failed: list[str] = []
    while time.monotonic() < end:
        for path in paths:
            reads, began = reads + 1, time.monotonic()
            try:
                asked = float(client.read(path)["asked"])
            except CerberusError as error:
                failed.append(f"{type(error).__name__}: {error}")
            else:
                oldest = max(oldest, time.time() - asked)
            longest = max(longest, time.monotonic() - began)
        time.sleep(max(0.0, min(pause * random.uniform(0.5, 1.5), end - time.monotonic())))
    seen = {"reads": reads, "failed": len(failed), "errors": failed[:1], "oldest": oldest, "longest": longest}
    os.write(1, json.dumps(seen).encode() + b"\n")  # in one piece, because all processes share the pipe


if __name__ == "__main__":
    main()

"""The function of ``soak``: its threads use one token at an even rate, and each thread reads its own secret.

It prints its state as a line of JSON twice a second and at the end.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cerberus_auth import CerberusAuth, CerberusClient

READS = 10  # every tenth use reads; the others only call token()


class Function:
    """The function. ``pause`` is the number of seconds between two uses of a thread."""

    def __init__(self, uses: int, threads: int, pause: float) -> None:
        self._auth = CerberusAuth()
        self._client = CerberusClient(self._auth)
        self._uses = uses
        self._pause = pause
        self._done = [0] * threads
        self._authentications = 0
        self._errors: list[dict[str, Any]] = []
        logger = logging.getLogger("cerberus_auth")
        logger.setLevel(logging.INFO)
        logger.addFilter(self._count)

    def _count(self, record: logging.LogRecord) -> bool:
        self._authentications += record.levelno == logging.INFO
        return False

    def run(self) -> None:
        threads = [threading.Thread(target=self._use, args=(number,)) for number in range(len(self._done))]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.5)
            self._report(time.monotonic() - began)

    def _use(self, number: int) -> None:
        began = time.monotonic()
        for use in range(self._uses):
            time.sleep(max(0.0, began + use * self._pause - time.monotonic()))
            path = f"app/orders/{number}" if use % READS == 0 else ""
            held, asked = self._auth.service.tokens.kept.get("token"), time.monotonic()
            try:
                if not path:
                    self._auth.token()
                elif self._client.read(path) != {"thread": str(number)}:
                    raise AssertionError("The read returned the secret of another thread")
            except Exception as error:
                token_held = (
                    held is not None and held is self._auth.service.tokens.kept.get("token") and held.stage() < 2
                )
                what = {"text": f"{type(error).__name__}: {error}", "path": path, "token_held": token_held}
                self._errors.append({**what, "asked": asked, "raised": time.monotonic()})
            self._done[number] = use + 1

    def _report(self, seconds: float) -> None:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        files = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        sample = {
            "seconds": round(seconds, 1),
            "uses": sum(self._done),
            "authentications": self._authentications,
            "KiB": int(status.partition("VmRSS:")[2].split()[0]),
            "blocks": sys.getallocatedblocks(),
            "sockets": sum(file.startswith("socket:") for file in files),
            "errors": self._errors,
        }
        print(json.dumps(sample), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("uses", type=int)
    parser.add_argument("threads", type=int)
    parser.add_argument("pause", type=float)
    Function(**vars(parser.parse_args())).run()

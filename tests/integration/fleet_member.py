"""The containers of a fleet: processes forked from one that has imported the package and made its auth, each at its start.

Run as a script: ``fleet_member.py COUNT GATE...``. Each gate is the reading end of a pipe; all wait at it until its writing end
is closed. After the first each gets a token, after every other it reads a secret, and each tells of it in a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from cerberus_auth import CerberusAuth, CerberusClient, CerberusError

PATH = "app/orders/db"


def main() -> None:
    count, *gates = (int(argument) for argument in sys.argv[1:])
    auth = CerberusAuth()
    client = CerberusClient(auth)
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            live(number, auth, client, gates)
            for thread in threading.enumerate():
                if thread.name == "cerberus-auth":  # a container does not end with its last invocation
                    thread.join(5)
            os._exit(0)
        children.append(child)
    tell({"ready": count})
    for child in children:
        os.waitpid(child, 0)


def live(number: int, auth: CerberusAuth, client: CerberusClient, gates: list[int]) -> None:
    for phase, gate in enumerate(gates):
        os.read(gate, 1)
        began = time.monotonic()
        result: dict[str, object] = {"number": number, "phase": phase, "process": os.getpid()}
        try:
            if phase:
                result["revision"] = client.read(PATH, timeout=30).get("revision")
            result["token"] = auth.token()
        except CerberusError as error:
            result["error"] = f"{type(error).__name__}: {error}"
        tell(result | {"seconds": time.monotonic() - began})


def tell(fields: dict[str, object]) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")  # in one piece: shorter than a pipe's atomic write


if __name__ == "__main__":
    main()

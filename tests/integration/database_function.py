"""A function with a database. Run as a script, by an interpreter that has the drivers: ``database_function.py CODE``.

Each line of its input is a number of threads. All call the handler at once, and a line of JSON tells how often each outcome
came: what the handler returned, or the class of its error.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any


def main() -> None:
    app: dict[str, Any] = {}
    exec(compile(Path(sys.argv[1]).read_text(), "app.py", "exec"), app)  # noqa: S102  (the recipe under test)
    for line in sys.stdin:
        print(json.dumps(called(app["handler"], int(line))), flush=True)


def called(handler: Any, threads: int) -> dict[str, int]:
    outcomes: Counter[str] = Counter()
    together, lock = threading.Barrier(threads), threading.Lock()

    def call() -> None:
        together.wait()
        try:
            outcome = str(handler({"order": 1}, None))
        except Exception as error:
            outcome = type(error).__name__
        with lock:
            outcomes[outcome] += 1

    started = [threading.Thread(target=call) for _ in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return dict(outcomes)


if __name__ == "__main__":
    main()

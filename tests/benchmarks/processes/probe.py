"""Run one client in this process, and print its figures as JSON: ``python -S -c "import probe; probe.run('floor')"``.

A client is a module. Its import is what a function does at module scope. ``token()`` authenticates, and ``secret()`` reads the
first secret. ``WARM`` contains cached calls, ``UNCACHED`` calls that reach the service. Each of them is optional.
"""

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ROUNDS = 5
_NANOSECONDS = 4_000_000  # of one round, about
_SETTLE_SECONDS = 0.05  # more than one period of a quota


def run(name: str) -> None:
    """Print CPU seconds, the clock and VmHWM in KiB after ``token`` and after ``secret``."""
    if "BENCH_RUNTIME_CLIENT" in os.environ:
        import awslambdaric.bootstrap  # noqa: F401
    contestant = __import__(name)
    figures: dict[str, object] = {}
    spent = 0.0
    for step in ("token", "secret"):
        getattr(contestant, step, lambda: None)()
        cpu, clock = time.process_time(), time.monotonic()
        figures[step] = [cpu - spent, clock, _peak()]
        spent += time.process_time() - cpu
    figures |= getattr(contestant, "FIGURES", {})
    if "BENCH_WARM" in os.environ:
        warm: dict[str, Callable[[], object]] = getattr(contestant, "WARM", {})
        figures["warm"] = {what: _nanoseconds(call, time.perf_counter_ns) for what, call in warm.items()}
        uncached: dict[str, Callable[[], object]] = getattr(contestant, "UNCACHED", {})
        figures["uncached"] = {what: _nanoseconds(call, time.process_time_ns) for what, call in uncached.items()}
    _end(figures)


def first_use(name: str) -> None:
    """Initialize with a full CPU, as Lambda does, then use the client under the CPU quota of ``BENCH_CGROUP``.

    Standard output gets the seconds from there to the first secret.
    """
    import awslambdaric.bootstrap  # noqa: F401

    contestant = __import__(name)
    with open(os.environ["BENCH_CGROUP"] + "/cgroup.procs", "w", encoding="ascii") as members:
        members.write("0")  # this process
    time.sleep(_SETTLE_SECONDS)
    start = time.perf_counter()
    for step in ("token", "secret"):
        getattr(contestant, step, lambda: None)()
    _end({"seconds": time.perf_counter() - start})


def _end(figures: dict[str, object]) -> None:
    import json

    sys.stdout.write(json.dumps(figures))
    sys.stdout.flush()
    os._exit(0)  # the end of an interpreter is no part of a function's life


def _peak() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def _nanoseconds(call: "Callable[[], object]", clock: "Callable[[], int]") -> float:
    """Of one call, the least of some rounds: what disturbs only adds."""
    number = 1
    while (taken := _timed(call, number, clock)) < _NANOSECONDS and number < 1 << 20:
        number *= 2
    return min(taken, *(_timed(call, number, clock) for _ in range(_ROUNDS - 1))) / number


def _timed(call: "Callable[[], object]", number: int, clock: "Callable[[], int]") -> int:
    rounds = range(number)
    start = clock()
    for _ in rounds:
        call()
    return clock() - start

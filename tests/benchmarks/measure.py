"""The measurements: new processes in rounds, and containers of AWS's runtime."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from local_stack.runtime import LAMBDA_HOME, LambdaRuntime

from .contestants import BARE, Contestant, runtime_packages
from .quota import FULL_CPU_MEMORY, cpu_quota

STEPS = ("token", "secret")
MEMORY_SIZES = (128, 512, 1769)  # MB


@dataclass(frozen=True)
class Sample:
    """The figures of one process."""

    cpu: dict[str, float]
    """CPU milliseconds (user and system) from the start of the process, by step."""
    wall: dict[str, float]
    """Elapsed milliseconds from before the start of the process, by step."""
    peak: dict[str, int]
    """Peak memory (VmHWM) in KiB, by step."""
    warm: dict[str, float]
    """Nanoseconds of a cached call, by call."""
    uncached: dict[str, float]
    """CPU nanoseconds of an uncached call over a reused connection, by call."""
    imported: tuple[float, float]
    """Elapsed and CPU milliseconds of the import of this package."""


Samples = dict[tuple[str, bool], list[Sample]]
"""Samples in the order of the rounds, by client and whether the runtime client was loaded first."""


def _probe(
    step: str, contestant: Contestant, processes: Path, environment: dict[str, str], with_runtime: bool
) -> dict[str, Any]:
    """Run a function of ``probe`` in a new process, and return what it prints.

    Raises
    ------
    RuntimeError
        The process failed.
    """
    path = [processes, *contestant.path]
    if with_runtime or contestant.needs_sdk:
        path.append(runtime_packages())
    variables = {
        **{"PATH": os.defpath, "HOME": LAMBDA_HOME, "LANG": "en_US.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        **environment,
        **contestant.environment,
        "PYTHONPATH": os.pathsep.join(map(str, path)),
    }
    command = [sys.executable, "-S", "-s", "-c", f"import probe; probe.{step}({contestant.module!r})"]
    ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    if ended.returncode != 0:
        raise RuntimeError(f"{contestant.name} failed:\n{ended.stdout}{ended.stderr}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def run(contestant: Contestant, processes: Path, environment: dict[str, str], runtime_client: bool) -> Sample:
    """One process.

    :raises RuntimeError: it failed.
    """
    if runtime_client:
        environment = {**environment, "BENCH_RUNTIME_CLIENT": "1", "BENCH_WARM": "1"}
    start = time.monotonic()
    figures = _probe("run", contestant, processes, environment, runtime_client)
    wall, cpu = figures.get("import", (0.0, 0.0))
    return Sample(
        cpu={step: figures[step][0] * 1e3 for step in STEPS},
        wall={step: (figures[step][1] - start) * 1e3 for step in STEPS},
        peak={step: figures[step][2] for step in STEPS},
        warm=figures.get("warm", {}),
        uncached=figures.get("uncached", {}),
        imported=(wall, cpu),
    )


def cold(
    contestants: Sequence[Contestant],
    processes: Path,
    environment: dict[str, str],
    rounds: int,
    progress: Callable[[str], None],
) -> Samples:
    """Measure all clients in each round, in random order. The first round is a warm-up."""
    pairs = [(each, client) for each in contestants for client in (False, True) if each.cold or client]
    samples: Samples = defaultdict(list)
    start = time.monotonic()
    for number in range(rounds + 1):
        for contestant, client in random.Random(number).sample(pairs, len(pairs)):
            sample = run(contestant, processes, environment, client)
            if number:
                samples[contestant.name, client].append(sample)
        progress(f"\rcold start: round {number} of {rounds}, {time.monotonic() - start:.0f} s ")
    progress("\n")
    return samples


def over(base: Sequence[float], figures: Sequence[float]) -> float:
    """Return the median of the paired differences."""
    return median(figure - least for figure, least in zip(figures, base, strict=True))


def cpu(samples: Samples, name: str, step: str, client: bool) -> float:
    """Return the CPU milliseconds in addition to the bare interpreter."""
    return over(*([each.cpu[step] for each in samples[who, client]] for who in (BARE.name, name)))


def wall(samples: Samples, name: str, step: str, client: bool) -> float:
    """Return the elapsed milliseconds in addition to the bare interpreter."""
    return over(*([each.wall[step] for each in samples[who, client]] for who in (BARE.name, name)))


def peak(samples: Samples, name: str, step: str, client: bool) -> float:
    """Return the peak memory in MiB in addition to the bare interpreter."""
    return over(*([each.peak[step] / 1024 for each in samples[who, client]] for who in (BARE.name, name)))


def in_lambda(
    contestants: Sequence[Contestant],
    processes: Path,
    folder: Path,
    environment: dict[str, str],
    rounds: int,
    progress: Callable[[str], None],
) -> dict[str, tuple[float, float]]:
    """Return median milliseconds of initialization and first invocation in AWS's runtime, by name."""
    artifact = folder / "function"
    shutil.copytree(processes, artifact)
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for number in range(rounds):
        for contestant in random.Random(number).sample(contestants, len(contestants)):
            variables = {**environment, **contestant.environment, "BENCH_CONTESTANT": contestant.module}
            with LambdaRuntime(artifact, "app.handler", contestant.path, variables) as container:
                invocation = container.invoke({})
                if invocation.error or container.init_milliseconds is None:
                    raise RuntimeError(f"{contestant.name} failed in the runtime:\n{container.log}")
                initialising = container.init_milliseconds
            times[contestant.name].append((initialising, invocation.milliseconds - initialising))
        progress(f"\rAWS's runtime: round {number + 1} of {rounds} ")
    progress("\n")
    return {
        name: (median(init for init, _ in all_), median(first for _, first in all_)) for name, all_ in times.items()
    }


def in_handler(
    contestants: Sequence[Contestant],
    processes: Path,
    environment: dict[str, str],
    rounds: int,
    progress: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Return median milliseconds of the first secret in a handler, by name and memory size.

    Raises
    ------
    QuotaUnavailableError
        This machine does not allow CPU quotas.
    """
    times: dict[str, dict[str, list[float]]] = {each.name: defaultdict(list) for each in contestants}
    for size in MEMORY_SIZES:
        with cpu_quota(size / FULL_CPU_MEMORY) as group:
            variables = {**environment, "BENCH_CGROUP": str(group)}
            for number in range(rounds):
                for contestant in random.Random(number).sample(contestants, len(contestants)):
                    found = _probe("first_use", contestant, processes, variables, True)
                    times[contestant.name][str(size)].append(found["seconds"] * 1e3)
                progress(f"\rhandler with {size} MB: round {number + 1} of {rounds} ")
        progress("\n")
    return {name: {size: median(all_) for size, all_ in sizes.items()} for name, sizes in times.items()}

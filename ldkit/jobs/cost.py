"""What running a function costs: time, page faults, bytes from disk; and where it ran."""

import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ldkit.jobs.facts import Fact

PROCESS = Path("/proc/self")


class Cost(NamedTuple):
    """What one call cost this process."""

    wall_s: float
    cpu_s: float
    faults: int
    """Page faults that needed no disk: memory that was touched first."""
    read_bytes: int | None
    """Bytes that came from a disk; None: the system does not count them."""


def measured(run: Callable[[], object]) -> Cost:
    """Return what a call costs."""
    read, faults = _read_bytes(), _faults()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    faults = _faults() - faults
    after = _read_bytes()
    return Cost(wall, cpu, faults, None if read is None or after is None else after - read)


def resident_bytes() -> int | None:
    """Return how much memory this process holds; None: the system does not say."""
    try:
        pages = int((PROCESS / "statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize()


def machine() -> Fact:
    """Return what times depend on: the processor, and how busy others keep it."""
    load, cores = os.getloadavg()[0], os.cpu_count()
    text = f"{_processor()}, {cores} cores, load {load:.1f}"
    return Fact(text, {"processor": _processor(), "cores": cores, "load": load})


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line for line in lines if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _read_bytes() -> int | None:
    try:
        lines = (PROCESS / "io").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    counts = dict(line.split(": ") for line in lines)
    return int(counts["read_bytes"])

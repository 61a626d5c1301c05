"""Runs one measurement in this process and prints what it took, as one line of JSON.

Needs nothing but the standard library, because a peer's environment runs it too.
"""

from __future__ import annotations

import importlib
import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MARK = "measured: "


class Watch:
    """Seconds of the work that is measured; what stands outside of ``with watch():`` is not."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self.of_children = False
        """Whether the work is a command, so that the peak memory is that of the process it started."""

    @contextmanager
    def __call__(self, lap: str = "work") -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.laps[lap] = self.laps.get(lap, 0.0) + time.perf_counter() - begin


def peak_mb(who: int) -> float:
    """Peak resident memory, MB of 10^6 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit / 1e6


def main(text: str) -> None:
    asked: dict[str, Any] = json.loads(text)
    if gigabytes := asked["memory_gb"]:
        resource.setrlimit(resource.RLIMIT_DATA, (int(gigabytes * 1e9),) * 2)
    module, _, function = asked["target"].partition(":")
    watch = Watch()
    found: dict[str, Any] = {"values": {}, "error": None}
    try:
        measured = getattr(importlib.import_module(module), function)
        found["values"] = measured(watch, **asked["arguments"]) or {}
    except MemoryError:
        found["error"] = f"out of memory (limit {gigabytes:g} GB)" if gigabytes else "out of memory"
    found["seconds"] = sum(watch.laps.values())
    found["laps"] = watch.laps
    who = resource.RUSAGE_CHILDREN if watch.of_children else resource.RUSAGE_SELF
    found["peak_mb"] = peak_mb(who)
    found["cpu_seconds"] = sum(resource.getrusage(who)[:2])
    print(MARK + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

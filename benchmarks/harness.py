"""Every measurement in a fresh process, ours and the peer's in turn, medians over several runs."""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.child import MARK

NO_TIME = "no time left"


@dataclass(frozen=True)
class Work:
    """One thing to measure.

    Attributes
    ----------
    target
        ``module:function``, which gets a :class:`~benchmarks.child.Watch` and the arguments.
    arguments
        Name and value, in a form that JSON knows.
    needs
        Inputs, made once before.
    warm
        What fills the caches of compiled code; run once before the first measurement and forgotten.
    python
        Interpreter; a sentence that holds a space says why there is none.
    limit
        Seconds after which a process is stopped.
    memory_gb
        Private memory that a process may ask for; None: no limit.
    runs
        Processes that are measured.
    """

    target: str
    arguments: tuple[tuple[str, Any], ...] = ()
    needs: tuple[Work, ...] = ()
    warm: Work | None = None
    python: str = sys.executable
    limit: float = 600.0
    memory_gb: float | None = None
    runs: int = 1

    @property
    def key(self) -> str:
        """What results are kept under."""
        return f"{self.target} {json.dumps(dict(self.arguments), sort_keys=True)}"


def work(
    target: str,
    *,
    needs: Sequence[Work] = (),
    warm: Mapping[str, Any] | None = None,
    limit: float = 600.0,
    memory_gb: float | None = None,
    python: str = sys.executable,
    runs: int = 1,
    **arguments: Any,
) -> Work:
    """A :class:`Work` whose warm-up takes the same arguments but for those in ``warm``."""
    plain = Work(
        target, _frozen(arguments), tuple(needs), python=python, limit=limit, memory_gb=memory_gb, runs=runs
    )
    before = None if warm is None else replace(plain, arguments=_frozen(arguments | dict(warm)))
    return replace(plain, warm=before)


def _frozen(arguments: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, tuple(v) if isinstance(v, list) else v) for k, v in arguments.items()))


@dataclass
class Result:
    """What the runs of one measurement found.

    Attributes
    ----------
    runs
        One entry per process: ``seconds``, ``laps``, ``peak_mb``, ``values``, and ``cpu_seconds`` of the
        whole process.
    error
        Why there is no number, or none more.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None and bool(self.runs)

    @property
    def seconds(self) -> float:
        """Median."""
        return statistics.median(run["seconds"] for run in self.runs)

    @property
    def peak_mb(self) -> float:
        """Largest of the runs."""
        return max(run["peak_mb"] for run in self.runs)

    @property
    def values(self) -> dict[str, Any]:
        return dict(self.runs[-1]["values"])

    def median(self, value: str) -> float:
        """Median of a number among the values."""
        return statistics.median(run["values"][value] for run in self.runs)

    def lap(self, name: str) -> float:
        """Median seconds of a part of the work."""
        return statistics.median(run["laps"][name] for run in self.runs)


class Bench:
    """Measures, and keeps what it measured in a file so that an interrupted set can go on.

    Parameters
    ----------
    store
        JSON file of results; what it has is not measured again if ``resume``, crashes excepted.
    tell
        Called with a line of progress.
    seconds
        Time of the whole set: what has not begun by then is left out, and not kept.
    """

    def __init__(
        self,
        store: Path,
        *,
        resume: bool = False,
        tell: Callable[[str], None] = print,
        seconds: float = math.inf,
    ) -> None:
        self._store, self._tell, self._end = store, tell, time.monotonic() + seconds
        self._ready: set[str] = set()
        self._found: dict[str, Result] = {}
        if resume and store.exists():
            kept = json.loads(store.read_text(encoding="utf-8"))
            self._found = {
                key: Result(**result) for key, result in kept.items() if not _crashed(result["error"])
            }

    @property
    def failures(self) -> list[str]:
        """What could not be measured, and why."""
        return [f"{key}: {result.error}" for key, result in self._found.items() if result.error]

    def known(self, work: Work) -> Result | None:
        """What was measured, if it was."""
        return self._found.get(work.key)

    def measure(self, *works: Work) -> list[Result]:
        """Measure works in turn, each as often as it says; what was measured before is not again."""
        open_ = [work for work in works if work.key not in self._found]
        if open_ and time.monotonic() > self._end:
            self._tell(f"no time left: {', '.join(work.key for work in open_)}")
            return [self._found.get(work.key, Result(error=NO_TIME)) for work in works]
        for work in open_:
            for before in (*work.needs, *((work.warm,) if work.warm else ())):
                self._once(before)
            self._found[work.key] = Result()
        for number in range(max((work.runs for work in open_), default=0)):
            for work in open_:
                result = self._found[work.key]
                if result.error is None and number < work.runs:
                    found = run(work)
                    result.error = found.pop("error")
                    if result.error is None:
                        result.runs.append(found)
                    self._tell(f"{work.key}: {result.error or f'{found["seconds"]:.3g} s'}")
                    self._save()
        return [self._found[work.key] for work in works]

    def _once(self, work: Work) -> None:
        """Make an input or fill a cache."""
        for before in work.needs:
            self._once(before)
        if work.key not in self._ready:
            self._ready.add(work.key)
            error = run(work)["error"]
            self._tell(f"before: {work.key}{f': {error}' if error else ''}")

    def _save(self) -> None:
        kept = {key: asdict(result) for key, result in self._found.items() if result.runs or result.error}
        self._store.parent.mkdir(parents=True, exist_ok=True)
        self._store.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _crashed(error: str | None) -> bool:
    """Whether a result is worth another try: not one that met its limit of time or memory."""
    return error is not None and not error.startswith(("stopped", "out of memory"))


def run(work: Work) -> dict[str, Any]:
    """Measure once, in a fresh process."""
    if " " in work.python:
        return {"error": work.python}
    asked = {"target": work.target, "arguments": dict(work.arguments), "memory_gb": work.memory_gb}
    process = subprocess.Popen(
        [work.python, "-m", "benchmarks.child", json.dumps(asked)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=work.limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"error": f"stopped after {work.limit:,.0f} s"}
    lines = [line for line in out.splitlines() if line.startswith(MARK)]
    if process.returncode or not lines:
        said = err.strip().splitlines() or [f"exit status {process.returncode}"]
        return {"error": f"failed: {said[-1]}"}
    found: dict[str, Any] = json.loads(lines[-1].removeprefix(MARK))
    return found

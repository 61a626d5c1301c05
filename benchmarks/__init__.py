"""Benchmarks that anyone can run: ``make bench`` (5 minutes) and ``make bench-long`` (half an hour).

A measurement is a function of ``ours``, ``marketing`` or ``lifetimes_fit`` that ``child`` runs in a
process of its own; ``harness`` takes ours and the peer in turn and keeps medians; ``suite`` says what
is measured; ``tables`` and ``figures`` draw it into ``docs/benchmarks.md``.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]


def cache() -> Path:
    """Where inputs and results are kept between runs; ``CLVMODELS_BENCH_CACHE`` moves it."""
    folder = Path(os.environ.get("CLVMODELS_BENCH_CACHE", ROOT / "benchmarks" / ".cache"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder

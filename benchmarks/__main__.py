"""``python -m benchmarks``: measure a set, print its tables, keep them in ``docs/benchmarks.md``."""

from __future__ import annotations

import argparse
import datetime as dt
import os
import sys
import time
from dataclasses import replace

from benchmarks import ROOT, cache, peers, tables
from benchmarks.harness import Bench
from benchmarks.suite import SIZES, Suite

PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    names = tuple(Suite(Bench(cache() / "none.json"), SIZES["short"]).sections)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--set", choices=tuple(SIZES), default="short")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION", help=", ".join(names))
    parser.add_argument("--resume", action="store_true", help="keep what an interrupted run has measured")
    parser.add_argument("--no-page", action="store_true", help=f"print only; leave {PAGE.name} as it is")
    parser.add_argument("--runs", type=int, help="processes of what takes seconds; default: 3")
    parser.add_argument("--minutes", type=float, help="begin nothing after; default: 6, long 28")
    asked = parser.parse_args()
    size = SIZES[asked.set]
    size = size if asked.runs is None else replace(size, runs=asked.runs)
    size = size if asked.minutes is None else replace(size, minutes=asked.minutes)
    begin, load = time.monotonic(), os.getloadavg()[0]

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - begin:5.0f} s] {line}", file=sys.stderr, flush=True)

    store = cache() / f"results-{asked.set}.json"
    bench = Bench(store, resume=asked.resume, tell=tell, seconds=60 * size.minutes)
    suite = Suite(bench, size)
    found = [
        table.markdown()
        for name, section in suite.sections.items()
        if asked.only is None or name in asked.only
        for table in section()
    ]
    facts = (
        f"{dt.date.today():%Y-%m-%d}, commit {peers.revision()}, "
        f"{(time.monotonic() - begin) / 60:.0f} minutes"
        f"{' (resumed)' if asked.resume else ''}.\n"
        f"Machine: {peers.machine()}; load average {load:.1f} before, {os.getloadavg()[0]:.1f} after "
        "(own work included).\n"
        f"Versions: {peers.versions()}."
    )
    text = "\n\n".join([facts, *([suite.targets().markdown()] if asked.only is None else []), *found])
    print(text)
    for failure in bench.failures:
        tell(f"not measured: {failure}")
    if not asked.no_page:
        from benchmarks.figures import scaling

        figure = PAGE.parent / "figures" / f"benchmarks-{asked.set}.svg"
        if scaling(suite, figure):
            text += (
                f"\n\n### Scaling\n\n![time and peak memory]({figure.relative_to(PAGE.parent).as_posix()})"
            )
        tables.write(PAGE, asked.set, text)
    return int(any(key.startswith("benchmarks.ours:") for key in bench.failures))


if __name__ == "__main__":
    sys.exit(main())

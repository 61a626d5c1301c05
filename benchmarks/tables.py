"""Tables in Markdown, and the dated page that holds them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Result


@dataclass(frozen=True)
class Table:
    """A heading, a paragraph, and rows under a header."""

    title: str
    text: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]

    def markdown(self) -> str:
        lines = [f"### {self.title}", "", self.text, ""]
        lines += ["| " + " | ".join(row) + " |" for row in (self.header, *self.rows)]
        lines.insert(5, "|" + "|".join("---" for _ in self.header) + "|")
        return "\n".join(lines)


def seconds(value: float) -> str:
    """Three digits and a unit."""
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def took(result: Result) -> str:
    """Median seconds with the number of runs, or why there are none."""
    if result.error:
        return result.error
    runs = len(result.runs)
    return seconds(result.seconds) + (f" (n={runs})" if runs != 1 else "")


def memory(result: Result) -> str:
    """Peak resident memory of the process."""
    return f"{result.peak_mb / 1000:.2f} GB" if result.runs else "–"


def ratio(peer: Result, ours: Result) -> str:
    """How many times the peer's seconds are ours."""
    if not (peer.ok and ours.ok):
        return "–"
    found = peer.seconds / ours.seconds
    return f"{found:,.0f}×" if found >= 10 else f"{found:.2g}×"


def write(path: Path, name: str, text: str) -> None:
    """Put ``text`` between the marks of the set ``name``; the rest of the page stays."""
    page = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"{path} has no place for the set {name}")
    path.write_text(pattern.sub(lambda _: f"{begin}\n{text.strip()}\n{end}", page), encoding="utf-8")

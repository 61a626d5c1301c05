"""The benchmarks' harness, the smallest of their measurements, and their place in the Makefile."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import baskets, harness, suite, tables, validation  # noqa: E402
from benchmarks.child import Watch  # noqa: E402
from benchmarks.harness import Bench, work  # noqa: E402

SILENT = "benchmarks.ours:command"


def small(code: str, **options) -> harness.Work:
    return work(SILENT, arguments=["-c", code], **options)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLVMODELS_BENCH_CACHE", str(tmp_path))


def bench(folder: Path, **options) -> Bench:
    return Bench(folder / "results.json", tell=lambda line: None, **options)


def test_works_take_turns_after_their_warm_ups(tmp_path):
    """Each process leaves its letter in a file: warm-ups first, then in turn, as often as each says."""
    note = tmp_path / "order"

    def leaves(letter: str) -> list[str]:
        return ["-c", f"open({str(note)!r}, 'a').write({letter!r})"]

    works = [
        work(SILENT, arguments=leaves(letter), warm={"arguments": leaves("w")}, runs=runs)
        for letter, runs in (("a", 3), ("b", 2))
    ]
    found = bench(tmp_path).measure(*works)
    assert note.read_text() == "wababa"
    assert [len(result.runs) for result in found] == [3, 2]
    again = bench(tmp_path, resume=True)
    assert [result.seconds for result in again.measure(*works)] == [result.seconds for result in found]
    assert note.read_text() == "wababa"


def test_what_has_no_time_left_is_measured_when_the_set_goes_on(tmp_path):
    late = bench(tmp_path, seconds=-1.0)
    (found,) = late.measure(small("pass"))
    assert not found.ok
    assert tables.took(found) == "no time left"
    assert not late.failures
    (again,) = bench(tmp_path, resume=True).measure(small("pass"))
    assert again.ok


def test_targets_are_met_or_missed_by_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(suite.peers, "lifetimes_python", lambda: "not asked for")

    def took(seconds: float, gigabytes: float = 1.0) -> harness.Result:
        run = {"seconds": seconds, "laps": {}, "peak_mb": 1000 * gigabytes, "values": {}}
        return harness.Result(runs=[run])

    found = bench(tmp_path)
    measured = suite.Suite(found, suite.SIZES["long"])
    ours, its = measured.demo
    for one, result in (
        (measured.fold(100_000_000), took(45, 5.0)),
        (measured.posterior(1_000_000), took(40)),
        (ours, took(10)),
        (its, took(90)),
    ):
        found._found[one.key] = result
    rows = {row[0]: row[1:] for row in measured.targets().rows}
    assert rows["folding 100,000,000 transactions"] == ("90 s", "45 s", "met")
    assert rows["folding 100,000,000 transactions, peak"] == ("4 GB", "5.00 GB", "missed, 1.2×")
    assert rows["posterior, bg_nbd, 1,000,000"] == ("20 s", "40 s", "missed, 2×")
    assert rows["CDNOW demo against pymc-marketing"] == ("6×", "9×", "met")
    assert len(rows) == 5  # nothing is said of what was not measured


def test_peak_memory_is_that_of_the_process(tmp_path):
    """Touching 200 MB costs 200 MB, in one process and not in the next; an interpreter has about 10."""
    touch, none = bench(tmp_path).measure(small("b'x' * 200_000_000"), small("pass"))
    assert 200 < touch.peak_mb < 230
    assert none.peak_mb < 30


def test_what_breaks_says_why(tmp_path, monkeypatch):
    (tmp_path / "greedy.py").write_text("def take(watch, size):\n    bytearray(size)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    found = bench(tmp_path).measure(
        small("import time; time.sleep(60)", limit=0.5),
        small("raise ValueError('no')"),
        work("benchmarks.ours:command", python="there is no such peer", arguments=[]),
        work("greedy:take", size=2_000_000_000, memory_gb=1),
    )
    said = [result.error for result in found]
    assert said[0] == "stopped after 0 s"
    assert said[1].startswith("failed: ")
    assert said[2] == "there is no such peer"
    assert said[3] == "out of memory (limit 1 GB)"
    assert not any(result.ok for result in found)
    assert tables.ratio(found[0], found[1]) == tables.memory(found[0]) == "–"


def test_the_smallest_benchmark(tmp_path):
    """200 simulated customers × 50 draws: what the child values is what this process values."""
    import numpy as np

    from benchmarks import inputs, ours
    from clvmodels.value import Valuation

    inputs.customers(Watch(), customers=200)
    (found,) = bench(tmp_path).measure(work("benchmarks.ours:value", customers=200, draws=50))
    assert found.error is None
    assert found.seconds > 0
    assert found.values["customers"] == 200
    summary = inputs.summary(200)
    valuation = Valuation(summary, inputs.posterior(50), ours.for_ever(summary), seed=1)
    total = ours.valued(valuation, "expected", tmp_path / "customers.parquet")
    assert found.values["mean"] == total.mean()
    import pyarrow.parquet as pq

    table = pq.read_table(tmp_path / "customers.parquet").to_pandas()
    np.testing.assert_allclose(table["value_mean"].sum(), total.mean(), rtol=1e-12)


def test_a_set_keeps_its_own_part_of_the_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("top\n<!-- short: begin -->\nold\n<!-- short: end -->\nbottom\n")
    tables.write(page, "short", tables.Table("T", "text", ("a", "b"), [("1", "2")]).markdown())
    assert page.read_text() == (
        "top\n<!-- short: begin -->\n### T\n\ntext\n\n| a | b |\n|---|---|\n| 1 | 2 |\n<!-- short: end -->\n"
        "bottom\n"
    )
    with pytest.raises(ValueError, match="no place for the set long"):
        tables.write(page, "long", "text")
    for name in suite.SIZES:
        assert f"<!-- {name}: begin -->" in (ROOT / "docs" / "benchmarks.md").read_text()


def test_make_runs_both_sets():
    text = (ROOT / "Makefile").read_text()
    for goal, name in (("bench", "short"), ("bench-long", "long")):
        recipe = re.search(rf"^{goal}: \S+/\.installed-dev\n\t(.+)$", text, re.MULTILINE)
        assert recipe, f"no goal {goal}"
        assert f"-m benchmarks --set {name}" in recipe[1]


# --- docs/validation.md --------------------------------------------------------------------------


def test_every_part_of_the_validation_has_its_place():
    page = validation.PAGE.read_text(encoding="utf-8")
    for name in validation.PARTS:
        between = page.split(f"<!-- {name}: begin -->")[1].split(f"<!-- {name}: end -->")[0]
        assert between.count("\n|") > 3, name
    assert "benchmarks.validation" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_baskets_of_a_simulated_firm_follow_its_purchases(slope):
    """By week, of what all customers have in common: promotions of 40 %, and baskets that follow them."""
    log = baskets.firm(1, weather=0.4, follow=slope)
    week = (log["date"].to_numpy() - baskets.FIRST).astype("timedelta64[D]").astype(int) // 7
    late = (week >= baskets.WINDOW) & (week < week.max())  # nobody joins any more
    count = np.bincount(week[late])[baskets.WINDOW :]
    mean = np.bincount(week[late], log["amount"][late])[baskets.WINDOW :] / count
    away = [np.log(v) - np.log(np.convolve(v, np.ones(9) / 9, "same")) for v in (count, mean)]
    # Of 50 weeks: chance alone has a correlation of .14.
    assert slope * np.corrcoef(*(v[4:-4] for v in away))[0, 1] > 4 * 0.14

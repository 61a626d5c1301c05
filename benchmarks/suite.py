"""What is measured: the short set in about five minutes, the long set in about half an hour."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import peers
from benchmarks.harness import Bench, Result, Work, work
from benchmarks.ours import MONTHLY_RATE
from benchmarks.tables import Table, memory, ratio, seconds, took

DRAWS = 1000
FAMILY = "bg_nbd"
OTHERS = ("mbg_nbd", "pareto_nbd")
SMALL = 1000
"""Customers of a warm-up."""


@dataclass(frozen=True)
class Size:
    """Sizes of a set.

    Attributes
    ----------
    runs
        Processes of what takes seconds; what takes minutes is measured once.
    value, predictive, posterior, lifetimes, nuts, peer_value
        Customers.
    others
        Customers of the families beside BG/NBD.
    value_draws, draws_customers
        Draws, and of how many customers, for the scaling in draws.
    fold
        Transactions.
    coverage
        Customers and repeats; None: not measured.
    on_cdnow
        Whether value is measured on CDNOW too, and how far every number agrees with the peer's.
    unfolded
        Customers with continuous covariates, of whom no two are alike; None: not measured.
    minutes
        What is not begun by then is left out; running the set again with ``--resume`` goes on there.
    limit, memory_gb
        Seconds and memory at which a peer counts as broken.
    """

    runs: int
    minutes: float
    value: tuple[int, ...]
    predictive: tuple[int, ...]
    posterior: tuple[int, ...]
    others: tuple[int, ...]
    lifetimes: tuple[int, ...]
    nuts: tuple[int, ...]
    peer_value: tuple[int, ...]
    value_draws: tuple[int, ...]
    draws_customers: int
    fold: tuple[int, ...]
    coverage: tuple[int, int] | None
    on_cdnow: bool
    unfolded: int | None
    limit: float
    memory_gb: float


SIZES = {
    "short": Size(
        runs=3,
        minutes=6,
        value=(1_000, 100_000),
        predictive=(10_000,),
        posterior=(1_000, 100_000, 1_000_000),
        others=(),
        lifetimes=(100_000,),
        nuts=(),
        peer_value=(1_000,),
        value_draws=(1_000,),
        draws_customers=1_000,
        fold=(1_000_000,),
        coverage=None,
        on_cdnow=False,
        unfolded=None,
        limit=180.0,
        memory_gb=8.0,
    ),
    "long": Size(
        runs=3,
        minutes=28,
        value=(1_000, 10_000, 100_000, 1_000_000, 10_000_000),
        predictive=(100_000, 1_000_000),
        posterior=(1_000, 10_000, 100_000, 1_000_000, 10_000_000),
        others=(100_000, 1_000_000),
        lifetimes=(1_000, 10_000, 100_000, 1_000_000),
        nuts=(1_000, 10_000),
        peer_value=(1_000, 10_000, 100_000),
        value_draws=(100, 1_000, 10_000),
        draws_customers=1_000,
        fold=(1_000_000, 10_000_000, 100_000_000),
        coverage=(10_000, 10),
        on_cdnow=True,
        unfolded=100_000,
        limit=130.0,
        memory_gb=16.0,
    ),
}


class Suite:
    """The measurements of one set, each a method that gives tables."""

    def __init__(self, bench: Bench, size: Size) -> None:
        self.bench, self.size = bench, size

    # ------------------------------------------------------------------------------ works

    def _runs(self, customers: int) -> int:
        return self.size.runs if customers <= 100_000 else 1

    def customers(self, n: int, family: str = FAMILY) -> Work:
        return work("benchmarks.inputs:customers", customers=n, family=family, limit=3600)

    @property
    def cdnow(self) -> Work:
        return work("benchmarks.inputs:demo")

    def value(
        self, n: int | None, draws: int = DRAWS, level: str = "expected", horizon: str = "infinite"
    ) -> Work:
        """Ours; n None: CDNOW."""
        needs = [self.cdnow] if n is None else [self.customers(n), self.customers(SMALL)]
        return work(
            "benchmarks.ours:value",
            needs=needs,
            warm={} if n is None else {"customers": SMALL, "draws": 100},
            runs=self._runs((n or 1) * draws // DRAWS),
            limit=3600,
            customers=n,
            draws=draws,
            level=level,
            horizon=horizon,
            again=horizon != "infinite",
        )

    def peer_value(self, n: int | None, draws: int = DRAWS) -> Work:
        needs = [self.cdnow] if n is None else [self.customers(n), self.customers(SMALL)]
        return work(
            "benchmarks.marketing:value",
            needs=needs,
            warm=None if n is None else {"customers": SMALL, "draws": 100},
            limit=self.size.limit,
            memory_gb=self.size.memory_gb,
            customers=n,
            draws=draws,
        )

    def posterior(self, n: int, family: str = FAMILY) -> Work:
        return work(
            "benchmarks.ours:posterior",
            needs=[self.customers(n, family), self.customers(SMALL, family)],
            warm={"customers": SMALL},
            runs=self._runs(n) if family == FAMILY else 1,
            limit=3600,
            customers=n,
            family=family,
            draws=DRAWS,
        )

    def nuts(self, n: int) -> Work:
        return work(
            "benchmarks.marketing:posterior",
            needs=[self.customers(n), self.customers(SMALL)],
            warm={"customers": SMALL, "draws": 10, "tune": 10},
            limit=self.size.limit,
            memory_gb=self.size.memory_gb,
            customers=n,
            draws=DRAWS,
            tune=1000,
        )

    @functools.cached_property
    def _lifetimes(self) -> str:
        return peers.lifetimes_python()

    def lifetimes(self, n: int, folded: bool = False) -> Work:
        return work(
            "benchmarks.lifetimes_fit:fit",
            needs=[self.customers(n), self.customers(SMALL)],
            warm={"customers": SMALL},
            runs=self._runs(n),
            limit=self.size.limit,
            python=self._lifetimes,
            customers=n,
            folded=folded,
        )

    # ------------------------------------------------------------------------------ tables

    def same_value(self) -> list[Table]:
        """Value on pymc-marketing's terms, the two in turn."""
        rows: list[tuple[str, ...]] = []
        one = self.size.draws_customers
        sweeps: tuple[list[tuple[int | None, int]], ...] = (
            [(None, DRAWS)] if self.size.on_cdnow else [],
            [(n, DRAWS) for n in self.size.peer_value],
            [(one, draws) for draws in self.size.value_draws if draws != DRAWS],
        )
        for sweep in sweeps:
            for n, draws in sweep:
                ours, its = self.bench.measure(
                    self.value(n, draws, horizon="12 months"), self.peer_value(n, draws)
                )
                name = "CDNOW sample, 2,357" if n is None else f"simulated, {n:,}"
                again = ours.median("again") if ours.ok else None
                rows.append(
                    (
                        name,
                        f"{draws:,}",
                        took(ours),
                        seconds(again) if again else "–",
                        took(its),
                        ratio(its, ours),
                        f"{its.seconds / again:,.0f}×" if again and its.ok else "–",
                        memory(ours),
                        memory(its),
                    )
                )
                if not its.ok:
                    break
        agreed = "How far the numbers agree is part of the long set."
        if self.size.on_cdnow:
            (found,) = self.bench.measure(
                work("benchmarks.marketing:agreement", needs=[self.cdnow], draws=DRAWS)
            )
            agreed = _agreement(found)
        return [
            Table(
                "Value, the same customers, draws, horizon and discounting as pymc-marketing",
                f"12 months of 30.4375 days, {MONTHLY_RATE:.0%} a month from the end of each month, no "
                "margin. Ours includes mean, sd and five quantiles of every customer in a parquet file; the "
                "first call of a process loads compiled code, which the next one (again) does not. "
                "Target: 200× per customer-draw. Sizes at which the peer fails say why.\n\n" + agreed,
                (
                    "customers",
                    "draws",
                    "clvmodels",
                    "again",
                    "pymc-marketing",
                    "ratio",
                    "ratio, again",
                    "peak",
                    "its peak",
                ),
                rows,
            )
        ]

    def many_values(self) -> list[Table]:
        """Value of many customers, infinite horizon."""
        rows = []
        for level, sizes in (("expected", self.size.value), ("predictive", self.size.predictive)):
            for n in sizes:
                (found,) = self.bench.measure(self.value(n, level=level))
                per = seconds(found.seconds / n / DRAWS * 1e6) if found.ok else "–"
                rows.append((f"{n:,}", level, took(found), per, memory(found)))
        return [
            Table(
                f"Value of many customers × {DRAWS:,} draws, infinite horizon",
                "Two horizons and the year bands of the report included; level expected writes mean, sd and "
                "five quantiles of every customer to parquet, level predictive sums every draw. Peak "
                "includes the customers' own table. Targets for 1,000,000: 30 s and 2 GB expected, 90 s "
                "predictive; 10,000,000 within 4 GB.",
                ("customers", "level", "time", "per 1,000,000 customer-draws", "peak"),
                rows,
            )
        ]

    def posteriors(self) -> list[Table]:
        """Our posterior at every size, with its certificate."""
        rows = []
        for family, sizes in (
            (FAMILY, self.size.posterior),
            *((name, self.size.others) for name in OTHERS),
        ):
            for n in sizes:
                (found,) = self.bench.measure(self.posterior(n, family))
                rows.append((family, f"{n:,}", *_certificate(found)))
        tables = [
            Table(
                f"Posterior of {DRAWS:,} draws from the folded table",
                "Simulated days over two years; compiling counts (from the caches of an earlier process), "
                "importing PyMC does not. z is the largest distance of a parameter that was put in from "
                "the posterior mean, in posterior sd. Targets for 1,000,000: BG/NBD 20 s, the others "
                "within 3×.",
                (
                    "family",
                    "customers",
                    "distinct rows",
                    "time",
                    "proposals",
                    "k-hat",
                    "ESS",
                    "largest z",
                    "90 % hold",
                    "95 % hold",
                    "peak",
                ),
                rows,
            )
        ]
        if self.size.coverage:
            tables.append(self._coverage(*self.size.coverage))
        return tables

    def _coverage(self, n: int, repeats: int) -> Table:
        rows = []
        for family in (FAMILY, *OTHERS):
            (found,) = self.bench.measure(
                work(
                    "benchmarks.ours:coverage",
                    needs=[self.customers(n, family)],
                    limit=3600,
                    customers=n,
                    repeats=repeats,
                    family=family,
                )
            )
            held = found.values if found.ok else None
            cells = [f"{held[f'held_{p}']} of {held['intervals']}" for p in (90, 95)] if held else ["–", "–"]
            rows.append((family, took(found), *cells))
        return Table(
            f"Intervals that hold the truth, {repeats} samples of {n:,} customers",
            "Every sample is simulated and fitted anew. The parameters of one sample are dependent, so that "
            "the counts vary more than independent ones would.",
            ("family", "time of all fits", "90 %", "95 %"),
            rows,
        )

    def fits(self) -> list[Table]:
        """Our posterior against maximum likelihood and NUTS."""
        sizes = tuple(sorted({*self.size.lifetimes, *self.size.nuts}))
        rows, nuts_works = [], True
        for n in sizes:
            works = [self.posterior(n)]
            if n in self.size.lifetimes:
                works += [self.lifetimes(n), self.lifetimes(n, folded=True)]
            if n in self.size.nuts and nuts_works:
                works.append(self.nuts(n))
            found = {
                one.target + str(dict(one.arguments).get("folded", "")): r
                for one, r in zip(works, self.bench.measure(*works), strict=True)
            }
            ours = found["benchmarks.ours:posterior"]
            cells = [f"{n:,}", took(ours)]
            for name in (
                "benchmarks.lifetimes_fit:fitFalse",
                "benchmarks.lifetimes_fit:fitTrue",
                "benchmarks.marketing:posterior",
            ):
                its = found.get(name)
                cells += [took(its), ratio(its, ours)] if its else ["not run", "–"]
            its = found.get("benchmarks.marketing:posterior")
            nuts_works = nuts_works and (its is None or its.ok)
            plain = found.get("benchmarks.lifetimes_fit:fitFalse")
            cells += [memory(ours), memory(plain) if plain else "–", memory(its) if its else "–"]
            rows.append(tuple(cells))
        return [
            Table(
                "Fit of BG/NBD: full posterior, maximum likelihood, NUTS",
                f"Ours: {DRAWS:,} joint draws from the folded table. lifetimes: maximum likelihood from one "
                "row per customer, as its documentation does, and from folded rows with weights. "
                "pymc-marketing: its default sampler, 4 chains of 1,000 draws after 1,000. Importing "
                "counts for none. Target: not slower than lifetimes at 100,000.",
                (
                    "customers",
                    "clvmodels",
                    "lifetimes",
                    "ratio",
                    "lifetimes, folded",
                    "ratio",
                    "pymc-marketing NUTS",
                    "ratio",
                    "peak",
                    "lifetimes' peak",
                    "NUTS' peak",
                ),
                rows,
            )
        ]

    def chains(self) -> list[Table]:
        """NUTS of the families side by side."""
        (found,) = self.bench.measure(
            work("benchmarks.ours:chains", families=[FAMILY, *OTHERS], warm={"draws": 200}, limit=3600)
        )
        rows = []
        for name in (FAMILY, *OTHERS):
            if not found.ok:
                rows.append((name, took(found), *["–"] * 6))
                continue
            one, first = found.values[name], found.values[FAMILY]
            rows.append((
                name,
                seconds(one["gradient"]),
                f"{one['gradient'] / first['gradient']:.2g}×",
                seconds(one["sampling"]),
                f"{one['sampling'] / first['sampling']:.2g}×",
                f"{one['ess']:,.0f}",
                f"{one['divergences']}",
                f"{one['per_second']:,.0f}",
            ))  # fmt: skip
        return [
            Table(
                "NUTS of several families on CDNOW",
                "2,000 draws in four chains from the folded sample (2,357 customers), all in one process, in "
                "CPU time: a gradient (medians of twenty turns), sampling without compiling and maximising, "
                "and the smallest effective number of draws of a parameter (bulk; medians of five seeds, the "
                "families in turns). × is against the first.",
                ("family", "gradient", "×", "sampling", "×", "ESS", "divergences", "ESS per second"),
                rows,
            )
        ]

    def effects(self) -> list[Table]:
        """Continuous covariates, with which nothing folds."""
        n = self.size.unfolded
        if n is None:
            return []
        samplers = ("nuts", "importance")
        (found,) = self.bench.measure(
            work(
                "benchmarks.ours:unfolded",
                needs=[self.customers(n), self.customers(SMALL)],
                warm={"customers": SMALL, "draws": 100},
                limit=3600,
                customers=n,
                samplers=samplers,
            )
        )
        rows = []
        for name in samplers:
            one = found.values[name] if found.ok else None
            if one is None:
                rows.append((name, took(found), *["–"] * 6))
                continue
            certificate = (
                f"R-hat {one['r_hat']:.3f}, {one['divergences']} divergences"
                if one["k_hat"] is None
                else f"k-hat {one['k_hat']:.2f}"
            )
            rows.append((
                name,
                f"{one['rows']:,}",
                seconds(one["wall"]),
                seconds(one["cpu"]),
                f"{one['ess']:,.0f}",
                certificate,
                f"{one['largest_z']:.1f}",
                memory(found),
            ))  # fmt: skip
        return [
            Table(
                f"Two continuous covariates on rate and dropout of {n:,} customers, BG/NBD",
                "1,000 draws (NUTS: two chains, 300 steps of warm-up each); the whole fit, compiling and "
                "maximum included. ESS: the smallest of a parameter or coefficient (bulk). z: the largest "
                "distance of a coefficient that was put in from the posterior mean, in posterior sd.",
                ("sampler", "rows", "time", "CPU time", "ESS", "certificate", "largest z", "peak"),
                rows,
            )
        ]

    def folding(self) -> list[Table]:
        """A parquet log into the summary and its distinct rows."""
        rows = []
        for n in self.size.fold:
            (found,) = self.bench.measure(self.fold(n))
            sizes = [f"{found.values[k]:,}" for k in ("customers", "rows")] if found.ok else ["–", "–"]
            parts = [seconds(found.lap(k)) for k in ("read", "fold")] if found.ok else ["–", "–"]
            rows.append((f"{n:,}", *sizes, took(found), *parts, memory(found)))
        return [
            Table(
                "Folding a parquet log into customers and distinct rows",
                "Days over two years, about ten purchases a customer, in the order of dates. DuckDB may use "
                "2 GB and spills to disk. Target for 100,000,000: 90 s within 4 GB.",
                ("transactions", "customers", "distinct rows", "time", "log to customers", "to rows", "peak"),
                rows,
            )
        ]

    def demos(self) -> list[Table]:
        """The whole job on CDNOW."""
        ours, its = self.demo
        found = self.bench.measure(ours, its)
        return [
            Table(
                "CDNOW from the command to the result",
                "2,357 customers. clvmodels: fit of both models (2,000 joint draws), value without end at "
                "three levels, checks, report. pymc-marketing: both models by its default sampler "
                "(4 × 1,000 draws), 12 months of value at level expected, one file; no report. "
                "Both with warm caches; importing counts. Target: 15 s, 6×.",
                ("clvmodels", "pymc-marketing", "ratio", "peak", "its peak"),
                [(took(found[0]), took(found[1]), ratio(found[1], found[0]), *map(memory, found))],
            )
        ]

    def starts(self) -> list[Table]:
        """How long a user waits for nothing."""
        rows = []
        for name, arguments, target in (
            ("python -c pass", ["-c", "pass"], "–"),
            ("import clvmodels", ["-c", "import clvmodels"], "0.3 s"),
            ("clvmodels --help", ["-m", "clvmodels", "--help"], "0.5 s"),
        ):
            (found,) = self.bench.measure(
                work("benchmarks.ours:command", warm={}, runs=7, arguments=arguments)
            )
            rows.append((name, took(found), target, memory(found)))
        return [Table("Start", "From the command to its end.", ("command", "time", "target", "peak"), rows)]

    @property
    def demo(self) -> tuple[Work, Work]:
        """CDNOW from the command to the result, ours and the peer's."""
        warm = {"draws": 10, "tune": 10}
        its = work("benchmarks.marketing:demo", warm=warm, limit=900, draws=1000, tune=1000)
        return work("benchmarks.ours:demo", warm={}, runs=self.size.runs), its

    def fold(self, n: int) -> Work:
        return work(
            "benchmarks.ours:fold",
            needs=[work("benchmarks.inputs:log", transactions=n, limit=3600)],
            warm={},
            runs=self.size.runs if n <= 1_000_000 else 1,
            limit=3600,
            transactions=n,
            gigabytes=4.0,
        )

    @property
    def sections(self) -> dict[str, Callable[[], list[Table]]]:
        """Name → measurements, in the order of the page."""
        return {
            "start": self.starts,
            "demo": self.demos,
            "values": self.many_values,
            "posterior": self.posteriors,
            "chains": self.chains,
            "effects": self.effects,
            "fold": self.folding,
            "same-value": self.same_value,
            "fits": self.fits,
        }

    def targets(self) -> Table:
        """What was aimed for and what the set has measured of it."""
        million, many = 1_000_000, 10_000_000
        rows: list[tuple[str, ...]] = []

        def add(
            name: str, aim: str, found: Result | None, value: Callable[[Result], float], most: float
        ) -> None:
            if found is None:
                return
            if not found.ok:
                rows.append((name, aim, found.error or "not measured", "–"))
                return
            measured = value(found)
            shown = f"{measured:.2f} GB" if aim.endswith("GB") else seconds(measured)
            rows.append((name, aim, shown, "met" if measured <= most else f"missed, {measured / most:.2g}×"))

        def times(name: str, aim: str, ours: Result | None, its: Result | None, least: float) -> None:
            if ours and its and ours.ok and its.ok:
                found = its.seconds / ours.seconds
                verdict = "met" if found >= least else f"missed, {least / found:.2g}×"
                rows.append((name, aim, ratio(its, ours), verdict))

        known = self.bench.known
        clock, memory_of = (lambda r: r.seconds), (lambda r: r.peak_mb / 1000)
        valued, folded = known(self.value(million)), known(self.fold(100 * million))
        name = "value of 1,000,000 × 1,000 draws, expected"
        add(name, "30 s", valued, clock, 30)
        add(f"{name}, peak", "2 GB", valued, memory_of, 2)
        add(
            "value of 1,000,000 × 1,000 draws, predictive",
            "90 s",
            known(self.value(million, level="predictive")),
            clock,
            90,
        )
        add("value of 10,000,000, peak", "4 GB", known(self.value(many)), memory_of, 4)
        for family, aim in ((FAMILY, 20), *((other, 60) for other in OTHERS)):
            add(
                f"posterior, {family}, 1,000,000",
                f"{aim} s",
                known(self.posterior(million, family)),
                clock,
                aim,
            )
        if self.size.lifetimes:
            its = known(self.lifetimes(100_000))
            times("posterior against lifetimes' fit, 100,000", "1×", known(self.posterior(100_000)), its, 1)
        for n in self.size.peer_value:
            ours = known(self.value(n, horizon="12 months"))
            times(f"value against pymc-marketing, {n:,}", "200×", ours, known(self.peer_value(n)), 200)
        add("folding 100,000,000 transactions", "90 s", folded, clock, 90)
        add("folding 100,000,000 transactions, peak", "4 GB", folded, memory_of, 4)
        ours, its = (known(one) for one in self.demo)
        add("CDNOW demo", "15 s", ours, clock, 15)
        times("CDNOW demo against pymc-marketing", "6×", ours, its, 6)
        return Table(
            "Targets",
            "What this set measured of what was aimed for; what limits those that are missed stands below.",
            ("work", "target", "measured", ""),
            rows,
        )


def _agreement(found: Result) -> str:
    if not found.ok:
        return f"Agreement was not measured: {found.error}."
    v = found.values
    return (
        f"Agreement on CDNOW, discounted purchases of every customer in every draw, {v['entries']:,} pairs: "
        f"largest relative difference {v['largest']:.1e}, median {v['median']:.1e}, "
        f"{100 * v['within_1e8']:.4g} % within 1e-8, {v['not_finite']:,} not finite. Against 50 digits "
        f"(mpmath) at {v['inspected']} pairs, the 20 that differ most among them, ours are off by at most "
        f"{v['ours_off']:.1e}, pymc-marketing's by {v['theirs_off']:.1e}."
    )


def _certificate(found: Result) -> tuple[str, ...]:
    if not found.ok:
        return ("–", took(found), "–", "–", "–", "–", "–", "–", memory(found))
    v = found.values
    return (
        f"{v['rows']:,}",
        took(found),
        f"{v['proposals']:,}",
        f"{v['k_hat']:.2f}",
        f"{v['ess']:,.0f}",
        f"{v['largest_z']:.1f}",
        f"{v['held_90']} of {v['intervals']}",
        f"{v['held_95']} of {v['intervals']}",
        memory(found),
    )

"""Measurements of clvmodels."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import ROOT, inputs
from benchmarks.child import Watch

if TYPE_CHECKING:
    import numpy as np

    from clvmodels.artifacts import Assumptions, Posterior, Summary
    from clvmodels.value import Tile, Valuation

MONTH = 30.4375
"""Days of a month in pymc-marketing 1.3."""
MONTHLY_RATE = 0.01


def command(watch: Watch, arguments: list[str]) -> None:
    """A command of this interpreter from its start to its end; peak memory is the command's."""
    watch.of_children = True
    with watch():
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def demo(watch: Watch) -> None:
    """The CDNOW demo, from the command to the finished report."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "cdnow"
        command(watch, ["-m", "clvmodels", "fit", "configs/cdnow.yaml", "--quiet", "--out", str(out)])
        assert (out / "report.html").exists()


def twelve_months(summary: Summary) -> Assumptions:
    """12 months, 1 % a month, discounted from the end of each month, no margin: pymc-marketing's terms."""
    import numpy as np

    from clvmodels.artifacts import DAYS_PER_UNIT, Assumptions

    month = MONTH / DAYS_PER_UNIT[summary.time_unit]
    return Assumptions(
        margin=np.ones(len(summary)),
        margin_source="revenue",
        annual_discount_rate=(1 + MONTHLY_RATE) ** 12 - 1,
        units_per_year=12 * month,
        horizon=12 * month,
        timing="end",
        period=month,
        band_years=(0.0, np.inf),
    )


def for_ever(summary: Summary) -> Assumptions:
    """30 % margin, 15 % a year, infinite horizon: the report's usual terms with its horizons and bands."""
    import numpy as np

    from clvmodels.artifacts import DAYS_PER_UNIT, DAYS_PER_YEAR, Assumptions

    year = DAYS_PER_YEAR / DAYS_PER_UNIT[summary.time_unit]
    return Assumptions(
        margin=np.full(len(summary), 0.3),
        margin_source="0.3",
        annual_discount_rate=0.15,
        units_per_year=year,
        horizon=np.inf,
        horizons={"3 months": year / 4, "12 months": year},
    )


def value(
    watch: Watch,
    draws: int,
    customers: int | None = None,
    level: str = "expected",
    horizon: str = "infinite",
    again: bool = False,
) -> dict[str, Any]:
    """Value customers (None: the demo's, under its posterior).

    Level expected gives mean, sd and quantiles of every customer in a parquet file, and the total by
    draw; level predictive the total by draw. ``again``: value them a second time in the same process,
    when the compiled code is loaded, and say how long that took.
    """
    from clvmodels.value import Valuation

    summary, posterior = demo_run() if customers is None else simulated(customers, draws)
    assumptions = twelve_months(summary) if horizon == "12 months" else for_ever(summary)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "customers.parquet"
        with watch():
            total = valued(Valuation(summary, posterior, assumptions, seed=1), level, path)
        if again:
            with watch("again"):
                valued(Valuation(summary, posterior, assumptions, seed=1), level, path)
    second = watch.laps.pop("again", None)
    if len(total) != draws:
        raise ValueError(f"{len(total)} draws, not {draws}")
    return {
        "customers": len(summary),
        "mean": float(total.mean()),
        "sd": float(total.std(ddof=1)),
        "again": second,
    }


def valued(valuation: Valuation, level: str, path: Path) -> np.ndarray:
    """Stream a level into the total by draw and, at level expected, the customers' file."""
    import numpy as np
    import pyarrow.parquet as pq

    from clvmodels.equity.customers import CustomerTable

    total = np.zeros(len(valuation.draws))
    table = CustomerTable(len(valuation.summary), len(valuation.draws)) if level == "expected" else None

    def reduced(tile: Tile) -> Any:
        return tile, tile.sum(), table.columns(tile) if table else {}

    for tile, sums, columns in getattr(valuation, level)(then=reduced):
        total += sums
        if table is not None:
            table.add(tile, columns)
    if table is not None:
        pq.write_table(table.table(valuation.summary), path)
    return total


def demo_run() -> tuple[Summary, Posterior]:
    """Customers and joint draws of the finished demo."""
    import clvmodels as clv

    run = clv.load(inputs.demo_path())
    return run.data, run.draws


def simulated(customers: int, draws: int) -> tuple[Summary, Posterior]:
    """Simulated customers, and draws around the parameters that were put in."""
    return inputs.summary(customers), inputs.posterior(draws)


def posterior(watch: Watch, customers: int, family: str = "bg_nbd", draws: int = 1000) -> dict[str, Any]:
    """Joint draws from the folded table: compiling counts, importing does not."""
    for name in ("pymc", "pytensor.tensor", "arviz_stats.base"):
        importlib.import_module(name)
    summary = inputs.summary(customers, family)
    with watch("fold"):
        rows = summary.fold(_statistics(family))
    fold = watch.laps.pop("fold")
    found = _fit(watch, summary, rows, family, draws, seed=1)
    return {"rows": len(rows.weight), "fold_seconds": fold, **found}


def chains(watch: Watch, families: tuple[str, ...], draws: int = 2000, seeds: int = 5) -> dict[str, Any]:
    """NUTS of several families on the CDNOW sample, in turns: gradients, seconds, effective draws.

    Gradients are timed at the mode, in CPU time. Sampling takes the CPU time of the whole fit, less that of a
    fit by maximum that has the same compiled code. All are medians over turns, for a machine may be a third
    slower in one minute than in the next.
    """
    import time

    import numpy as np

    import clvmodels as clv
    from clvmodels.config import FitConfig, ModelConfig
    from clvmodels.fit import fit_family, measure
    from clvmodels.fit.graph import Target
    from clvmodels.fit.priors import resolve
    from clvmodels.models import registry

    summary = clv.check({
        "data": {"source": "cdnow_sample", "observation_end": "1997-09-30"},
        "value": {"margin": 0.3, "annual_discount_rate": 0.15},
    })  # fmt: skip
    scale = measure(summary)
    folded = {name: summary.fold(registry.purchases(name).statistics) for name in families}

    def timed(name: str, sampler: Any, draws: int = draws, seed: int = 1) -> tuple[float, Any]:
        options, family = FitConfig(sampler=sampler, draws=draws), registry.purchases(name)
        begin = time.process_time()
        part = fit_family(family, folded[name], ModelConfig(family=name), options, seed, scale)
        return time.process_time() - begin, part

    for name in families:
        timed(name, "nuts", 100)  # compiles, and imports nutpie
    spent: dict[str, list[tuple[float, float, int]]] = {name: [] for name in families}
    with watch():
        for seed in range(1, seeds + 1):
            for name in families:
                least, _ = timed(name, "map")
                whole, part = timed(name, "nuts", seed=seed)
                gate = part.diagnostics
                spent[name].append((whole - least, min(gate["ess_bulk"].values()), gate["divergences"]))
    found, targets = {}, {}
    for name, each in spent.items():
        sampling, effective = (float(np.median([one[k] for one in each])) for k in (0, 1))
        found[name] = {
            "rows": len(folded[name].weight),
            "sampling": sampling,
            "ess": effective,
            "divergences": sum(one[2] for one in each),
            "per_second": float(np.median([ess / second for second, ess, _ in each])),
        }
        family = registry.purchases(name)
        target = Target.of(family, folded[name], resolve(family, ModelConfig(family=name), scale, {}))
        targets[name] = target, target.start(scale)
    turns: dict[str, list[float]] = {name: [] for name in families}
    for _ in range(20):
        for name, (target, point) in targets.items():
            begin = time.process_time()
            for step in range(100):
                target(point + 1e-4 * step)
            turns[name].append((time.process_time() - begin) / 100)
    for name, gradients in turns.items():
        found[name]["gradient"] = float(np.median(gradients))
    return found


def unfolded(
    watch: Watch, customers: int, samplers: tuple[str, ...], family: str = "bg_nbd", draws: int = 1000
) -> dict[str, Any]:
    """Two continuous covariates on every driver: no two customers alike, a likelihood of as many rows.

    Draws are in two chains. ``cpu`` and ``wall``: seconds of the whole fit, compiling and maximum included.
    """
    import dataclasses
    import time

    import numpy as np

    from clvmodels.artifacts import Segment
    from clvmodels.config import CovariatesConfig, FitConfig, ModelConfig, ModelsConfig
    from clvmodels.data import design
    from clvmodels.fit import measure
    from clvmodels.fit.links import fit_linked
    from clvmodels.models import links, registry

    model, rng = registry.purchases(family), np.random.default_rng(7)
    drivers, names = tuple(links.driven(model)), ("one", "other")
    z = np.round(rng.standard_normal((len(names), customers)), 6)
    z = (z - z.mean(axis=1, keepdims=True)) / z.std(axis=1, keepdims=True)
    beta = dict(zip(drivers, ((0.3, -0.2), (0.2, 0.3)), strict=True))
    shifts = {driver: np.array(b) @ z for driver, b in beta.items()}
    theta = {
        name: np.broadcast_to(value, customers).copy() if np.ndim(value) else float(value)
        for name, value in links.native(model, inputs.truth(model), shifts).items()
    }
    base = inputs.summary(customers, family)
    T = base["T"]
    found = model.simulate(theta, T, rng).statistics(T)
    features = {
        name: Segment(codes=np.arange(customers), labels=tuple(map(repr, column.tolist())))
        for name, column in zip(names, z, strict=True)
    }
    summary = dataclasses.replace(base, columns={**base.columns, **found}, features=features)
    asked: dict[str, Any] = dict.fromkeys(drivers, names)
    terms = design.terms(ModelsConfig(covariates=CovariatesConfig(**asked)), summary)
    out: dict[str, Any] = {}
    for sampler in samplers:
        options: Any = {"sampler": sampler, "draws": draws, "chains": 2}
        begin, cpu = time.perf_counter(), time.process_time()
        with watch(sampler):
            part = fit_linked(
                model,
                summary,
                None,
                terms,
                ModelConfig(family=family),
                FitConfig(**options),
                np.random.SeedSequence(1),
                measure(summary),
                lambda name: lambda share: None,
            )
        gate, effects = part.diagnostics, part.effects
        assert effects is not None
        truth = np.array([b for driver in drivers for b in beta[driver]])
        out[sampler] = {
            "rows": part.rows,
            "wall": time.perf_counter() - begin,
            "cpu": time.process_time() - cpu,
            "ess": gate["ess"] if "ess" in gate else min(gate["ess_bulk"].values()),
            "r_hat": max((r for r in gate["r_hat"].values() if r is not None), default=None),
            "divergences": gate.get("divergences"),
            "k_hat": gate.get("k_hat"),
            "largest_z": float(np.abs((effects.flat.mean(axis=0) - truth) / effects.flat.std(axis=0)).max()),
        }
    return out


def coverage(
    watch: Watch, customers: int, repeats: int, family: str = "bg_nbd", draws: int = 1000
) -> dict[str, Any]:
    """How many of the parameters' intervals hold the truth over new samples of customers."""
    import dataclasses

    held = {"held_90": 0, "held_95": 0, "intervals": 0}
    base = inputs.summary(customers, family)
    for seed in range(repeats):
        columns = {**base.columns, **inputs.simulated(family, customers, seed=100 + seed)}
        summary = dataclasses.replace(base, columns=columns)
        found = _fit(watch, summary, summary.fold(_statistics(family)), family, draws, seed)
        for name in held:
            held[name] += found[name]
    return held


def _statistics(family: str) -> tuple[str, ...]:
    from clvmodels.models import registry

    return registry.get(family).statistics


def _fit(watch: Watch, summary: Summary, rows: Any, family: str, draws: int, seed: int) -> dict[str, Any]:
    from clvmodels.config import FitConfig, ModelConfig
    from clvmodels.fit import fit_family, measure
    from clvmodels.models import registry

    model = registry.purchases(family)
    with watch("fit"):
        part = fit_family(
            model, rows, ModelConfig(family=family), FitConfig(draws=draws), seed, measure(summary)
        )
    return {
        "k_hat": part.diagnostics["k_hat"],
        "ess": part.diagnostics["ess"],
        "proposals": part.diagnostics["proposals"],
        **against_truth(part.flat, model.vector(inputs.truth(model))),
    }


def against_truth(draws: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Distance of the truth from the posterior in its sd, and how many intervals hold it."""
    import numpy as np

    z = (truth - draws.mean(axis=0)) / draws.std(axis=0, ddof=1)
    held = {}
    for percent in (90, 95):
        low, high = np.quantile(draws, [0.5 - percent / 200, 0.5 + percent / 200], axis=0)
        held[f"held_{percent}"] = int(((low <= truth) & (truth <= high)).sum())
    return {"largest_z": float(np.abs(z).max()), "intervals": len(truth), **held}


def fold(watch: Watch, transactions: int, gigabytes: float) -> dict[str, Any]:
    """Reduce a parquet log to the summary and its distinct rows; DuckDB may use half of the memory."""
    import ibis

    import clvmodels as clv

    # The library opens its own DuckDB; this sets what a machine of that size would.
    connect = ibis.duckdb.connect
    limit = {"memory_limit": f"{gigabytes / 2:g}GB"}
    ibis.duckdb.connect = lambda *given, **named: connect(*given, **(limit | named))
    config = {
        "data": {
            "source": str(inputs.log_path(transactions)),
            "columns": {"customer": "customer", "date": "date", "amount": "amount"},
            "time_unit": "day",
        },
        "value": {"margin": 0.3, "annual_discount_rate": 0.15},
    }
    with watch("read"):
        summary = clv.check(config)
    with watch("fold"):
        rows = summary.fold(_statistics("bg_nbd"))
    return {"customers": len(summary), "rows": len(rows.weight)}

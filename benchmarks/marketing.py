"""Measurements of pymc-marketing, and of how far its numbers agree with ours."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import inputs, ours
from benchmarks.child import Watch

if TYPE_CHECKING:
    import numpy as np

    from clvmodels.artifacts import Posterior, Summary

UNITS = {"day": "D", "week": "W", "month": "M"}


def value(watch: Watch, draws: int, customers: int | None = None) -> dict[str, Any]:
    """12 months of value in its models, which hold the same customers and the same draws as ours."""
    summary, posterior = ours.demo_run() if customers is None else ours.simulated(customers, draws)
    model, spend, table = _models(summary, posterior)
    with watch():
        found = spend.expected_customer_lifetime_value(
            model, table, future_t=12, discount_rate=ours.MONTHLY_RATE, time_unit=UNITS[summary.time_unit]
        )
    if found.sizes["draw"] * found.sizes["chain"] != draws:
        raise ValueError(f"{found.sizes} draws, not {draws}")
    total = found.sum("customer_id").values.ravel()
    return {"customers": len(summary), "mean": float(total.mean()), "sd": float(total.std(ddof=1))}


def _models(summary: Summary, posterior: Posterior) -> tuple[Any, Any, Any]:
    """Its purchase and spend model, and the customers with their spend."""
    from clvmodels import interchange

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, spend = interchange.models(summary, posterior)
    return model, spend, model.data


def agreement(watch: Watch, draws: int) -> dict[str, Any]:
    """Discounted purchases over 12 months of every customer in every draw, ours against its.

    Its sum by month of eq. (10) of Fader, Hardie and Lee (2005) loses digits where a is near 1; the
    same sum in 50 digits (mpmath) says who is right at the entries that differ most.
    """
    from dataclasses import replace

    import numpy as np
    from pymc_marketing.clv.utils import customer_lifetime_value

    from clvmodels.artifacts import FamilyPosterior
    from clvmodels.models import registry
    from clvmodels.value import Valuation

    summary, posterior = ours.demo_run()
    one = FamilyPosterior(
        family="fixed_spend",
        parameters=registry.get("fixed_spend").parameter_names,
        draws=np.ones((1, 1, 1)),
        sampler="fixed",
        maximum={},
        diagnostics={},
        priors={},
        rows=0,
        customers=0,
    )
    mine = np.empty((len(summary), draws))
    with watch():
        for tile in Valuation(
            summary, replace(posterior, spend=one), ours.twelve_months(summary), 1
        ).expected():
            mine[tile.customers] = tile.value
    model, _, table = _models(summary, posterior)
    with np.errstate(all="ignore"):
        its = customer_lifetime_value(
            model,
            table.assign(future_spend=1.0),
            future_t=12,
            discount_rate=ours.MONTHLY_RATE,
            time_unit=UNITS[summary.time_unit],
        )
    its = its.stack(all=("chain", "draw")).transpose("customer_id", "all").values
    apart = np.abs(its / mine - 1)
    finite = np.isfinite(apart)
    order = np.argsort(np.where(finite, apart, -1.0), axis=None)
    inspected = np.r_[order[-20:], np.random.default_rng(5).choice(order, 20, replace=False)]
    stats = np.column_stack([summary[name] for name in ("frequency", "recency", "T")])
    month = ours.twelve_months(summary).period
    error = np.zeros((2, len(inspected)))
    for k, entry in enumerate(inspected):
        customer, draw = np.unravel_index(entry, apart.shape)
        right = discounted_purchases(posterior.purchases.flat[draw], stats[customer], month)
        error[:, k] = [abs(float(found[customer, draw] / right) - 1) for found in (mine, its)]
    return {
        "entries": int(apart.size),
        "not_finite": int((~finite).sum()),
        "within_1e8": float((apart[finite] < 1e-8).mean()),
        "median": float(np.median(apart[finite])),
        "largest": float(apart[finite].max()),
        "ours_off": float(error[0].max()),
        "theirs_off": float(error[1].max()),
        "inspected": len(inspected),
    }


def discounted_purchases(theta: np.ndarray, stats: np.ndarray, month: float) -> Any:
    """Expected purchases of 12 months, each discounted from its end, with 50 digits."""
    import mpmath as mp

    with mp.workdps(50):
        r, alpha, a, b = (mp.mpf(float(value)) for value in theta)
        x, t_x, T = (mp.mpf(float(value)) for value in stats)
        alive = 1 / (1 + (a / (b + x - 1) * ((alpha + T) / (alpha + t_x)) ** (r + x) if x > 0 else 0))

        def until(t: Any) -> Any:
            fallen = ((alpha + T) / (alpha + T + t)) ** (r + x)
            return (1 - fallen * mp.hyp2f1(r + x, b + x, a + b + x - 1, t / (alpha + T + t))) * (
                (a + b + x - 1) / (a - 1)
            )

        seen = [until(i * mp.mpf(month)) for i in range(13)]
        rate = 1 + mp.mpf(ours.MONTHLY_RATE)
        return alive * mp.fsum((seen[i] - seen[i - 1]) / rate**i for i in range(1, 13))


def posterior(watch: Watch, customers: int, draws: int = 1000, tune: int = 1000) -> dict[str, Any]:
    """Its fit as its documentation does it: 4 chains of NUTS; importing does not count."""
    import arviz_stats
    import numpy as np
    import pandas as pd

    from clvmodels.models import registry

    clv = importlib.import_module("pymc_marketing.clv")
    arrays = np.load(inputs.arrays_path(customers))
    table = pd.DataFrame({"customer_id": np.arange(customers), **arrays}).drop(columns="monetary_value")
    with warnings.catch_warnings(), watch():
        warnings.simplefilter("ignore")
        model = clv.BetaGeoModel()
        model.fit(table, draws=draws, tune=tune, progressbar=False, random_seed=1)
    family = registry.purchases("bg_nbd")
    columns = [model.fit_result[name].values.ravel() for name in family.parameter_names]
    ess = arviz_stats.ess(model.idata, var_names=list(family.parameter_names))
    return {
        "ess": min(float(ess[name]) for name in family.parameter_names),
        **ours.against_truth(np.stack(columns, axis=-1), family.vector(inputs.truth(family))),
    }


def demo(watch: Watch, draws: int = 1000, tune: int = 1000) -> None:
    """The same work as our CDNOW demo, less the report, from the command to a file of values."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "values.parquet"
        arguments = [str(out), str(draws), str(tune)]
        ours.command(watch, ["-W", "ignore", "-m", "benchmarks.marketing_demo", *arguments])
        assert out.exists()

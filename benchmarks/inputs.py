"""Simulated customers, logs and posteriors, made once and kept in the cache.

Customers come from the families' own simulators, in days over two years, with the parameters that
were published for CDNOW. Times of purchases are rounded to whole days, but two purchases on one day
stay two, so that the parameters that were put in are what a fit should find.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import cache
from benchmarks.child import Watch

if TYPE_CHECKING:
    import numpy as np

    from clvmodels.artifacts import Posterior, Summary
    from clvmodels.models.family import Family

SPEND = "gamma_gamma"
DAYS = 730
END = dt.date(2025, 12, 31)
_BLOCK = 500_000
BUSY = {"r": 1.0, "alpha": 25.0, "a": 0.8, "b": 20.0}
"""Days; about ten purchases a customer in two years: a log to fold."""


def truth(family: Family) -> dict[str, float]:
    """Parameters published for CDNOW, from weeks to days."""
    factor = {"time": 7.0, "1/time": 1 / 7.0}
    found = family.typical[0]
    return {p.name: found[p.name] * factor.get(p.unit, 1.0) for p in family.parameters}


def customers_path(customers: int, family: str = "bg_nbd") -> Path:
    return cache() / f"{family}-{customers}.parquet"


def arrays_path(customers: int, family: str = "bg_nbd") -> Path:
    """The same customers as NumPy arrays, for an environment without Arrow."""
    return customers_path(customers, family).with_suffix(".npz")


def log_path(transactions: int) -> Path:
    return cache() / f"log-{transactions}.parquet"


def demo_path() -> Path:
    return cache() / "cdnow"


def simulated(family: str, customers: int, seed: int) -> dict[str, np.ndarray]:
    """Frequency, recency and T in days, shape (customer,)."""
    import numpy as np

    from clvmodels.models import registry

    model, rng = registry.purchases(family), np.random.default_rng(seed)
    blocks: list[dict[str, np.ndarray]] = []
    for low in range(0, customers, _BLOCK):
        T = rng.integers(1, DAYS + 1, min(_BLOCK, customers - low)).astype(float)
        found = model.simulate(truth(model), T, rng).statistics(T)
        bought = found["frequency"] > 0
        recency = np.where(bought, np.clip(np.rint(found["recency"]), 1, T), 0.0)
        blocks.append({"frequency": found["frequency"], "recency": recency, "T": T})
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def customers(watch: Watch, customers: int, family: str = "bg_nbd") -> None:
    """A summary of simulated customers, read by the library from a table of frequency, recency and T."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    import clvmodels as clv
    from clvmodels.models import registry

    path = customers_path(customers, family)
    if path.exists():
        return
    columns: dict[str, Any] = dict(simulated(family, customers, seed=1))
    spend, rng = registry.spend(SPEND), np.random.default_rng(2)
    parts = []
    for low in range(0, customers, _BLOCK):
        frequency = columns["frequency"][low : low + _BLOCK].astype(int)
        parts.append(spend.simulate(spend.typical[0], frequency, rng).monetary_value)
    columns["monetary_value"] = np.concatenate(parts)
    np.savez(arrays_path(customers, family), **columns)
    plain, done = path.with_suffix(".plain.parquet"), path.with_suffix(".part.parquet")
    pq.write_table(pa.table({"customer": np.arange(customers), **columns}), plain)
    done.unlink(missing_ok=True)
    config = {
        "data": {
            "source": str(plain),
            "kind": "summary",
            "columns": {"customer": "customer"},
            "time_unit": "day",
            "observation_end": END.isoformat(),
        },
        "models": {"purchases": {"family": family}, "spend": {"family": SPEND}},
        "value": {"margin": 0.3, "annual_discount_rate": 0.15},
    }
    clv.check(config, out=done)
    plain.unlink()
    done.rename(path)


def log(watch: Watch, transactions: int) -> None:
    """A log of customer, date and amount in the order of dates, about ten purchases a customer."""
    import duckdb
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from clvmodels.models import registry

    path, rng = log_path(transactions), np.random.default_rng(3)
    if path.exists():
        return
    purchases, spend = registry.purchases("bg_nbd"), registry.spend(SPEND)
    raw, done = path.with_suffix(".raw.parquet"), path.with_suffix(".part.parquet")
    schema = pa.schema({"customer": pa.int64(), "date": pa.date32(), "amount": pa.float64()})
    start, made, first = (END - dt.timedelta(days=DAYS)).toordinal() - dt.date(1970, 1, 1).toordinal(), 0, 0
    with pq.ParquetWriter(raw, schema) as writer:
        while made < transactions:
            joined = rng.integers(0, DAYS, 100_000)
            T = (DAYS - joined).astype(float)
            found = purchases.simulate(BUSY, T, rng)
            customer = np.r_[np.arange(len(T)), found.customer]
            day = joined[customer] + np.r_[np.zeros(len(T)), found.time].astype(int)
            order = np.argsort(customer, kind="stable")
            customer, day = customer[order], day[order]
            amount = spend.simulate(spend.typical[0], np.bincount(customer), rng).amount.round(2)
            keep = slice(transactions - made)
            table = pa.table(
                {
                    "customer": first + customer[keep],
                    "date": pa.array((start + day[keep]).astype(np.int32)).cast(pa.date32()),
                    "amount": np.maximum(amount, 0.01)[keep],
                }
            )
            writer.write_table(table)
            made, first = made + len(table), first + len(T)
    with duckdb.connect(config={"memory_limit": "4GB", "temp_directory": str(cache() / "spill")}) as engine:
        engine.execute(f"copy (from '{raw}' order by date) to '{done}' (format parquet)")
    raw.unlink()
    done.rename(path)


def demo(watch: Watch) -> None:
    """A finished run of the CDNOW demo with 1,000 joint draws."""
    from benchmarks import ROOT
    from clvmodels import run

    if not demo_path().exists():
        run.fit(ROOT / "configs" / "cdnow.yaml", overrides=["fit.draws=1000"], out=demo_path())


def summary(customers: int, family: str = "bg_nbd") -> Summary:
    """The customers as the library loads them."""
    from clvmodels.artifacts import Summary

    return Summary.load(customers_path(customers, family))


def posterior(draws: int) -> Posterior:
    """Draws around the parameters that were put in, a hundredth wide, as a posterior."""
    import numpy as np

    from clvmodels.artifacts import FamilyPosterior, Posterior
    from clvmodels.models import registry

    rng = np.random.default_rng(4)

    def part(model: Family, theta: dict[str, Any]) -> FamilyPosterior:
        noise = rng.standard_normal((1, draws, len(model.parameters)))
        return FamilyPosterior(
            family=model.name,
            parameters=model.parameter_names,
            draws=model.vector(theta) * np.exp(0.01 * noise),
            sampler="importance",
            maximum={},
            diagnostics={},
            priors={},
            rows=0,
            customers=0,
        )

    purchases, spend = registry.purchases("bg_nbd"), registry.spend(SPEND)
    return Posterior(
        purchases=part(purchases, truth(purchases)),
        spend=part(spend, dict(spend.typical[0])),
        time_unit="day",
        currency="USD",
    )

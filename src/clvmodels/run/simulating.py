"""Simulation-based calibration of families, resumable: ranks are kept as they come."""

from __future__ import annotations

import csv
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.artifacts import Assumptions, Posterior, Summary
from clvmodels.config import FitConfig, ModelsConfig
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.models.family import PurchaseFamily, SpendFamily
from clvmodels.run.stages import Progress
from clvmodels.validate.simulation import Design, Trial, trial

RANKS = "ranks.csv"
LINES = ("opening", "release", "bought", "silent", "basket", "new")
"""Lines of the bridge that are ranked; unwinding is the opening times a number."""
DRAWS = {"importance": 400, "nuts": 2000}
"""Draws of a posterior by sampler."""
_HEADER = (
    "purchases",
    "spend",
    "sampler",
    "customers",
    "draws",
    "seed",
    "trial",
    "converged",
    "quantity",
    "rank",
)


@dataclass(frozen=True)
class Calibration:
    """Ranks of simulated truths among posterior draws.

    Attributes
    ----------
    ranks
        Pair of families → quantity → ranks in (0, 1), shape (trial,).
    summary
        The content of ``calibration.json``.
    """

    ranks: dict[str, dict[str, np.ndarray]]
    summary: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def plot(self) -> Any:
        """Differences of the ranks' distributions from the uniform one; returns the matplotlib figure."""
        from clvmodels.report import simulation as reporting

        return reporting.figure(self.ranks)


def sbc(
    families: Sequence[str] = (),
    *,
    fits: int = 200,
    customers: int = 300,
    sampler: str = "importance",
    draws: int | None = None,
    seed: int = 1,
    out: Path | str | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Simulate from priors, fit, and rank the truth: uniform ranks prove simulator, fit and value.

    Parameters
    ----------
    families
        Purchase families, each with the default spend family, and spend families, each with the
        default purchase family; empty: all.
    fits
        Data sets of each.
    customers
        Customers of a data set.
    draws
        Of each posterior; by default 400, with NUTS 2,000, for shorter chains than 500 exceed R-hat's limit.
    out
        Folder; what is there of the same settings is continued, not repeated.

    Raises
    ------
    InputError
        If a family is unknown, or ``out`` holds something else.
    """
    from clvmodels.report import simulation as reporting

    if sampler not in DRAWS:
        raise InputError(f"sampler {sampler!r}: choose importance or nuts.")
    if fits < 1 or customers < 50:
        raise InputError("simulation needs at least 1 fit of at least 50 customers.")
    draws = DRAWS[sampler] if draws is None else draws
    if draws < 100:
        raise InputError(f"draws {draws}: the truth is ranked among 100, so at least that many are needed.")
    pairs = _pairs(families)
    options = FitConfig(sampler=sampler, draws=draws)  # type: ignore[arg-type]
    folder = None if out is None else Path(out)
    if folder is not None:
        if folder.exists() and not (folder / RANKS).exists():
            raise InputError(f"{folder} exists and is not a calibration: name another with --out.")
        folder.mkdir(parents=True, exist_ok=True)
    key = (sampler, str(customers), str(draws), str(seed))
    kept = _read(folder, key)
    ranks: dict[str, dict[str, np.ndarray]] = {}
    converged: dict[str, int] = {}
    for one, other in pairs:
        name = f"{one.name} + {other.name}"
        found = kept.get(name, {})
        design = Design.of(one, other, customers)
        for k in range(fits):
            if progress:
                progress(f"{name}: simulated data sets", k / fits)
            if k not in found:
                found[k] = trial(design, options, _seed(seed, name, k), _bridge)
                _append(folder, (one.name, other.name, *key), k, found[k])
        done = [found[k] for k in range(fits)]
        ranks[name] = {q: np.array([t.rank[q] for t in done]) for q in done[0].rank}
        converged[name] = sum(t.converged for t in done)
    table = reporting.build(ranks, converged, sampler=sampler, customers=customers, draws=draws, seed=seed)
    result = Calibration(ranks=ranks, summary=table, path=folder)
    if folder is not None:
        reporting.write(folder, table, ranks)
    return result


def _bridge(
    before: Summary, now: Summary, posterior: Posterior, *assumptions: Assumptions
) -> dict[str, np.ndarray]:
    """Lines of the bridge between two dates with one posterior."""
    from clvmodels.equity import bridge

    sides = [
        bridge.Side(summary=summary, posterior=posterior, assumptions=assumed)
        for summary, assumed in zip((before, now), assumptions, strict=True)
    ]
    lines = bridge.build(*sides).movements["opening"]
    return {f"bridge_{name}": lines[name] for name in LINES}


def _pairs(names: Sequence[str]) -> list[tuple[PurchaseFamily, SpendFamily]]:
    """Each family with the default of the other role, a pair once; constants have nothing to rank."""
    default = ModelsConfig()
    purchases, spend = registry.get(default.purchases.family), registry.get(default.spend.family)
    pairs: dict[tuple[str, str], tuple[Any, Any]] = {}
    for family in [registry.get(name) for name in names] or registry.families():
        pair = (family, spend) if isinstance(family, PurchaseFamily) else (purchases, family)
        if any(p.constant is None for p in family.parameters):
            pairs[pair[0].name, pair[1].name] = pair
    return list(pairs.values())


def _seed(seed: int, name: str, trial: int) -> np.random.Generator:
    """A trial depends on these three and on no other trial."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), trial])


def _read(folder: Path | None, key: tuple[str, ...]) -> dict[str, dict[int, Trial]]:
    """Pair → number → trial of the same settings, where one was begun."""
    found: dict[str, dict[int, tuple[bool, dict[str, float]]]] = {}
    if folder is not None and (folder / RANKS).exists():
        with (folder / RANKS).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if tuple(row[name] for name in ("sampler", "customers", "draws", "seed")) == key:
                    trials = found.setdefault(f"{row['purchases']} + {row['spend']}", {})
                    _, ranks = trials.setdefault(int(row["trial"]), (row["converged"] == "True", {}))
                    ranks[row["quantity"]] = float(row["rank"])
    return {
        name: {k: Trial(rank=ranks, converged=converged) for k, (converged, ranks) in trials.items()}
        for name, trials in found.items()
    }


def _append(folder: Path | None, key: tuple[str, ...], number: int, trial: Trial) -> None:
    if folder is None:
        return
    new = not (folder / RANKS).exists()
    with (folder / RANKS).open("a", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(_HEADER)
        for quantity, rank in trial.rank.items():
            writer.writerow([*key, number, trial.converged, quantity, f"{rank:.4f}"])

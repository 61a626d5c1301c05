"""Why equity moved between two dates."""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import Posterior, Summary
from clvmodels.config import Config, MarginByColumn
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.run.stages import (
    Clock,
    Progress,
    converged,
    load_config,
    margins,
    new_folder,
    pass_gate,
    refuse_existing,
    resolve_assumptions,
    summarise,
    versions,
)


@dataclass(frozen=True)
class BridgeResult:
    """The bridge between two dates with the calls that a notebook wants.

    Attributes
    ----------
    bridge
        Draws of every line in both bases, see :mod:`clvmodels.equity.bridge`.
    summary
        The content of ``bridge.json``: every number with its unit and level.
    path
        Folder, None if it was not written.
    """

    bridge: Any
    summary: Mapping[str, Any]
    config: Config
    meta: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def customers(self) -> Any:
        """Change, drift and surprise of every customer, a pandas DataFrame; level expected."""
        return self.bridge.customers.to_pandas().set_index("customer")

    @cached_property
    def alerts(self) -> Any:
        """Customers who fell short of expectation, the largest shortfall first."""
        return self.bridge.alerts().to_pandas().set_index("customer")

    def lines(self, basis: str | None = None) -> Any:
        """Mean, sd and intervals of the lines of a basis, a pandas DataFrame in the run's currency."""
        import pandas as pd

        found = self.summary["bases"][basis or self.summary["basis"]]["lines"]
        return pd.DataFrame.from_dict(found, orient="index").rename_axis("line")

    def plot(self, basis: str | None = None) -> Any:
        """Waterfall with 90 % intervals; returns the matplotlib figure."""
        from clvmodels.report import bridge as reporting

        return reporting.waterfall(self.summary, basis)

    def save(self, folder: Path | str, *, overwrite: bool = False) -> Path:
        """Write page, JSON, CSV, customers, alert list and figures."""
        from clvmodels.report import bridge as reporting

        with new_folder(Path(folder), overwrite) as temporary:
            text = settings.dump(self.config, temporary)
            reporting.write(temporary, self.bridge, self.summary, text, self.meta)
        return Path(folder)

    def __repr__(self) -> str:
        from clvmodels.report import bridge as reporting

        lines = [f"<Bridge {self.summary['opening']['date']} to {self.summary['closing']['date']}>"]
        for label, mean, span in reporting.summary_lines(self.summary):
            lines.append(f"  {label:<44}{mean:>12}   {span}")
        return "\n".join(lines)


def bridge(
    config: Config | Path | str | Mapping[str, Any],
    start: Any,
    end: Any,
    transactions: Any = None,
    *,
    basis: Literal["closing", "opening"] = "closing",
    coupling: Literal["independent", "comonotone"] = "independent",
    changes: Sequence[str] = (),
    acquisition_cost: float = 0.0,
    alert: float | None = None,
    out: Path | str | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> BridgeResult:
    """Why equity moved between two dates, and the return on it.

    The models are fitted at both dates to the log as it stood then.

    Parameters
    ----------
    start, end
        ISO dates (or ``datetime.date``); they take the place of ``data.observation_end``.
    basis
        Which of the two is shown first, see :mod:`clvmodels.equity.bridge`.
    coupling
        How draws of the two posteriors are paired, where a line compares them.
    changes
        ``"key=value"`` under ``value``, ``models`` or ``fit`` that hold at the closing date only.
    acquisition_cost
        Spent between the dates, in the run's currency, for the return with acquired customers.
    alert
        Shortfall of a customer to list, currency; default: the margin of an average first order.

    Raises
    ------
    InputError
        If dates, config or data cannot be used; nothing has been written.
    ConvergenceError
        If the draws of either date do not pass the gate.
    """
    from clvmodels import fit as fitting
    from clvmodels.data.realized import realized
    from clvmodels.equity import bridge as bridging
    from clvmodels.report import bridge as reporting

    tell, clock = progress or (lambda stage, fraction: None), Clock()
    first_day, last_day = (_bridge_day(name, day) for name, day in (("from", start), ("to", end)))
    if first_day >= last_day:
        raise InputError(f"the bridge leads from {first_day} to {last_day}: --from is the earlier date.")
    if coupling not in ("independent", "comonotone") or basis not in bridging.BASES:
        raise InputError(
            f"coupling {coupling!r}, basis {basis!r}: choose independent or comonotone, "
            "and closing or opening."
        )
    other = [text for text in changes if not text.strip().startswith(("value.", "models.", "fit."))]
    if other:
        raise InputError(
            f"--change {other[0]}: only keys under value, models and fit may change between dates."
        )
    plain = load_config(config, overrides, seed)
    if plain.data.kind == "summary":
        raise InputError("data.kind is summary: a bridge needs a log of transactions, with dates.")
    window = (f"data.observation_end={first_day}", f"data.holdout_end={last_day}")
    before = load_config(plain, window, None)
    after = load_config(plain, ("data.holdout_end=", f"data.observation_end={last_day}", *changes), None)
    folder = None if out is None else Path(out)
    if folder is not None:
        refuse_existing(folder, overwrite)
    for role in ("purchases", "spend"):
        for used in (before, after):
            fitting.check_model(getattr(used.models, role), role)
    sides: list[Any] = []
    good = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tell("reading transactions", None)
        data = []
        for day, used in ((first_day, before), (last_day, after)):
            try:
                data.append(summarise(used, transactions))
            except InputError as error:
                raise InputError(f"bridge at {day}: {error}") from None
        assumptions = [
            resolve_assumptions(used, found) for used, found in zip((before, after), data, strict=True)
        ]
        if any(found.cost_source for found in assumptions):
            raise InputError(
                "value.cost: a bridge has no line for the cost of keeping customers; "
                "leave it out with --set value.cost=null."
            )
        others: list[np.ndarray | None] = [None, None]
        if before.value.margin != after.value.margin:
            # A column of margins is read with the customers of its own date only.
            for k, used in enumerate((before, after)):
                if not isinstance(used.value.margin, MarginByColumn):
                    others[k] = margins(used, data[1 - k])[0]
        deltas = [found.delta for found in assumptions]
        ids, revenue = realized(before.data, deltas, transactions=transactions, base=before.base)
        clock.lap("data")

        def posterior(used: Config, found: Summary) -> Posterior:
            nonlocal good
            draws = fitting.fit(
                found, used.models.purchases, used.models.spend, used.fit, used.seed, progress=progress
            )
            gate = fitting.gate(draws)
            pass_gate(gate, used, folder, draws, found)
            good = good and converged(gate)
            return draws

        for k, used in enumerate((before, after)):
            draws = posterior(used, data[k])
            sides.append(
                bridging.Side(
                    summary=data[k], posterior=draws, assumptions=assumptions[k], margin_of_other=others[k]
                )
            )
        families = [(used.models.purchases.family, used.models.spend.family) for used in (before, after)]
        middle = posterior(before, data[1]) if families[0] != families[1] else None
        clock.lap("fit")
        tell("bridge", None)
        found = bridging.build(
            sides[0], sides[1], refitted=middle, coupling=coupling,
            revenue=_of_customers(data[1], ids, revenue), alert=alert, seed=before.seed,
        )  # fmt: skip
        closing_gate = fitting.gate(sides[1].posterior, found.movements["closing"]["closing"])
        pass_gate(closing_gate, after, folder, sides[1].posterior, data[1])
        clock.lap("bridge")
    table = reporting.build(
        found,
        name=plain.name,
        opening=_described_side(before, sides[0]),
        closing=_described_side(after, sides[1]),
        basis=basis,
        acquisition_cost=acquisition_cost,
        alerts=found.alerts().num_rows,
        converged=good and converged(closing_gate),
        versions=versions(),
    )
    meta = {
        "seed": before.seed,
        "changes": list(changes),
        "coupling": coupling,
        "seconds": clock.laps,
        "versions": versions(),
        "warnings": sorted(
            {str(w.message) for w in caught if not issubclass(w.category, DeprecationWarning | FutureWarning)}
        ),
    }
    result = BridgeResult(bridge=found, summary=table, config=before, meta=meta, path=folder)
    if folder is not None:
        tell("writing the report", None)
        result.save(folder, overwrite=overwrite)
    return result


def _bridge_day(name: str, day: Any) -> dt.date:
    try:
        return day if type(day) is dt.date else dt.date.fromisoformat(str(day))
    except ValueError:
        raise InputError(f"--{name} {day}: a day is written 1997-09-30, without a time.") from None


def _of_customers(data: Summary, ids: np.ndarray, revenue: np.ndarray) -> np.ndarray:
    """Rows of ``revenue`` for the customers of a summary, zero for those without one."""
    out = np.zeros((len(data), revenue.shape[1]))
    _, at, place = np.intersect1d(data.customer, ids, assume_unique=True, return_indices=True)
    out[at] = revenue[place]
    return out


def _described_side(config: Config, side: Any) -> dict[str, Any]:
    value, draws = config.value, side.posterior
    timing = value.timing if value.timing == "continuous" else f"{value.timing} of each {value.period}"
    return {
        "date": side.summary.observation_end.isoformat(),
        "customers": len(side.summary),
        "fingerprint": side.summary.fingerprint,
        "assumptions": {
            "Customers": f"{len(side.summary):,}",
            "Purchase model": f"{registry.get(draws.purchases.family).title} ({draws.purchases.sampler})",
            "Spend model": f"{registry.get(draws.spend.family).title} ({draws.spend.sampler})",
            "Joint draws": f"{len(draws):,}",
            "Margin": side.assumptions.margin_source,
            "Discount rate": f"{100 * value.annual_discount_rate:.4g} % a year, {timing}",
            "Horizon": value.horizon,
        },
    }

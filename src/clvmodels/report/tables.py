"""The one table of a run: ``summary.json``, the page and the CSV files are drawn from it.

Every block of numbers carries its ``unit`` and ``level``; ``docs/summary.md`` lists the keys.
There are no timings and no paths in it, and numbers are kept to ten significant digits, so that
the same seed and inputs give the same file to the byte.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.artifacts import (
    INTERVALS,
    LEVEL_CONTENTS,
    Assumptions,
    Check,
    Equity,
    FamilyPosterior,
    Posterior,
    Summary,
    interval,
)
from clvmodels.config import Config
from clvmodels.models import registry
from clvmodels.report import acquisition, effects, future, histories, position
from clvmodels.report.text import SPACE, duration, fill, long_date

SCHEMA = 1
"""Changes when a key changes its name or meaning; keys may be added without it."""

SIGNIFICANT = 10
RANKS = 10
"""Rank probabilities are given for at most this many ranks."""

_PLACES: Any = {"out": True, "data": {"source"}, "validation": {"backtest"}, "report": {"since"}}
"""Keys of the config that say where things lie."""

EXCLUDED = (
    "competition",
    "the economy",
    "seasons, campaigns and other shocks that move all customers together",
    "changes of product or price",
    "referrals",
    "the possibility that the model itself is wrong",
)
"""What no interval of this report contains."""
SHARED = EXCLUDED[1:3]
"""Of it, what level systematic contains as far as the window has shown it."""


def build(
    summary: Summary,
    posterior: Posterior,
    assumptions: Assumptions,
    equity: Equity,
    checks: Sequence[Check],
    config: Config,
    versions: Mapping[str, str],
    diagnostics: Mapping[str, Any],
    arrays: Any = None,
    backtest: Mapping[str, Any] | None = None,
    since: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Every number of the run, with unit and level.

    Parameters
    ----------
    checks
        In the order in which the page shows them.
    diagnostics
        What the convergence gate found; ``converged`` (bool) is required, the rest is added to
        the block ``diagnostics`` as it is.
    arrays
        Dataset of :func:`clvmodels.validate.checks.predictive_checks`; source of the block
        ``validation``.
    backtest
        As made by :func:`clvmodels.report.backtest.block`; None: not measured.
    since
        As made by :func:`clvmodels.report.bridge.since`; None: no earlier run was named.

    Returns
    -------
    dict
        JSON-ready; keys as in ``docs/summary.md``. ``None`` stands for what does not exist,
        such as the interval of a single parameter vector.
    """
    data, levels = equity.data, equity.levels
    base, money = levels[0], equity.currency
    total = {level: equity.total(level) for level in levels}
    count = len(summary)
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "name": config.name,
        "title": config.report.title or "Customer equity",
        "currency": money,
        "seed": config.seed,
        "levels": {level: LEVEL_CONTENTS.get(level, "") for level in levels},
        "equity": {
            "existing": {lv: statistics(total[lv], unit=money, level=lv) for lv in levels},
            "per_customer": {lv: statistics(total[lv] / count, unit=money, level=lv) for lv in levels},
        },
        "customers": {
            "total": {"value": count, "unit": "customers"},
            "repeat_buyers": {"value": int((summary["frequency"] > 0).sum()), "unit": "customers"},
            "alive": statistics(data["alive"].values, unit="customers", level=base),
            "alive_share": statistics(data["alive"].values / count, unit="share", level=base),
        },
        "never_again": _never_again(summary, equity, total),
        "orders": _horizons(data["orders"], "orders", levels),
        "revenue": _horizons(data["revenue"], money, levels),
        "bands": _bands(data, total[base], assumptions, money, base),
        "beyond_window": statistics(data["beyond"].values, unit="share", level=base)
        | {"window": _longest(summary)},
        "segments": {name: _segment(equity, summary, name, total) for name in summary.segments},
        "concentration": _concentration(data, levels),
        **position.blocks(equity, assumptions),
        "future": future.block(summary, assumptions, equity, statistics),
        "acquisition": acquisition.block(summary, assumptions, equity, config, statistics),
        "histories": [],
        "posterior": {},
        "maximum": {},
        "diagnostics": _diagnostics(posterior, diagnostics, config),
        "validation": _validation(arrays, money),
        "backtest": dict(backtest) if backtest else None,
        "since": dict(since) if since else None,
        "checks": [
            {"name": c.name, "passed": c.passed, "sentence": c.sentence, "value": c.value,
             "threshold": c.threshold, "figure": c.figure}
            for c in (*checks, *equity.checks)
        ],
        "data": dict(summary.ledger) | {"source": Path(str(summary.ledger.get("source", ""))).name},
        "assumptions": _assumptions(summary, posterior, assumptions, config),
        "versions": dict(versions),
        "fingerprints": {
            "data": summary.fingerprint,
            "config": _hash(config.model_dump_json(exclude=_PLACES).encode()),
            "posterior": _hash(
                *(np.ascontiguousarray(p).tobytes() for p in posterior.centre()),
                *(np.ascontiguousarray(found.flat).tobytes() for found in posterior.effects),
            ),
        },
    }  # fmt: skip
    if "systematic" in levels:
        left = [what for what in EXCLUDED if what not in SHARED]
        table["assumptions"]["excluded_from_intervals"] = left
    table |= effects.block(summary, posterior, assumptions)
    for part in (posterior.purchases, posterior.spend):
        table["posterior"][part.family] = _parameters(part, posterior)
        maximum = dict(part.maximum)
        log_likelihood = maximum.pop("log_likelihood", None)
        table["maximum"][part.family] = {"parameters": maximum, "log_likelihood": log_likelihood}
    table = clean(table)
    table["histories"] = clean(_histories(summary, posterior, table["assumptions"], base))
    table["sentences"] = [fill(s, table) for s in sentences(table)]
    table["disclosures"] = [{"topic": topic, "text": fill(text, table)} for topic, text in disclosures(table)]
    return table


def statistics(draws: np.ndarray, *, unit: str, level: str) -> dict[str, Any]:
    """Mean, sd and 50, 90 and 95 % intervals of draws; only a mean where there is one draw."""
    draws = np.asarray(draws, float)
    many = len(draws) > 1 and bool(np.isfinite(draws).all())
    out = {"unit": unit, "level": level, "mean": draws.mean(), "sd": draws.std(ddof=1) if many else None}
    for probability in INTERVALS:
        out[f"interval_{100 * probability:.0f}"] = list(interval(draws, probability)) if many else None
    return out


def _horizons(variable: Any, unit: str, levels: Sequence[str]) -> dict[str, Any]:
    return {
        str(label): {
            level: statistics(variable.sel(level=level, horizon=label).values, unit=unit, level=level)
            for level in levels
        }
        for label in variable["horizon"].values
    }


def _never_again(summary: Summary, equity: Equity, total: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Customers without a repeat purchase: number, how many count as active, and what they are worth."""
    once = summary["frequency"] == 0
    count, money = int(once.sum()), equity.currency
    alive = np.asarray(equity.customers["p_alive"])[once]
    draws = {lv: equity.data["never_again"].sel(level=lv).values for lv in total}
    return {
        "customers": {"value": count, "unit": "customers"},
        "alive": {"value": alive.sum(), "unit": "customers", "level": next(iter(total))},
        "always_alive": bool(len(alive) and alive.min() == 1.0),
        "equity": {lv: statistics(d, unit=money, level=lv) for lv, d in draws.items()},
        "share": {lv: statistics(d / total[lv], unit="share", level=lv) for lv, d in draws.items()},
        "per_customer": {lv: statistics(d / max(count, 1), unit=money, level=lv) for lv, d in draws.items()},
    }


def _histories(
    summary: Summary, posterior: Posterior, assumptions: Mapping[str, Any], level: str
) -> list[dict[str, Any]]:
    unit, money = summary.time_unit, summary.currency
    rows, draws = histories.examples(summary, posterior, assumptions)
    return [
        {
            "frequency": {"value": x, "unit": "orders"},
            "recency": {"value": t_x, "unit": unit},
            "T": {"value": T, "unit": unit},
            "p_alive": statistics(draws["p_alive"][:, j], unit="probability", level=level),
            "orders": statistics(draws["orders"][:, j], unit="orders", level=level),
            "value": statistics(draws["value"][:, j], unit=money, level=level),
        }
        for j, (x, t_x, T) in enumerate(rows)
    ]


def _bands(
    data: Any, total: np.ndarray, assumptions: Assumptions, money: str, level: str
) -> list[dict[str, Any]]:
    draws = data["bands"].transpose("draw", "band").values
    edges = assumptions.band_years
    last = assumptions.horizon / assumptions.units_per_year
    return [
        {
            "label": f"over {low:g} years" if math.isinf(high) else f"{low:g}–{high:g} years",
            "from_years": low,
            "to_years": "infinite" if math.isinf(high) else high,
            "equity": statistics(draws[:, j], unit=money, level=level),
            "share": statistics(draws[:, j] / total, unit="share", level=level),
        }
        for j, (low, high) in enumerate(itertools.pairwise(edges))
        if low < last
    ]


def _segment(
    equity: Equity, summary: Summary, name: str, total: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """One block per segment, the most valuable first."""
    variable = equity.segment(name)
    labels = summary.segments[name].labels
    draws = {lv: variable.sel(level=lv).transpose("draw", ...).values for lv in total}
    size = equity.segment_sizes(name).astype(float)
    ranks = {lv: rank_probabilities(d, size) for lv, d in draws.items()}
    money = equity.currency
    return [
        {
            "label": labels[j],
            "customers": {"value": int(size[j]), "unit": "customers"},
            "equity": {lv: statistics(d[:, j], unit=money, level=lv) for lv, d in draws.items()},
            "share": {lv: statistics(d[:, j] / total[lv], unit="share", level=lv) for lv, d in draws.items()},
            "per_customer": {
                lv: statistics(d[:, j] / max(size[j], 1), unit=money, level=lv) for lv, d in draws.items()
            },
            "rank": {
                lv: {"unit": "probability", "level": lv}
                | {name: None if p is None else p[j] for name, p in ranks[lv].items()}
                for lv in draws
            },
        }
        for j in np.argsort(-next(iter(draws.values())).mean(axis=0), kind="stable")
    ]


def rank_probabilities(draws: np.ndarray, size: np.ndarray) -> dict[str, Any]:
    """P(rank) of each segment by equity, and P(highest equity per customer), from draws[draw, segment]."""
    if len(draws) < 2:
        return {"probabilities": None, "highest_per_customer": None}
    count, segments = draws.shape
    ranks = (-draws).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    per_head = np.where(size > 0, draws / np.maximum(size, 1), -np.inf)
    return {
        "probabilities": [np.bincount(r, minlength=segments)[:RANKS] / count for r in ranks.T],
        "highest_per_customer": np.bincount(per_head.argmax(axis=1), minlength=segments) / count,
    }


def _concentration(data: Any, levels: Sequence[str]) -> dict[str, Any]:
    return {
        name: {lv: statistics(data[name].sel(level=lv).values, unit=unit, level=lv) for lv in levels}
        for name, unit in (("gini", "1"), ("top_decile", "share"), ("fixed_top_decile", "share"))
    }


def _parameters(part: FamilyPosterior, posterior: Posterior) -> dict[str, Any]:
    family = registry.get(part.family)
    units = {
        "time": posterior.time_unit,
        "1/time": f"1/{posterior.time_unit}",
        "currency": posterior.currency,
    }
    out = {}
    for j, parameter in enumerate(family.parameters):
        stats = statistics(part.flat[:, j], unit=units.get(parameter.unit, parameter.unit), level="expected")
        own = {
            key: part.diagnostics.get(key, {}).get(parameter.name)
            for key in ("ess_bulk", "ess_tail", "r_hat")
        }
        out[parameter.name] = stats | {"meaning": parameter.meaning} | own
    return out


def _diagnostics(posterior: Posterior, found: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The worst over both families, then whatever the gate reports itself."""
    parts = (posterior.purchases, posterior.spend)

    def worst(key: str, pick: Any) -> Any:
        found = [p.diagnostics.get(key) for p in parts]
        values = [v for one in found for v in (one.values() if isinstance(one, Mapping) else [one])]
        values = [v for v in values if v is not None]
        return pick(values) if values else None

    return {
        "converged": None,
        "allowed_unconverged": config.fit.allow_unconverged,
        "sampler": {p.family: p.sampler for p in parts},
        "draws": {"value": len(posterior), "unit": "draws"},
        "k_hat": worst("k_hat", max),
        "ess": worst("ess", min),
        "ess_bulk": worst("ess_bulk", min),
        "ess_tail": worst("ess_tail", min),
        "r_hat": worst("r_hat", max),
        "divergences": worst("divergences", sum),
    } | dict(found)


def _validation(arrays: Any, money: str) -> dict[str, Any]:
    """Holdout totals against their draws, where there is a holdout window: predictive and systematic."""
    out: dict[str, Any] = {}
    if arrays is None or "holdout_orders" not in arrays:
        return out
    for name, unit in (("orders", "orders"), ("spend", money)):
        block = _held(arrays[f"holdout_{name}"], unit, "predictive")
        block |= {"actual": float(arrays[f"holdout_{name}"].attrs["actual"])}
        block |= {"window": str(arrays.attrs["holdout"]), "systematic": None}
        if f"holdout_{name}_systematic" in arrays:
            block["systematic"] = _held(arrays[f"holdout_{name}_systematic"], unit, "systematic")
        out[f"holdout_{name}"] = block
    return out


def _held(variable: Any, unit: str, level: str) -> dict[str, Any]:
    """Statistics of the draws of a total, and whether their intervals hold the truth."""
    draws, actual = variable.values, float(variable.attrs["actual"])
    many = len(draws) > 1
    block = statistics(draws, unit=unit, level=level if many else "point")
    for key in ("interval_50", "interval_90", "interval_95"):
        inside = block[key] and bool(block[key][0] <= actual <= block[key][1])
        block[key.replace("interval", "inside")] = inside
    block["share_of_draws_below"] = float((draws <= actual).mean()) if many else None
    return block


def _longest(summary: Summary) -> str:
    return duration(float(summary["T"].max()), summary.time_unit)


def _assumptions(
    summary: Summary, posterior: Posterior, assumptions: Assumptions, config: Config
) -> dict[str, Any]:
    unit, margin = summary.time_unit, np.asarray(assumptions.margin, float)
    parts = {"purchases": posterior.purchases, "spend": posterior.spend}
    return {
        "valuation_date": summary.observation_end.isoformat(),
        "observation_start": summary.observation_start.isoformat(),
        "first_purchases": [str(summary.first_day.min()), str(summary.first_day.max())],
        "scope": "existing customers",
        "time_unit": unit,
        "clock": summary.clock,
        "currency": summary.currency,
        "margin": {"mean": margin.mean(), "low": margin.min(), "high": margin.max(), "unit": "share"},
        "margin_source": assumptions.margin_source,
        "cost": assumptions.cost_source or None,
        "annual_discount_rate": {"value": assumptions.annual_discount_rate, "unit": "share"},
        "delta": {"value": assumptions.delta, "unit": f"1/{unit}"},
        "units_per_year": assumptions.units_per_year,
        "timing": assumptions.timing,
        "period": {"value": assumptions.period, "unit": unit} if assumptions.timing != "continuous" else None,
        "horizon": {
            "value": "infinite" if math.isinf(assumptions.horizon) else assumptions.horizon,
            "unit": unit,
        },
        "horizons": {label: {"value": h, "unit": unit} for label, h in assumptions.horizons.items()},
        "holdout": {"value": summary.holdout, "unit": unit} if summary.holdout else None,
        "models": {
            role: {
                "family": part.family,
                "title": registry.get(part.family).title,
                "priors": dict(part.priors),
                "prior_text": _priors(part.priors, part.sampler),
                "sampler": part.sampler,
                "rows": {"value": part.rows, "unit": "rows"},
                "customers": {"value": part.customers, "unit": "customers"},
            }
            for role, part in parts.items()
        },
        "undiscounted_is_infinite": {
            "value": _divergent_share(posterior, assumptions), "unit": "share", "level": "expected"
        },
        "excluded_from_intervals": list(EXCLUDED),
    }  # fmt: skip


def _divergent_share(posterior: Posterior, assumptions: Assumptions) -> float | None:
    """Share of draws in which the value would have no finite sum without discounting."""
    if not math.isinf(assumptions.horizon):
        return None
    family = registry.purchases(posterior.purchases.family)
    return float(np.mean([not family.converges(theta[None]) for theta in posterior.purchases.flat]))


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def clean(value: Any) -> Any:
    """JSON-ready: plain Python values, numbers to ten significant digits, None for NaN."""
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [clean(v) for v in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(f"{value:.{SIGNIFICANT}g}") if math.isfinite(value) else None
    return value if value is None else str(value)


def dumps(table: Mapping[str, Any]) -> str:
    """The text of ``summary.json``."""
    return json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


# --- words that the numbers generate -------------------------------------------------------------


def sentences(table: Mapping[str, Any]) -> list[str]:
    """Three plain sentences with the keys of their numbers in braces, see :func:`text.fill`."""
    levels = list(table["levels"])
    base, last = levels[0], levels[-1]
    when = long_date(table["assumptions"]["valuation_date"])
    at = f"equity.existing.{base}"
    worth = (
        f"On {when} the {{customers.total.value}} existing customers were worth "
        f"{{currency}}{SPACE}{{{at}.mean}} in discounted future contribution margin"
        + (", less what it costs to keep them" if table["assumptions"].get("cost") else "")
    )
    if table["equity"]["existing"][base]["sd"] is None:
        worth += "; one parameter vector was used, so there is no statement of how sure that is."
    else:
        wide = f"equity.existing.{last}"
        worth += (
            f": with 90{SPACE}% probability between {{{at}.interval_90.0}} and {{{at}.interval_90.1}} "
            f"(level {base})"
        )
        chance = "the chance in who buys what is"
        if last == "systematic":
            chance = "chance and the shocks that all customers share are"
        worth += (
            f", or between {{{wide}.interval_90.0}} and {{{wide}.interval_90.1}} when {chance} "
            f"counted too (level {last})."
            if last != base
            else "."
        )
    alive = "About {customers.alive.mean} of them ({customers.alive_share.mean}) count as still active"
    if table["orders"]:
        label = list(table["orders"])[-1]
        orders, revenue = f"orders.{label}.{last}", f"revenue.{label}.{last}"
        alive += f"; over the next {label} they should place {{{orders}.mean}} orders"
        alive += _ninety(table["orders"][label][last], orders)
        alive += f" and spend {{currency}}{SPACE}{{{revenue}.mean}}"
        alive += _ninety(table["revenue"][label][last], revenue)
    where = (
        f"The most valuable tenth of customers hold {{concentration.top_decile.{base}.mean}} of the value; "
        f"{{bands.0.share.mean}} of it falls in the first year, and {{beyond_window.mean}} lies further "
        f"ahead than the {table['beyond_window']['window']} the data span."
    )
    where += _at_risk(table, base)
    said = [worth, *_since(table), alive + ".", where]
    return [*said, *future.sentences(table), *acquisition.sentences(table)]


def _since(table: Mapping[str, Any]) -> list[str]:
    """One sentence on what has happened since the earlier run."""
    block = table.get("since")
    if block is None:
        return []
    found = block["returns"]["existing"]
    text = (
        f"Since {long_date(block['date'])} equity has changed by {{currency}}{SPACE}{{since.change.mean}}"
        + _ninety(block["change"], "since.change")
    )
    at = "since.returns.existing"
    if not found["published"]["defined"]:
        return [f"{text}; as it was not above zero then, there is no return on it."]
    text += (
        f"; the return on the customers of that day was {{{at}.published.value.mean}} against a hurdle of "
        f"{{{at}.published.hurdle.value}}, and {{{at}.achieved.value.mean}} without what was re-estimated or "
        "assumed anew"
    )
    if found["achieved"]["chance"]["value"] is not None:
        text += f", which beats the hurdle with probability {{{at}.achieved.chance.value}} (parameters only)"
    return [text + "."]


def _at_risk(table: Mapping[str, Any], base: str) -> str:
    """What the third sentence adds where equity was surveyed."""
    if not table.get("risk") or not table["risk"]["by_p_alive"]:
        return ""
    even = next(k for k, entry in enumerate(table["risk"]["by_p_alive"]) if entry["below"] == 0.5)
    text = (
        f" Customers with less than an even chance of still being active hold "
        f"{{risk.by_p_alive.{even}.share.{base}.mean}} of it"
    )
    names = [entry["name"] for entry in table["sensitivities"]]
    if "discount_up" in names:
        text += (
            "; a discount rate two points higher would change it by "
            f"{{sensitivities.{names.index('discount_up')}.relative.mean}}"
        )
    return text + "."


def _ninety(block: Mapping[str, Any], key: str) -> str:
    if block["interval_90"] is None:
        return ""
    return f" (90{SPACE}% {block['level']}: {{{key}.interval_90.0}} to {{{key}.interval_90.1}})"


def disclosures(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a reader must be told, topic by topic, with the keys of the numbers in braces."""
    a = table["assumptions"]
    unit, when = a["time_unit"], long_date(a["valuation_date"])
    first, last = (long_date(day) for day in a["first_purchases"])
    infinite = a["horizon"]["value"] == "infinite"
    timing = "continuously"
    if a["period"]:
        timing = f"from the {a['timing']} of each period of {duration(a['period']['value'], unit)}"
    by_customer = a["margin"]["low"] != a["margin"]["high"]
    models = (
        f"{role}: {m['title']} with {{assumptions.models.{role}.prior_text}}"
        for role, m in a["models"].items()
    )
    diverges = (
        "; without discounting, the value would be infinite in {assumptions.undiscounted_is_infinite.value} "
        "of the draws, so the total depends on the discount rate."
    )
    return [
        (
            "Valuation date",
            f"{when}, the end of observation. Nothing later enters the fit or the value.",
        ),
        (
            "Scope",
            "Existing customers only: the {customers.total.value} who had bought by that day. "
            + (future.scope(table) or "Customers still to be won are in no number here.")
            + (
                " {data.customers_excluded:count} customers are left out because the config excludes them."
                if table["data"].get("customers_excluded")
                else ""
            ),
        ),
        (
            "What is valued",
            "The present value of future contribution margin, before indirect cost and before tax. What it "
            "cost to acquire these customers is spent and is not subtracted.",
        ),
        (
            "Margin",
            "{assumptions.margin.mean} of net revenue"
            + (
                " on average (customers: {assumptions.margin.low} to {assumptions.margin.high})"
                if by_customer
                else ""
            )
            + ". Source: {assumptions.margin_source}.",
        ),
        *_about_cost(table),
        (
            "Discounting",
            "{assumptions.annual_discount_rate.value} a year (effective), that is {assumptions.delta.value} "
            f"per {unit} at {{assumptions.units_per_year}} {unit}s to the year; cash is discounted {timing}.",
        ),
        (
            "Horizon",
            "Infinite: every future purchase counts, the distant ones for little."
            if infinite
            else f"{duration(a['horizon']['value'], unit)}; later purchases count for nothing.",
        ),
        *future.disclosures(table),
        *acquisition.disclosures(table),
        ("Models and priors", "; ".join(models) + "."),
        (
            "Data window",
            f"First purchases from {first} to {last}, observed to {when}; time in {unit}s; purchases of one "
            f"customer in one {unit if a['clock'] == 'discrete' else 'day'} are one purchase.",
        ),
        (
            "Extrapolation",
            "{beyond_window.mean} of the value lies further ahead than the longest history "
            f"({table['beyond_window']['window']})"
            + (diverges if a["undiscounted_is_infinite"]["value"] else "."),
        ),
        ("Intervals", _about_intervals(table)),
        ("Not in any interval", _list(a["excluded_from_intervals"]).capitalize() + "."),
        ("Active customers", _about_active(table)),
        (
            "Independence",
            "How much a customer spends per purchase is taken to be unrelated to how often the customer "
            "buys; the checks show how far the data agree.",
        ),
        (
            "Stability",
            _about_stability(table) + " No change against an earlier report is stated.",
        ),
        (
            "Accounting",
            "A management figure. It is not an asset under IFRS or US GAAP, which do not recognise customer "
            "relationships that a firm has built itself.",
        ),
        (
            "Words",
            "“Active” (alive) is inferred: nobody gives notice in this setting. So there is no retention "
            "rate here, and a share of customers who buy again is not one. “Equity” is the value of a set "
            "of customers, “value” that of one.",
        ),
    ]


def _about_stability(table: Mapping[str, Any]) -> str:
    if not table.get("backtest"):
        return "Parameters were estimated on one window; no second window was fitted for comparison."
    found = [c["sentence"] for c in table["checks"] if c["name"].startswith("stability")]
    return " ".join(
        found or ["A backtest refitted the parameters at earlier days; their stability is not judged."]
    )


def _about_cost(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not table["assumptions"].get("cost"):
        return []
    text = (
        "Subtracted from value: {assumptions.cost}. Value may then be negative, and is shown as it is; "
        "concentration (Gini, Lorenz, top tenth) is that of the positive part of value"
    )
    losing = table.get("negative")
    if losing:
        level = next(iter(losing["customers"]))
        text += (
            f", without the {{negative.customers.{level}.mean}} customers below zero, who together are worth "
            f"{{currency}}{SPACE}{{negative.value.{level}.mean}} (level {level})"
        )
    return [
        ("Cost of keeping customers", text + ". Example histories and their values are before this cost.")
    ]


def _about_intervals(table: Mapping[str, Any]) -> str:
    if all(block["sd"] is None for block in table["equity"]["existing"].values()):
        return (
            "None: this run holds a single parameter vector (level point), which says nothing about how sure "
            "its numbers are."
        )
    contents = "; ".join(f"{level}: {text}" for level, text in table["levels"].items())
    return f"Equal-tailed credible intervals; each states its probability and its level. Levels: {contents}."


def _about_active(table: Mapping[str, Any]) -> str:
    text = "A customer counts as active with the probability that the history leaves. "
    if table["never_again"]["always_alive"]:
        return text + (
            "This model takes every customer without a repeat purchase as active, because in it only a "
            "repeat purchase can be the last: {never_again.customers.value} of the {customers.alive.mean} "
            "counted as active are such customers."
        )
    return text + (
        "Of the {never_again.customers.value} without a repeat purchase, {never_again.alive.value} count as "
        "active."
    )


def _priors(priors: Mapping[str, Any], sampler: str) -> str:
    if sampler == "fixed":
        return "parameters fixed, not estimated"
    if not priors or all(not isinstance(p, Mapping) or p.get("dist") == "Flat" for p in priors.values()):
        return "flat priors"
    return "priors " + ", ".join(f"{name} ~ {prior_text(p)}" for name, p in priors.items())


def prior_text(prior: Any) -> str:
    """``LogNormal(mu=0, sigma=1.5)`` of a prior in YAML form."""
    if not isinstance(prior, Mapping):
        return str(prior)
    inner = {k: v for k, v in prior.items() if k != "dist"}
    inner |= inner.pop("kwargs", {})
    values = (f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in inner.items())
    return f"{prior.get('dist', '')}({', '.join(values)})"


def _list(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else "".join(items)


# --- tidy rows of the CSV files ------------------------------------------------------------------


def flat(block: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Statistics of a block, one name and value each; intervals become two."""
    for name, value in block.items():
        if name in ("unit", "level"):
            continue
        if name.startswith("interval_"):
            low, high = value or (None, None)
            yield from ((f"{name}_low", low), (f"{name}_high", high))
        elif name == "probabilities":
            yield from ((f"rank_{rank}", p) for rank, p in enumerate(value or (), start=1))
        else:
            yield name, value


SEGMENT_COLUMNS = ("column", "segment", "metric", "level", "statistic", "value", "unit")


def segment_rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``segments.csv``."""
    for column, blocks in table["segments"].items():
        for entry in blocks:
            metrics: list[tuple[str, Mapping[str, Any]]] = [("customers", entry["customers"])]
            for metric in ("equity", "share", "per_customer", "rank"):
                metrics += [(metric, block) for block in entry[metric].values()]
            for metric, block in metrics:
                for name, value in flat(block):
                    yield (
                        column, entry["label"], metric, block.get("level", ""), name, value, block["unit"]
                    )  # fmt: skip


VALIDATION_COLUMNS = ("check", "level", "statistic", "value", "unit", "sentence")


def validation_rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``validation.csv``: every check, then the holdout totals."""
    for check in table["checks"]:
        yield check["name"], "", "passed", check["passed"], "", check["sentence"]
        yield check["name"], "", "value", check["value"], "", ""
        yield check["name"], "", "threshold", check["threshold"], "", ""
    for name, whole in table["validation"].items():
        textbook = {key: value for key, value in whole.items() if key != "systematic"}
        for block in (textbook, whole["systematic"]):
            for statistic, value in flat(block) if block else ():
                yield name, block["level"], statistic, value, block["unit"], ""

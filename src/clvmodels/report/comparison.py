"""Variants of a run side by side: one table, from which JSON, CSV, page and figure are drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from clvmodels.artifacts import Equity, Summary
from clvmodels.report import files, tables
from clvmodels.report.page import template
from clvmodels.report.text import SPACE, fill, lookup, show
from clvmodels.validate import compare

SCHEMA = 1
ROLES = ("purchases", "spend")
COLUMNS = ("variant", "metric", "level", "statistic", "value", "unit")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One variant: its run's table and equity, and its scores by customer."""

    name: str
    table: Mapping[str, Any]
    equity: Equity
    leave_one_out: Mapping[str, compare.LeaveOneOut | None]
    holdout: compare.Holdout | None


def build(
    entries: Sequence[Entry], summary: Summary, name: str, versions: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Every number of the comparison, with unit and level.

    Parameters
    ----------
    entries
        In the order in which they are shown; all of the same customers.
    summary
        Those customers.

    Returns
    -------
    table
        JSON-ready; ``docs/comparison.md`` lists the keys.
    stacked
        Level → draws of equity of the stacked variants; empty where they cannot be stacked.
    """
    currency = summary.currency
    loo = {role: _leave_one_out([entry.leave_one_out[role] for entry in entries]) for role in ROLES}
    later = _holdout(entries, summary)
    weights, reason = _weights(entries)
    stacked = {}
    if weights is not None:
        shared = [
            level for level in entries[0].equity.levels if all(level in e.equity.levels for e in entries)
        ]
        stacked = {
            level: compare.mixture([entry.equity.total(level) for entry in entries], weights)
            for level in shared
        }
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "title": f"{len(entries)} variants compared",
        "currency": currency,
        "data": {
            "fingerprint": summary.fingerprint,
            "source": Path(str(summary.ledger.get("source", ""))).name,
            "valuation_date": summary.observation_end.isoformat(),
            "customers": {"value": len(summary), "unit": "customers"},
            "spenders": {"value": int(summary.spenders.sum()), "unit": "customers"},
            "holdout": _holdout_data(summary),
        },
        "levels": {level: text for entry in entries for level, text in entry.table["levels"].items()},
        "variants": [
            {
                "name": entry.name,
                "models": {
                    role: {key: model[key] for key in ("family", "title", "sampler", "prior_text")}
                    for role, model in entry.table["assumptions"]["models"].items()
                },
                "loo": {role: loo[role][j] for role in ROLES},
                "holdout": later[j],
                "equity": dict(entry.table["equity"]["existing"]),
                "never_again": dict(entry.table["never_again"]["equity"]),
                "checks_failed": [c["name"] for c in entry.table["checks"] if c["passed"] is False],
                "weight": None if weights is None else {"value": weights[j], "unit": "share"},
            }
            for j, entry in enumerate(entries)
        ],
        "stacked": {
            "equity": {lv: tables.statistics(d, unit=currency, level=lv) for lv, d in stacked.items()}
            or None,
            "reason": reason,
        },
        "assumptions": _assumptions(entries),
        "versions": dict(versions),
    }
    table = tables.clean(table)
    table["dependence"] = tables.clean(_dependence(table))
    table["conclusions"] = [fill(text, table) for text in conclusions(table)]
    return table, stacked


def _leave_one_out(found: Sequence[compare.LeaveOneOut | None]) -> list[dict[str, Any] | None]:
    """Blocks of one role; every variant against the best of those that score the same statistic."""
    blocks: list[dict[str, Any] | None] = []
    for one in found:
        if one is None:
            blocks.append(None)
            continue
        alike = [other for other in found if other is not None and other.of == one.of]
        best = max(alike, key=lambda other: compare.total(other.density)[0])
        value, error = compare.total(one.density)
        worst = one.k_hat[~np.isnan(one.k_hat)]
        blocks.append(
            {
                "of": one.of,
                "customers": {"value": int((~np.isnan(one.density)).sum()), "unit": "customers"},
                "elpd": {"value": value, "se": error, "unit": "nats"},
                "difference": _difference(one.density, best.density, len(alike)),
                "parameters": one.parameters,
                "k_hat": worst.max() if len(worst) else None,
                "unreliable": {"value": one.unreliable, "unit": "customers"},
            }
        )
    return blocks


def _difference(score: np.ndarray, best: np.ndarray, variants: int) -> dict[str, Any] | None:
    """Score less the best score: ``verdict`` is best, alike (cannot be told apart from it) or worse."""
    if variants < 2:
        return None
    value, error = compare.difference(score, best)
    if value == 0 and error == 0:
        verdict = "best"
    else:
        verdict = "worse" if compare.told_apart(value, error) else "alike"
    return {"value": value, "se": error, "unit": "nats", "verdict": verdict}


def _holdout_data(summary: Summary) -> dict[str, Any] | None:
    if not summary.holdout or "holdout_frequency" not in summary.columns:
        return None
    return {
        "length": {"value": summary.holdout, "unit": summary.time_unit},
        "orders": {"value": summary["holdout_frequency"].sum(), "unit": "orders"},
        "spend": {"value": summary["holdout_amount"].sum(), "unit": summary.currency},
    }


def _holdout(entries: Sequence[Entry], summary: Summary) -> list[dict[str, Any] | None]:
    found = [entry.holdout for entry in entries]
    scored = [one for one in found if one is not None]
    if not scored:
        return [None] * len(entries)
    best = max(scored, key=lambda one: compare.total(one.log_score)[0])
    actual, spent = summary["holdout_frequency"], float(summary["holdout_amount"].sum())
    blocks: list[dict[str, Any] | None] = []
    for entry in entries:
        one = entry.holdout
        if one is None:
            blocks.append(None)
            continue
        value, error = compare.total(one.log_score)
        counts = compare.accuracy(actual, one.expected)
        totals = {}
        for total, unit, expected in (
            ("orders", "orders", float(one.expected.sum())),
            ("spend", summary.currency, one.expected_spend),
        ):
            drawn = entry.table["validation"].get(f"holdout_{total}", {})
            totals[total] = {
                "unit": unit,
                "expected": expected,
                "crps": one.crps[total],
                "interval_90": drawn.get("interval_90"),
                "inside_90": drawn.get("inside_90"),
            }
        blocks.append(
            {
                "customers": {"value": int((~np.isnan(one.log_score)).sum()), "unit": "customers"},
                "log_score": {"value": value, "se": error, "unit": "nats", "method": one.method},
                "floored": {"value": one.floored, "unit": "customers"},
                "difference": _difference(one.log_score, best.log_score, len(scored)),
                "bias": {
                    "orders": {"value": counts["bias"], "unit": "share"},
                    "spend": {"value": one.expected_spend / spent - 1 if spent else None, "unit": "share"},
                },
                "totals": totals,
                "mae": {"value": counts["mae"], "unit": "orders"},
                "rmse": {"value": counts["rmse"], "unit": "orders"},
                "relative_error": {"value": counts["relative_error"], "unit": "share"},
                "msle": {"value": counts["msle"], "unit": "1"},
            }
        )
    return blocks


def _weights(entries: Sequence[Entry]) -> tuple[np.ndarray | None, str | None]:
    """Stacking weights of whole variants (purchases and spend), or why there are none."""
    if len(entries) < 2:
        return None, "one variant alone"
    purchases = [entry.leave_one_out["purchases"] for entry in entries]
    spend = [entry.leave_one_out["spend"] for entry in entries]
    if any(one is None for one in purchases):
        return None, "a posterior mode has no leave-one-out score"
    if any(not entry.table["equity"]["existing"].get("expected") for entry in entries):
        return None, "a variant with one parameter vector has no distribution of equity"
    if all(one is None for one in spend):
        return compare.stack([one.density for one in purchases if one]), None
    if len({one.of if one else None for one in spend}) > 1:
        return None, "the spend models score different statistics"
    return compare.stack(
        [a.density + np.nan_to_num(b.density) for a, b in zip(purchases, spend, strict=True) if a and b]
    ), None


_ASSUMED = ("margin", "annual_discount_rate", "units_per_year", "horizon", "timing", "period")


def _assumptions(entries: Sequence[Entry]) -> dict[str, Any]:
    """What all variants assume, and the keys in which they differ."""
    found = [entry.table["assumptions"] for entry in entries]
    different = [key for key in _ASSUMED if any(one[key] != found[0][key] for one in found)]
    return {"differ": different} | {key: found[0][key] for key in _ASSUMED if key not in different}


def _base(variant: Mapping[str, Any]) -> str:
    """The first level of a variant: ``expected``, or ``point``."""
    return str(next(iter(variant["equity"])))


def _ruled_out(variant: Mapping[str, Any]) -> bool:
    """Whether unseen customers are predicted worse than by another variant, by more than chance."""
    blocks = (variant["loo"][role] for role in ROLES)
    return any(b and b["difference"] and b["difference"]["verdict"] == "worse" for b in blocks)


def _dependence(table: Mapping[str, Any]) -> dict[str, Any]:
    """How much equity depends on the choice of variant: over all, and over those not ruled out.

    ``ratio`` is the range of the means over the mean width of the variants' 90 % intervals.
    """
    out: dict[str, Any] = {}
    variants = table["variants"]
    for name, places in (
        ("all", range(len(variants))),
        ("plausible", [j for j, v in enumerate(variants) if not _ruled_out(v)]),
    ):
        blocks = {j: variants[j]["equity"][_base(variants[j])] for j in places}
        if len(blocks) < 2:
            out[name] = None
            continue
        means = {j: block["mean"] for j, block in blocks.items()}
        widths = [b["interval_90"][1] - b["interval_90"][0] for b in blocks.values() if b["interval_90"]]
        low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        width = float(np.mean(widths)) if widths else None
        out[name] = {
            "variants": {"value": len(blocks), "unit": "variants"},
            "lowest": variants[low]["name"],
            "highest": variants[high]["name"],
            "low": {"value": means[low], "unit": table["currency"]},
            "high": {"value": means[high], "unit": table["currency"]},
            "range": {"value": means[high] - means[low], "unit": table["currency"]},
            "width_90": {"value": width, "unit": table["currency"]},
            "ratio": (means[high] - means[low]) / width if width else None,
        }
    return out


# --- words that the numbers generate -------------------------------------------------------------


def conclusions(table: Mapping[str, Any]) -> list[str]:
    """What the comparison says, in plain sentences with the keys of their numbers in braces."""
    out = []
    if len(table["variants"]) < 2:
        return ["One variant alone: there is nothing to compare."]
    for role in ROLES:
        out += _about_role(table, role)
    out += _about_holdout(table)
    out += _about_equity(table)
    if table["stacked"]["equity"]:
        level = next(iter(table["stacked"]["equity"]))
        parts = [
            f"{v['name']} {{variants.{j}.weight.value}}"
            for j, v in enumerate(table["variants"])
            if v["weight"]["value"] >= 0.005
        ]
        key = f"stacked.equity.{level}"
        out.append(
            f"Together they predict unseen customers best with the weights {', '.join(parts)}; the stacked "
            f"equity is {table['currency']}{SPACE}{{{key}.mean}}, 90{SPACE}% {{{key}.interval_90.0}} to "
            f"{{{key}.interval_90.1}} (level {level})."
        )
    else:
        out.append(f"No stacked equity: {table['stacked']['reason']}.")
    if table["assumptions"]["differ"]:
        names = ", ".join(key.replace("_", " ") for key in table["assumptions"]["differ"])
        out.append(
            f"The variants also differ in {names}: part of the difference in equity is one of assumptions, "
            "not of models."
        )
    return out


def _about_role(table: Mapping[str, Any], role: str) -> list[str]:
    blocks = [variant["loo"][role] for variant in table["variants"]]
    seen = f"{{data.{'customers' if role == 'purchases' else 'spenders'}.value}} customers"
    out = []
    for of in dict.fromkeys(block["of"] for block in blocks if block):
        group = [j for j, block in enumerate(blocks) if block and block["of"] == of]
        if len(group) > 1:
            out.append(
                f"{role.capitalize()} of {seen}, each predicted from all others (PSIS-LOO): "
                + _ranked(table, group, f"loo.{role}")
            )
    kinds = list(dict.fromkeys(block["of"] for block in blocks if block))
    if len(kinds) > 1:
        users = {of: [j for j, block in enumerate(blocks) if block and block["of"] == of] for of in kinds}
        groups = [f"{of.replace('_', ' ')} ({', '.join(_names(table, users[of]))})" for of in kinds]
        out.append(
            f"Models of {role} here are densities of different things and cannot be compared by LOO: "
            f"{' against '.join(groups)}."
        )
    missing = [
        j
        for j, v in enumerate(table["variants"])
        if not v["loo"][role] and v["models"][role]["sampler"] == "map"
    ]
    if missing:
        out.append(
            f"{_list(_names(table, missing))}: the posterior mode of {role} has no leave-one-out score; "
            "use fit.sampler importance or nuts."
        )
    out += [
        f"{table['variants'][j]['name']}: k-hat is above its limit for "
        f"{{variants.{j}.loo.{role}.unreliable.value}} customers, so the score of {role} may be too good."
        for j, block in enumerate(blocks)
        if block and block["unreliable"]["value"]
    ]
    if blocks[0] and blocks[0]["customers"]["value"] < compare.FEW:
        out.append(f"Fewer than {compare.FEW} customers: standard errors of differences are too small.")
    return out


def _ranked(table: Mapping[str, Any], group: Sequence[int], place: str) -> str:
    """Which variant is best, which cannot be told apart from it, and which are worse."""
    best: list[str] = []
    alike: list[str] = []
    worse: list[str] = []
    for j in group:
        key = f"variants.{j}.{place}.difference"
        verdict = lookup(table, f"{key}.verdict")
        name = table["variants"][j]["name"]
        if verdict == "best":
            best.append(name)
        else:
            text = f"{name} ({{{key}.value:tenth}} ± {{{key}.se:tenth}})"
            (alike if verdict == "alike" else worse).append(text)
    if len(best) == len(group):
        return f"{_list(best)} share the model and score the same."
    out = f"{_list(best)} {'score' if len(best) > 1 else 'scores'} best"
    if alike:
        out += f"; {_list(alike)} cannot be told apart from {'it' if len(best) == 1 else 'them'}"
    if worse:
        out += f"; {_list(worse)} {'is' if len(worse) == 1 else 'are'} worse by more than chance"
    return f"{out} (difference in nats ± standard error)."


def _about_holdout(table: Mapping[str, Any]) -> list[str]:
    group = [j for j, variant in enumerate(table["variants"]) if variant["holdout"]]
    if not group:
        return ["No later purchases were held back: nothing tests these variants on what came after."]
    out = []
    if len(group) > 1:
        out.append(
            "Number of purchases of each customer in the holdout (log score): "
            + _ranked(table, group, "holdout")
        )
    variants = table["variants"]
    nearest = min(group, key=lambda j: abs(variants[j]["holdout"]["bias"]["orders"]["value"] or 0))
    bias = _signed(variants[nearest], f"{{variants.{nearest}.holdout.bias.orders.value}}", "orders")
    names: dict[bool, list[str]] = {True: [], False: []}
    for j in group:
        inside = table["variants"][j]["holdout"]["totals"]["orders"]["inside_90"]
        if inside is not None:
            names[inside].append(table["variants"][j]["name"])
    text = (
        f"The total of {{data.holdout.orders.value}} purchases is expected best by "
        f"{variants[nearest]['name']} ({bias})"
    )
    if names[True] or names[False]:
        text += f"; it lies within the 90{SPACE}% predictive interval of {_list(names[True]) or 'none'}"
    out.append(f"{text}.")
    floored = [j for j in group if table["variants"][j]["holdout"]["floored"]["value"]]
    out += [
        f"{table['variants'][j]['name']}: no simulated future shows what "
        f"{{variants.{j}.holdout.floored.value}} customers did; half a path of {compare.PATHS:,} is counted."
        for j in floored
    ]
    return out


def _signed(variant: Mapping[str, Any], text: str, total: str) -> str:
    """A bias with its sign, also where it is positive."""
    value = variant["holdout"]["bias"][total]["value"]
    return f"+{text}" if value is not None and value > 0 else text


def _about_equity(table: Mapping[str, Any]) -> list[str]:
    out = []
    everything, plausible = table["dependence"]["all"], table["dependence"]["plausible"]
    levels = sorted({_base(variant) for variant in table["variants"]})
    if everything:
        out.append(_range("dependence.all", everything, table, "all variants", levels))
    if plausible and plausible["variants"] != everything["variants"]:
        out.append(
            _range("dependence.plausible", plausible, table, "those that LOO does not rule out", levels)
        )
    return out


def _range(
    key: str, block: Mapping[str, Any], table: Mapping[str, Any], over: str, levels: Sequence[str]
) -> str:
    money = f"{table['currency']}{SPACE}"
    text = (
        f"Equity, over {over}: from {money}{{{key}.low.value}} ({block['lowest']}) to "
        f"{money}{{{key}.high.value}} ({block['highest']}), level {' or '.join(levels)}"
    )
    if block["ratio"] is None:
        return f"{text}."
    much = (
        "as much as" if 0.8 <= block["ratio"] <= 1.25 else "more than" if block["ratio"] > 1 else "less than"
    )
    return (
        f"{text}: a range of {{{key}.range.value}}, {{{key}.ratio:fixed}} times the width of a 90{SPACE}% "
        f"interval, so the choice of model matters {much} the uncertainty within a model."
    )


def _names(table: Mapping[str, Any], places: Sequence[int]) -> list[str]:
    return [table["variants"][j]["name"] for j in places]


def _list(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else "".join(items)


# --- the table in a terminal and in a notebook ----------------------------------------------------


def headline(variant: Mapping[str, Any]) -> dict[str, Any]:
    """The main numbers of one variant, by name."""
    out: dict[str, Any] = {}
    for role in ROLES:
        block = variant["loo"][role]
        for key in ("value", "se"):
            known = block and block["difference"]
            out[f"loo_{role}_difference{'_se' if key == 'se' else ''}"] = known[key] if known else None
    later = variant["holdout"]
    if later:
        out["holdout_log_score"] = later["log_score"]["value"]
        out |= {f"holdout_bias_{total}": later["bias"][total]["value"] for total in ("orders", "spend")}
        out |= {f"holdout_{key}": later[key]["value"] for key in ("mae", "rmse", "relative_error", "msle")}
        out |= {f"holdout_crps_{total}": block["crps"] for total, block in later["totals"].items()}
    level = _base(variant)
    block = variant["equity"][level]
    low, high = block["interval_90"] or (None, None)
    out |= {"level": level, "equity": block["mean"], "equity_low_90": low, "equity_high_90": high}
    return out | {"weight": variant["weight"] and variant["weight"]["value"]}


def printed(table: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows of the table as text, without columns in which there is nothing."""

    def number(key: str, style: str | None = None) -> str:
        return show(table, key, style)

    def pair(key: str) -> str:
        return f"{number(f'{key}.value', 'tenth')} ± {number(f'{key}.se', 'tenth')}"

    apart = {
        role: any(
            v["loo"][role] and v["loo"][role]["difference"] and v["loo"][role]["difference"]["se"]
            for v in table["variants"]
        )
        for role in ROLES
    }  # whether a role has more than one model
    lines = []
    for j, variant in enumerate(table["variants"]):
        at = f"variants.{j}"
        line = {"variant": variant["name"]}
        for role in ROLES:
            scored = variant["loo"][role] and variant["loo"][role]["difference"]
            line[f"LOO {role}"] = pair(f"{at}.loo.{role}.difference") if scored and apart[role] else ""
        if variant["holdout"]:
            differs = variant["holdout"]["difference"]
            line["holdout score"] = pair(f"{at}.holdout.difference") if differs else ""
            line["orders"] = _signed(variant, number(f"{at}.holdout.bias.orders.value"), "orders")
            line["spend"] = _signed(variant, number(f"{at}.holdout.bias.spend.value"), "spend")
            line["MAE"] = number(f"{at}.holdout.mae.value", "number")
        key = f"{at}.equity.{_base(variant)}"
        line["equity"] = number(f"{key}.mean")
        ends = lookup(table, f"{key}.interval_90")
        line["90 % interval"] = (
            f"{number(f'{key}.interval_90.0')} to {number(f'{key}.interval_90.1')}" if ends else ""
        )
        line["weight"] = number(f"{at}.weight.value") if variant["weight"] else ""
        lines.append(line)
    if table["stacked"]["equity"]:
        key = f"stacked.equity.{next(iter(table['stacked']['equity']))}"
        ends = f"{number(f'{key}.interval_90.0')} to {number(f'{key}.interval_90.1')}"
        lines.append({"variant": "stacked", "equity": number(f"{key}.mean"), "90 % interval": ends})
    header = tuple(
        name
        for name in dict.fromkeys(n for line in lines for n in line)
        if any(line.get(name) for line in lines)
    )
    return header, [tuple(line.get(name, "") for name in header) for line in lines]


# --- files ---------------------------------------------------------------------------------------


def rows(table: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Rows of ``comparison.csv``."""
    for variant in table["variants"]:
        name = variant["name"]
        for role in ROLES:
            block = variant["loo"][role]
            if not block:
                continue
            metric = f"loo_{role}"
            for key in ("elpd", "difference"):
                if block[key]:
                    yield name, f"{metric}_{key}", "", "value", block[key]["value"], "nats"
                    yield name, f"{metric}_{key}", "", "se", block[key]["se"], "nats"
            if block["difference"]:
                yield name, f"{metric}_difference", "", "verdict", block["difference"]["verdict"], ""
            yield name, f"{metric}_parameters", "", "value", block["parameters"], "1"
            yield name, f"{metric}_k_hat", "", "maximum", block["k_hat"], "1"
        later = variant["holdout"]
        if later:
            for key in ("log_score", "difference"):
                if later[key]:
                    yield name, f"holdout_{key}", "", "value", later[key]["value"], "nats"
                    yield name, f"holdout_{key}", "", "se", later[key]["se"], "nats"
            for total, block in later["totals"].items():
                level = "predictive"
                yield name, f"holdout_crps_{total}", level, "value", block["crps"], block["unit"]
                yield name, f"holdout_inside_90_{total}", level, "value", block["inside_90"], ""
                bias = later["bias"][total]
                yield name, f"holdout_bias_{total}", "expected", "value", bias["value"], bias["unit"]
            for key in ("mae", "rmse", "relative_error", "msle"):
                yield name, f"holdout_{key}", "expected", "value", later[key]["value"], later[key]["unit"]
        yield from _equity_rows(name, variant["equity"])
        if variant["weight"]:
            yield name, "stacking_weight", "", "value", variant["weight"]["value"], "share"
    if table["stacked"]["equity"]:
        yield from _equity_rows("stacked", table["stacked"]["equity"])


def _equity_rows(name: str, equity: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for level, block in equity.items():
        for statistic, value in tables.flat(block):
            yield name, "equity", level, statistic, value, block["unit"]


def write(
    folder: Path,
    table: Mapping[str, Any],
    entries: Sequence[Entry],
    summary: Summary,
    meta: Mapping[str, Any],
) -> Path:
    """Write the files of a comparison into an existing folder.

    Returns
    -------
    Path of ``comparison.html``.
    """
    from clvmodels.report import figures

    (folder / "comparison.json").write_text(tables.dumps(table), encoding="utf-8")
    files.write_csv(folder / "comparison.csv", COLUMNS, rows(table))
    _save_customers(folder / "customers.parquet", entries, summary)
    figure = figures.comparison(table)
    (folder / "figures").mkdir()
    text = figures.svg(figure)
    (folder / "figures" / "comparison.svg").write_text(text, encoding="utf-8")
    (folder / "figures" / "comparison.png").write_bytes(figures.png(figure))
    path = folder / "comparison.html"
    reports = [folder / "variants" / entry.name / "report.html" for entry in entries]
    links = [quote(p.relative_to(folder).as_posix()) if p.is_file() else None for p in reports]
    path.write_text(html(table, text, links), encoding="utf-8")
    manifest = {"schema": SCHEMA, "name": table["name"], "versions": table["versions"], **meta}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return path


def html(table: Mapping[str, Any], figure: str, links: Sequence[str | None]) -> str:
    """The page of a comparison.

    Parameters
    ----------
    figure
        SVG element.
    links
        Address of each variant's own report, relative to the page; None where there is none.
    """
    from markupsafe import Markup

    return template("comparison.html.j2", table).render(
        figure=Markup(figure), links=links, conclusions=conclusions(table), base=_base, roles=ROLES
    )


def _save_customers(path: Path, entries: Sequence[Entry], summary: Summary) -> None:
    """One row per customer: log predictive densities and holdout expectations of every variant."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"customer": pa.array(summary.customer, pa.string())}
    for entry in entries:
        for role, one in entry.leave_one_out.items():
            if one is not None:
                columns[f"loo_{role}:{entry.name}"] = pa.array(one.density, from_pandas=True)
        if entry.holdout is not None:
            columns[f"holdout_log_score:{entry.name}"] = pa.array(entry.holdout.log_score, from_pandas=True)
            columns[f"holdout_expected:{entry.name}"] = pa.array(entry.holdout.expected)
    pq.write_table(pa.table(columns), path, compression="zstd")

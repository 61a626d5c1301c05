"""A backtest as files: one table of numbers, drawn as JSON, CSV, page and figures."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clvmodels.artifacts import LEVEL_CONTENTS
from clvmodels.config import Config
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.report import page, tables
from clvmodels.report.files import write_csv
from clvmodels.report.text import SPACE, fill, long_date
from clvmodels.validate import backtest as testing
from clvmodels.validate import calibration
from clvmodels.validate.backtest import BAND, ENOUGH, LEVELS, PROBABILITIES, RULES, Backtest

SCHEMA = 2
NOMINAL = 0.90
"""Probability of the intervals that verdicts and sentences are about."""
DRIFT_TAIL = 0.99
"""The last origin's parameters may lose, on the first origin's customers, what chi-square with as many
degrees of freedom as parameters exceeds with this probability left below."""
SHOWN = {"orders": "purchases", "revenue": "revenue", "margin": "margin"}
UNITS = {
    "origins": "origins", "forecasts": "forecasts", "segments": "segments", "separate": "origins",
    "customers": "customers", "mean_z": "1", "rms_z": "1", "log_ratio": "1", "bias": "share",
    "relative_crps": "share", "width_90": "share", "log_score": "nats",
    "crps": "orders or currency, by measure", "error": "share", "model_error": "share",
    "systematic_error": "share",
    "predicted": "probability", "observed": "share", "gini": "1", "brier": "1", "top_decile": "share",
    **{f"{name}_{100 * p:.0f}": "share" for name in ("coverage", "band") for p in PROBABILITIES},
}  # fmt: skip
"""Unit of each statistic of ``coverage``, ``rules``, ``reliability`` and ``decisions``."""
_VERDICTS = {
    True: "they held.",
    False: "they did not hold.",
    None: "too few origins to say that they hold.",
}
_CAPTURES = {
    "top_decile": "model: highest expected margin",
    "top_decile_last_period": "highest spend in the last period",
    "top_decile_spend_so_far": "highest spend so far",
    "top_decile_best": "best possible",
}


def match(config: Config) -> str:
    """Hash of what a backtest and a run must share: log, models, sampler, margin."""
    data = config.data.model_dump(mode="json", exclude={"source", "observation_end", "holdout_end"})
    data["source"] = Path(config.data.source).name if config.data.source else None
    document = {
        "data": data,
        "models": config.models.model_dump(mode="json"),
        "sampler": config.fit.sampler,
        **({"events": [event.model_dump() for event in config.events]} if config.events else {}),
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def build(
    backtest: Backtest,
    config: Config,
    numbers: Mapping[str, int],
    *,
    left_out: Mapping[str, str],
    known: Mapping[tuple[str, str], dt.date],
    drift: Mapping[str, Any] | None,
    last: dt.date,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Every number of the backtest, with unit and level, JSON-ready.

    Parameters
    ----------
    numbers
        Origin (ISO date) → number of its day (period).
    left_out
        Horizons that were not tested, and why.
    known
        (Origin, horizon) → the day on which its truth was known.
    drift
        What :func:`clvmodels.run.backtesting` found when the last origin's parameters met the first
        origin's customers.
    last
        Last day of the log.
    """
    found = testing.coverage(backtest, numbers)
    errors = calibration.errors(backtest, numbers, known)
    table: dict[str, Any] = {
        "schema": SCHEMA,
        "name": config.name,
        "currency": backtest.currency,
        "seed": config.seed,
        "time_unit": backtest.time_unit,
        "clock": backtest.clock,
        "levels": {level: LEVEL_CONTENTS[level] for level in (*LEVELS, "calibrated")} | _more_levels(config),
        "models": {
            role: {"family": model.family, "title": registry.get(model.family).title}
            for role, model in (("purchases", config.models.purchases), ("spend", config.models.spend))
        },
        "last_day": last.isoformat(),
        "origins": [
            {
                "date": origin.date.isoformat(),
                "customers": {"value": origin.customers, "unit": "customers"},
                "horizons": list(origin.horizons),
                "reason": origin.reason,
            }
            for origin in backtest.origins
        ],
        "scored": {"value": len(backtest.scored), "unit": "origins"},
        "left_out": dict(left_out),
        "horizons": _horizons(backtest, found),
        "calibrated": calibrated(errors, last, config.seed),
        "calibration": calibration.coverage(backtest, errors, numbers, config.seed),
        "errors": errors,
        "coverage": found,
        "shocks": _own_shocks(backtest, config.shocks.by, found),
        "rules": testing.rules(backtest),
        "decisions": _decisions(backtest),
        "split": _split(backtest),
        "reliability": testing.pooled_reliability(backtest),
        "pit": [
            {"horizon": h.label, "measure": measure, "level": level, "unit": "probability",
             "values": [r["pit"] for r in backtest.rows("scores") if _is(r, h.label, measure, level)]}
            for h in backtest.horizons for measure in SHOWN for level in [_headline(found, h.label)]
        ],
        "checks": _checks(drift, backtest),
        "units": UNITS,
        "fingerprint": match(config),
        "versions": dict(versions),
    }  # fmt: skip
    table = tables.clean(table)
    table["tested"] = _tested(table)
    table["sentences"] = [fill(sentence, table) for sentence in sentences(table)]
    return table


def calibrated(errors: Sequence[Mapping[str, Any]], day: dt.date, seed: int) -> dict[str, Any]:
    """The error that remains at each horizon, as it could be known on a day.

    Returns
    -------
    dict
        ``day``; ``base``, the level that is widened; ``horizons``: labels where it is estimable;
        ``reason``, why it is not at the others (None: nowhere); ``estimates``: by horizon and measure the
        number of origins ``used``, ``estimable``, and where it is ``bias`` (share by which more came than
        the median forecast) and ``scale`` (sd of the logarithm).
    """
    estimates, reasons = [], []
    labels = dict(sorted({row["horizon"]: row["steps"] for row in errors}.items(), key=lambda item: item[1]))
    estimable: dict[str, list[bool]] = {label: [] for label in labels}
    for measure in SHOWN:
        known = calibration.remaining(errors, measure, day, seed)
        reasons += [known.reason] if known.reason else []
        for label in labels:
            able = label in known.estimable
            estimable[label].append(able)
            bias, scale = known.of(label) if able else (None, None)
            estimates.append(
                {
                    "horizon": label,
                    "measure": measure,
                    "used": {"value": known.used[label], "unit": "origins"},
                    "estimable": able,
                    "bias": None
                    if bias is None
                    else tables.statistics(np.expm1(bias), unit="share", level="calibrated"),
                    "scale": None
                    if scale is None
                    else tables.statistics(scale, unit="share", level="calibrated"),
                }
            )
    whole = [label for label, able in estimable.items() if all(able)]
    rest = [label for label in labels if label not in whole]
    reason = reasons[0] if reasons else None
    if rest and whole:
        reason = f"at {_and(rest)} there are fewer than {ENOUGH} past forecasts without overlap"
    return {
        "day": day.isoformat(),
        "base": errors[0]["level"] if errors else None,
        "horizons": whole,
        "reason": reason,
        "estimates": estimates,
    }


def block(
    table: Mapping[str, Any], share: np.ndarray, level: str, calibrated: Mapping[str, Any]
) -> dict[str, Any]:
    """What page one of a run says of its backtest.

    Parameters
    ----------
    table
        Content of ``backtest.json``.
    share
        Draws of the share of equity that lies within the longest tested horizon.
    level
        Of these draws.
    calibrated
        The calibrated intervals of the run, or why there are none.
    """
    tested = table["tested"]
    return {
        "horizon": tested["horizon"],
        "held": tested["held"],
        "share": tables.statistics(share, unit="share", level=level),
        "origins": table["scored"],
        "first": table["origins"][0]["date"],
        "last": table["origins"][-1]["date"],
        "horizons": table["horizons"],
        "calibrated": dict(calibrated),
        "rules_that_win": sum(row["wins"] for row in table["rules"]),
    }


def load(folder: Path) -> dict[str, Any]:
    """Content of the ``backtest.json`` of a folder.

    Raises
    ------
    InputError
        If there is none that this version can read.
    """
    path = folder / "backtest.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no backtest.json: make one with 'backtest', or correct validation.backtest."
        ) from None
    except (OSError, ValueError):
        raise InputError(f"{path} cannot be read: make it anew with 'backtest'.") from None
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise InputError(f"{path} is of another version: make it anew with 'backtest'.")
    return table


def _more_levels(config: Config) -> dict[str, str]:
    if (by := config.shocks.by) is None:
        return {}
    return {testing.SHARED: f"as systematic, but segments of {by} without the shocks of their own"}


def _own_shocks(
    backtest: Backtest, by: str | None, covered: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """What shocks of their own did for the segments of a column; None where none was named."""
    if by is None:
        return None
    found = [(origin.weather or {}).get("segments", {}) for origin in backtest.scored]
    reasons = [one["reason"] for one in found if "reason" in one]
    compared = testing.over_segments(covered, by)
    crps = {(row["horizon"], row["measure"], row["level"]): row["relative_crps"] for row in compared}
    return {
        "by": by,
        "told": {"value": sum("shock" in one for one in found), "unit": "origins"},
        "reason": reasons[-1] if reasons else None,
        "compared": compared,
        "changes": [
            {"horizon": horizon, "measure": measure, "unit": "share", "level": level,
             "crps": own / crps[horizon, measure, testing.SHARED] - 1}
            for (horizon, measure, level), own in crps.items()
            if level != testing.SHARED and own is not None and crps[horizon, measure, testing.SHARED]
        ],
    }  # fmt: skip


def _is(row: Mapping[str, Any], horizon: str, measure: str, level: str) -> bool:
    return (row["horizon"], row["measure"], row["level"], row["column"]) == (horizon, measure, level, "")


def _headline(found: Sequence[Mapping[str, Any]], horizon: str) -> str:
    """The level whose intervals are the promise: systematic, where every origin could estimate it."""
    origins = {row["level"]: row["origins"] for row in found if _is(row, horizon, "orders", row["level"])}
    whole = origins.get("systematic", 0) == origins.get("predictive", -1)
    return "systematic" if whole else "predictive"


def _horizons(backtest: Backtest, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By horizon, coverage of the totals by the headline level at the probability of the verdicts."""
    out = []
    name = f"{100 * NOMINAL:.0f}"
    for horizon in backtest.horizons:
        level = _headline(found, horizon.label)
        rows = {m: r for r in found for m in SHOWN if _is(r, horizon.label, m, level)}
        textbook = {m: r for r in found for m in SHOWN if _is(r, horizon.label, m, "predictive")}
        if not rows:
            continue
        blocks = {
            measure: {
                "unit": "share",
                "level": level,
                "coverage": row[f"coverage_{name}"],
                "band": row[f"band_{name}"],
                "within": row[f"within_{name}"],
                "bias": row["bias"],
                "rms_z": row["rms_z"],
                "width": row["width_90"],
                "predictive": {k: textbook[measure][k] for k in (f"coverage_{name}", "rms_z", "width_90")},
            }
            for measure, row in rows.items()
        }
        one = rows["orders"]
        out.append(
            {
                "label": horizon.label,
                "steps": horizon.steps,
                "origins": {"value": one["origins"], "unit": "origins"},
                "separate": {"value": one["separate"], "unit": "origins"},
                "holds": _holds(one["separate"], [block["within"] for block in blocks.values()]),
            }
            | blocks
        )
    return out


def _holds(separate: int, within: Sequence[bool]) -> bool | None:
    """Whether intervals held: not where a coverage lies outside its band; else, with few origins, unknown."""
    if not all(within):
        return False
    return True if separate >= ENOUGH else None


def _tested(table: Mapping[str, Any]) -> dict[str, Any]:
    """How far ahead forecasts were tested, and how far the intervals held."""
    held = None
    for block in table["horizons"]:
        if not block["holds"]:
            break
        held = block["label"]
    longest = table["horizons"][-1]
    return {"horizon": longest["label"], "steps": longest["steps"], "held": held}


def _decisions(backtest: Backtest) -> list[dict[str, Any]]:
    """Means over origins by horizon."""
    out = []
    rows = backtest.rows("decisions")
    for horizon in backtest.horizons:
        some = [row for row in rows if row["horizon"] == horizon.label]
        if not some:
            continue
        means: dict[str, Any] = {"horizon": horizon.label, "origins": len(some)}
        for name in some[0]:
            if name not in ("origin", "horizon"):
                values = [row[name] for row in some if row[name] is not None and np.isfinite(row[name])]
                means[name] = float(np.mean(values)) if values else None
        out.append(means)
    return out


def _split(backtest: Backtest) -> list[dict[str, Any]]:
    """By horizon, log ratios of truth to expectation over all origins: of spend and of purchases."""
    out = []
    for horizon in backtest.horizons:
        rows = [row for row in backtest.rows("split") if row["horizon"] == horizon.label]
        sums = {name: sum(row[name] for row in rows) for name in ("actual", "given_count", "expected")}
        if rows and min(sums.values()) > 0:
            out.append(
                {
                    "horizon": horizon.label,
                    "unit": "1",
                    "level": "expected",
                    "spend_error": float(np.log(sums["actual"] / sums["given_count"])),
                    "purchase_error": float(np.log(sums["given_count"] / sums["expected"])),
                }
            )
    return out


def _checks(drift: Mapping[str, Any] | None, backtest: Backtest) -> list[dict[str, Any]]:
    """Stability of parameters across windows."""
    from scipy.stats import chi2

    if drift is None:
        return []
    first, last = long_date(drift["first"]), long_date(drift["last"])
    out = []
    for role, found in drift["families"].items():
        limit = float(chi2.ppf(DRIFT_TAIL, found["parameters"]))
        passed = bool(found["loss"] <= limit)
        out.append(
            {
                "name": f"stability_{role}",
                "passed": passed,
                "value": found["loss"],
                "threshold": limit,
                "figure": "parameters",
                "sentence": (
                    f"Parameters of {role} as of {last} describe the customers known on {first} "
                    f"{'as well as can be expected' if passed else 'worse than chance allows'}: twice the "
                    f"log of the likelihood ratio to their own is {found['loss']:.1f} (at most {limit:.1f})."
                ),
            }
        )
    return out


def sentences(table: Mapping[str, Any]) -> list[str]:
    """Plain sentences with the keys of their numbers in braces, see :func:`text.fill`."""
    dates = [origin["date"] for origin in table["origins"]]
    out = [
        f"Forecasts were made from {{scored.value:count}} of {len(dates)} past days, {long_date(dates[0])} "
        f"to {long_date(dates[-1])}, each with models that knew only what had happened by then."
    ]
    for k, block in enumerate(table["horizons"]):
        out.append(
            f"At {block['label']} ahead the {100 * NOMINAL:.0f}{SPACE}% {block['orders']['level']} intervals "
            f"held the purchases that came {{horizons.{k}.orders.coverage:percent}} of the time and the "
            f"revenue {{horizons.{k}.revenue.coverage:percent}} ({_times(block, k)}): "
            + _VERDICTS[block["holds"]]
            + _textbook(block, k)
        )
    held = table["tested"]["held"]
    out.append(
        f"So the intervals can be taken at their word up to {held}."
        if held and held == table["tested"]["horizon"]
        else f"So the intervals can be taken at their word up to {held}, and not beyond."
        if held
        else "So at no horizon can the intervals be taken at their word."
    )
    out += [_about_what_remains(table), *_about_own_shocks(table)]
    return [*out, _about_rules(table), *_about_rankings(table)]


def _about_own_shocks(table: Mapping[str, Any]) -> list[str]:
    """Whether segments were forecast closer with shocks of their own."""
    found = table["shocks"]
    if found is None:
        return []
    told = (
        f"Segments of {found['by']} had shocks of their own at {{shocks.told.value:count}} of "
        "{scored.value:count} origins"
    )
    if not found["told"]["value"]:
        return [f"{told}: {found['reason'] or 'no shocks could be estimated'}."]
    parts = [
        f"{{shocks.changes.{k}.crps:percent}} at {row['horizon']}"
        for k, row in enumerate(found["changes"])
        if row["measure"] == "orders"
    ]
    return [
        f"{told}; against the path of all customers the mean CRPS of a segment's purchases changed by "
        f"{_and(parts)} (below 0 is closer)."
    ]


def _about_what_remains(table: Mapping[str, Any]) -> str:
    """What is left of the error after the headline level, or why that cannot be said."""
    found = table["calibrated"]
    parts = [
        f"{SHOWN[row['measure']]} at {row['horizon']}: {{calibrated.estimates.{k}.scale.mean:percent}} more, "
        f"bias {{calibrated.estimates.{k}.bias.mean:percent}}"
        for k, row in enumerate(found["estimates"])
        if row["estimable"] and row["measure"] != "margin"
    ]
    if not parts:
        return f"No interval is calibrated: {found['reason']}."
    rest = f"; {found['reason']}" if found["reason"] else ""
    return (
        f"What level {found['base']} does not contain, by its own past errors ({'; '.join(parts)}), widens "
        f"the calibrated intervals; the bias is not applied{rest}."
    )


def _textbook(block: Mapping[str, Any], k: int) -> str:
    """What intervals of independent customers would have held."""
    if block["orders"]["level"] == "predictive":
        return ""
    key = f"horizons.{k}.orders.predictive.coverage_{100 * NOMINAL:.0f}"
    return f" Without shared shocks they would have held the purchases {{{key}:percent}} of the time."


def _times(block: Mapping[str, Any], k: int) -> str:
    apart = block["separate"]["value"]
    of = (
        f"{{horizons.{k}.origins.value:count}} origins, {{horizons.{k}.separate.value:count}} without overlap"
    )
    if not apart:
        return of
    return (
        f"{of}, of which {{horizons.{k}.orders.band.0:percent}} to {{horizons.{k}.orders.band.1:percent}} "
        "would be no surprise"
    )


def _about_rules(table: Mapping[str, Any]) -> str:
    wins = [(k, row) for k, row in enumerate(table["rules"]) if row["wins"]]
    if not table["rules"]:
        return "The log is too short for any naive rule."
    if not wins:
        return "No naive rule was closer to what happened than the model, at any horizon."
    parts = [
        f"{SHOWN[row['measure']]} at {row['horizon']}: {row['rule']}, error {{rules.{k}.error:percent}} "
        f"against {{rules.{k}.model_error:percent}}"
        for k, row in wins
    ]
    total = len({(row["horizon"], row["measure"]) for row in table["rules"]})
    cases = len({(row["horizon"], row["measure"]) for _, row in wins})
    return f"A NAIVE RULE WINS in {cases} of {total} comparisons ({'; '.join(parts)})."


def _about_rankings(table: Mapping[str, Any]) -> list[str]:
    """Where a naive ranking of customers would have caught more than the model's."""
    parts = []
    for k, row in enumerate(table["decisions"]):
        names = ("top_decile_last_period", "top_decile_spend_so_far")
        known = [name for name in names if row[name] is not None]
        best = max(known, key=lambda name: row[name], default=None)
        if best and row["top_decile"] is not None and row[best] > row["top_decile"]:
            parts.append(
                f"{row['horizon']}: {_CAPTURES[best]}, {{decisions.{k}.{best}:percent}} of the margin "
                f"against {{decisions.{k}.top_decile:percent}}"
            )
    if not parts:
        return []
    return [f"A NAIVE RANKING WINS in choosing the best tenth of customers ({'; '.join(parts)})."]


def _and(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + " and " + items[-1] if len(items) > 1 else "".join(items)


# --- files ---------------------------------------------------------------------------------------


def write(
    folder: Path, backtest: Backtest, table: Mapping[str, Any], config: str, meta: Mapping[str, Any]
) -> None:
    """Write every file into an existing folder.

    ``backtest.html``, ``backtest.json``, ``backtest.nc`` (the record of every origin), ``weekly.parquet``,
    ``scores.csv``, ``coverage.csv``, ``calibration.csv``, ``errors.csv``, ``rules.csv``, ``decisions.csv``,
    ``split.csv``, ``reliability.csv``, ``parameters.csv``, ``figures/``, ``config.yaml`` and
    ``manifest.json``.
    """
    from clvmodels.report import figures

    (folder / "backtest.json").write_text(tables.dumps(table), encoding="utf-8")
    backtest.save(folder / "backtest.nc")
    _write_weekly(folder / "weekly.parquet", backtest)
    for name in ("scores", "decisions", "split", "reliability"):
        _write_rows(folder / f"{name}.csv", backtest.rows(name))
    _write_rows(folder / "rules.csv", backtest.rows("naive"))
    for name in ("coverage", "calibration", "errors"):
        _write_rows(folder / f"{name}.csv", [_flat(row) for row in table[name]])
    columns = ("origin", "role", "family", "parameter", "mean", "sd", "maximum")
    write_csv(folder / "parameters.csv", columns, parameter_rows(backtest))
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    place = folder / "figures"
    place.mkdir()
    drawn = {}
    for name, (figure, caption) in draw(backtest, table).items():
        drawn[name] = figures.svg(figure), caption
        (place / f"{name}.svg").write_text(drawn[name][0], encoding="utf-8")
        (place / f"{name}.png").write_bytes(figures.png(figure))
    (folder / "backtest.html").write_text(html(table, drawn), encoding="utf-8")
    text = json.dumps(dict(meta) | {"versions": table["versions"]}, indent=2, ensure_ascii=False, default=str)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in row.items():
        if name.startswith("band_"):
            low, high = value or (None, None)
            out |= {f"{name}_low": low, f"{name}_high": high}
        else:
            out[name] = value
    return out


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, (tuple(row.get(name) for name in columns) for row in rows))


def parameter_rows(backtest: Backtest) -> Iterable[tuple[Any, ...]]:
    """Rows of ``parameters.csv``: every origin's posterior means and standard deviations."""
    for origin in backtest.scored:
        for role, found in (origin.parameters or {}).items():
            for name, mean in found["mean"].items():
                yield (
                    origin.date.isoformat(), role, found["family"], name, mean, found["sd"][name],
                    found["maximum"].get(name),
                )  # fmt: skip


def _write_weekly(path: Path, backtest: Backtest) -> None:
    """Tidy weeks: what happened and what was expected (mean over draws), before and after each origin."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: dict[str, list[np.ndarray]] = {}
    for origin in backtest.scored:
        for part, along in (("window", "week"), ("later", "later")):
            days = origin.data[along].values.astype("datetime64[D]")
            columns = {
                "origin": np.full(len(days), np.datetime64(origin.date)),
                "part": np.full(len(days), part),
                "last_day": days,
            }
            for measure in ("orders", "revenue"):
                columns[measure] = origin.data[f"{part}_{measure}"].values
                columns[f"expected_{measure}"] = origin.data[f"{part}_expected_{measure}"].values.mean(axis=0)
            for name, values in columns.items():
                parts.setdefault(name, []).append(values)
    pq.write_table(pa.table({name: np.concatenate(values) for name, values in parts.items()}), path)


def html(table: Mapping[str, Any], figures: Mapping[str, tuple[str, str]]) -> str:
    """The page: inline style and figures, no script, no network."""
    from markupsafe import Markup

    shown = {block["label"]: block["orders"]["level"] for block in table["horizons"]}
    totals = [
        (k, row)
        for k, row in enumerate(table["coverage"])
        if not row["column"] and row["level"] == shown.get(row["horizon"])
    ]
    groups: dict[str, list[tuple[int, Any]]] = {}
    for k, row in enumerate(table["coverage"]):
        last = row["horizon"] == table["tested"]["horizon"] and row["level"] == shown.get(row["horizon"])
        if row["column"] and row["measure"] == "margin" and last:
            groups.setdefault(row["column"], []).append((k, row))
    return page.template("backtest.html.j2", table).render(
        sentences=sentences(table),
        totals=totals,
        groups=groups,
        levels=[(k, row) for k, row in enumerate(table["coverage"]) if not row["column"]],
        shown=SHOWN,
        rules=RULES,
        captures=_CAPTURES,
        probabilities=[f"{100 * p:.0f}" for p in PROBABILITIES],
        band=f"{100 * BAND:.0f}",
        figures={name: (Markup(svg), caption) for name, (svg, caption) in figures.items()},
        marks=page._MARKS,
    )


def printed(table: Mapping[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows for the command line."""
    from clvmodels.report.text import show

    header: tuple[str, ...] = (
        "horizon",
        "origins",
        "apart",
        "purchases in 90 %",
        "revenue in 90 %",
        "bias",
        "rms z",
        "held",
    )
    rows: list[tuple[str, ...]] = []
    for k, block in enumerate(table["horizons"]):
        key = f"horizons.{k}"
        rows.append(
            (
                block["label"],
                show(table, f"{key}.origins.value", "count"),
                show(table, f"{key}.separate.value", "count"),
                show(table, f"{key}.orders.coverage", "percent"),
                show(table, f"{key}.revenue.coverage", "percent"),
                show(table, f"{key}.orders.bias", "percent"),
                show(table, f"{key}.orders.rms_z", "fixed"),
                {True: "yes", False: "no", None: "?"}[block["holds"]],
            )
        )
    return header, rows


# --- figures -------------------------------------------------------------------------------------

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_TRACKED = 12


def draw(backtest: Backtest, table: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Every figure: name → (figure, caption)."""
    from clvmodels.report import figures as f

    return {
        "coverage": (
            coverage_figure(table),
            f"Share of origins whose truth lay inside the {100 * NOMINAL:.0f} % interval, by level. Shaded: "
            f"where it would lie with {100 * BAND:.0f} % probability if the interval held, given the number "
            "of origins that do not overlap.",
        ),
        "pit": (
            f._styled(_pit)(table),
            "Probability that the forecast gave to what came or less, over origins. On the diagonal "
            "forecasts are right about their uncertainty; steps at 0 and 1 are surprises.",
        ),
        "tracking": (
            f._styled(_tracking)(backtest),
            "Repeat purchases of the customers known at each origin (grey line), by week: observed (dark), "
            "expected in the window from first days and parameters, after it from the histories (dashed).",
        ),
        "reliability": (
            f._styled(_reliability)(table),
            "Customers of all origins in ten classes by their probability of buying: predicted and observed.",
        ),
        "top_decile": (
            f._styled(_top_decile)(table),
            "Share of the margin that came from the tenth of customers chosen beforehand; means over "
            "origins.",
        ),
    }


def coverage_figure(table: Mapping[str, Any]) -> Any:
    """Coverage by horizon and level, with binomial bands; a matplotlib figure."""
    from clvmodels.report import figures as f

    return f._styled(_coverage)(table)


def _coverage(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    labels = [block["label"] for block in table["horizons"]]
    figure, axes = f._panels(len(SHOWN), height=2.9, sharey=True)
    name = f"{100 * NOMINAL:.0f}"
    for ax, (measure, title) in zip(axes, SHOWN.items(), strict=True):
        for level, marker, shift in zip(LEVELS, "os^D", (-0.18, -0.06, 0.06, 0.18), strict=True):
            rows = [r for label in labels for r in table["coverage"] if _is(r, label, measure, level)]
            place = np.array([labels.index(r["horizon"]) for r in rows], float)
            if level == "predictive":
                low, high = np.array([r[f"band_{name}"] or (np.nan, np.nan) for r in rows]).T
                ax.bar(place, high - low, bottom=low, width=0.62, color=f.FAINT, lw=0)
            shares = [r[f"coverage_{name}"] for r in rows]
            ink = f.MODEL if level == LEVELS[-1] else f.INK if level == "predictive" else f.GREY
            ax.plot(place + shift, shares, color=ink, ls=f.LINES[level], marker=marker, ms=4, mfc="white",
                    label=level)  # fmt: skip
        ax.axhline(NOMINAL, color=f.MODEL, lw=0.9)
        ax.set_title(title.capitalize())
        counts = [
            f"{b['label']}\n{b['origins']['value']} / {b['separate']['value']}" for b in table["horizons"]
        ]
        ax.set_xticks(range(len(labels)), counts)
        ax.set_xlim(-0.5, len(labels) - 0.5)
        ax.set_ylim(-0.03, 1.03)
        f._shares(ax.yaxis)
    axes[0].set_ylabel(f"Coverage of {name} % intervals")
    figure.legend(
        handles=axes[0].get_lines()[: len(LEVELS)], loc="outside upper right", ncols=4, fontsize=7.5
    )
    figure.supxlabel("Horizon; origins / without overlap", fontsize=8)
    return figure


def _pit(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    figure, axes = f._panels(len(SHOWN), height=3.0, sharey=True)
    for ax, (measure, title) in zip(axes, SHOWN.items(), strict=True):
        ax.plot([0, 1], [0, 1], color=f.MODEL, lw=0.9)
        found = [block for block in table["pit"] if block["measure"] == measure and block["values"]]
        for k, block in enumerate(found):
            values = np.sort(block["values"])
            steps = np.arange(len(values) + 1) / len(values)
            shade = (f.INK, f.GREY, f.MODEL, f.PALE)[k % 4]
            ax.step(np.r_[0, values, 1], np.r_[steps, 1], where="post", color=shade,
                    ls=("-", (0, (5, 2)), (0, (1, 1.6)), "-.")[k % 4], label=block["horizon"])  # fmt: skip
        ax.set_title(title.capitalize())
        ax.set_xlabel("Probability of the truth or less")
        ax.set_xlim(-0.02, 1.02)
        ax.set_ylim(-0.02, 1.02)
    axes[0].set_ylabel("Share of origins")
    axes[0].legend(loc="upper left", fontsize=7)
    return figure


def _tracking(backtest: Backtest) -> Any:
    from clvmodels.report import figures as f

    scored = backtest.scored
    pick = np.unique(np.linspace(0, len(scored) - 1, min(_TRACKED, len(scored))).round().astype(int))
    columns = min(4, len(pick))
    rows = -(-len(pick) // columns)
    figure, axes = f._panels(columns, rows, height=1.5 * rows + 0.5, squeeze=False, sharex=True)
    for ax, k in zip(axes.ravel(), pick, strict=False):
        data = scored[k].data
        for part, along, style in (("window", "week", "-"), ("later", "later", (0, (3, 1.5)))):
            days = data[along].values
            ax.plot(days, data[f"{part}_orders"].values, color=f.INK, lw=0.9)
            ax.plot(
                days, data[f"{part}_expected_orders"].values.mean(axis=0), color=f.MODEL, lw=1.3, ls=style
            )
        ax.axvline(np.datetime64(scored[k].date), color=f.GREY, lw=0.8)
        ax.set_title(scored[k].date.isoformat(), fontsize=7.5)
        ax.set_ylim(0)
        f._dates(ax)
        ax.tick_params(labelsize=6.5)
    for ax in axes.ravel()[len(pick) :]:
        ax.set_visible(False)
    unit = "week" if backtest.clock == "continuous" else backtest.time_unit
    figure.supylabel(f"Repeat purchases per {unit}", fontsize=8)
    return figure


def _reliability(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    labels = [block["label"] for block in table["horizons"]]
    figure, axes = f._panels(len(labels), height=2.7, squeeze=False)
    for ax, label in zip(axes[0], labels, strict=True):
        rows = [row for row in table["reliability"] if row["horizon"] == label]
        predicted, observed = ([row[name] for row in rows] for name in ("predicted", "observed"))
        top = 1.08 * max(max(predicted), max(observed), 0.01)
        ax.plot([0, top], [0, top], color=f.MODEL, lw=0.9)
        ax.plot(predicted, observed, "o", color=f.INK, ms=4, mfc="white")
        ax.set_title(f"Within {label}")
        ax.set_xlabel("Predicted probability")
        f._shares(ax.xaxis)
        f._shares(ax.yaxis)
        ax.xaxis.get_major_locator().set_params(nbins=4)
    axes[0][0].set_ylabel("Share that bought")
    return figure


def _top_decile(table: Mapping[str, Any]) -> Any:
    from clvmodels.report import figures as f

    rows = table["decisions"]
    figure, ax = f._axes(None, 4.4, 2.8)
    faces = (f.MODEL, f.PALE, f.FAINT, "white")
    for j, (name, label) in enumerate(_CAPTURES.items()):
        heights = [np.nan if row[name] is None else row[name] for row in rows]
        ax.bar(np.arange(len(rows)) + 0.2 * (j - 1.5), heights, width=0.19, color=faces[j], edgecolor=f.INK,
               lw=0.6, hatch="////" if j == 3 else "", label=label)  # fmt: skip
    ax.set_xticks(range(len(rows)), [row["horizon"] for row in rows])
    ax.set_ylabel("Share of realised margin")
    ax.set_ylim(0, 1.32)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    f._shares(ax.yaxis)
    ax.legend(loc="upper left", ncols=2)
    return figure

"""Where the error of revenue comes from: who buys, how far own baskets are trusted, and growth.

At every origin of a backtest customers are put into classes by their repeat purchases so far, and sums over
origins are taken at one horizon: purchases expected and come, the mean basket expected of them, the one that
came, and the same customers' in the window. ``left out`` predicts every basket of the window from the
customer's other baskets: it is 0 in every class, whatever grows, where spend does not depend on how often one
buys.

    python -m benchmarks.mix
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clvmodels import fit as fitting
from clvmodels.artifacts import Assumptions
from clvmodels.data import history as histories
from clvmodels.fit import shocks
from clvmodels.models import registry
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow
from clvmodels.run import backtesting
from clvmodels.run.stages import load_config
from clvmodels.validate import systematic
from clvmodels.value import horizons as ahead
from clvmodels.value import valuation

CONFIGS = Path(__file__).parents[1] / "configs"
LOGS = {"CDNOW, 1/10 sample": "cdnow.yaml", "Online Retail": "online_retail.yaml"}
CLASSES = {"0": (0, 0), "1": (1, 1), "2 to 3": (2, 3), "4 to 7": (4, 7), "8 and more": (8, np.inf)}
WEEKS = 13
THIN = 100
"""Draws over which expectations are averaged."""
LARGE = 20
"""Mean baskets of a window, above which a purchase is counted as large."""


def origins(config: str) -> list[dict[str, np.ndarray]]:
    """Sums by class, shape (class,), of every origin that has the horizon."""
    settings = load_config(CONFIGS / config, [], None)
    history = histories.read(settings.data, base=settings.base)
    horizons, _ = backtesting.plan_horizons(settings, history)
    days = backtesting.plan_origins(settings, history, horizons)
    last, number = int(history.number(history.last)), history.number(history.day)
    repeat = np.ones(len(number), bool)
    repeat[history.start[:-1]] = False
    out = []
    for day in (d for d in days if int(history.number(d)) + 7 * WEEKS <= last):
        summary, position = history.at(day)
        models = settings.models
        posterior = fitting.fit(summary, models.purchases, models.spend, settings.fit, settings.seed)
        few, length = posterior.thinned(THIN), 7 * WEEKS / history.per_unit
        plain = Assumptions(
            margin=np.ones(len(summary)), margin_source="", annual_discount_rate=0.0, units_per_year=1.0,
            horizon=length,
        )  # fmt: skip
        nobody = np.zeros((len(summary), 1), np.int64)
        mean = ahead.expected(valuation(summary, few, plain, 1), [Flow(delta=0.0, horizon=length)], nobody, 1)
        count, paid = history.repeats(position, day, history.after(day, 7 * WEEKS))
        x, z = summary["frequency"], np.nan_to_num(summary["monetary_value"])
        place = np.full(len(history.customer), -1)
        place[position] = np.arange(len(position))
        owner = place[history.owner]
        chosen = repeat & (number <= int(history.number(day))) & (owner >= 0)
        who, amount = owner[chosen], history.amount[chosen] / histories.MILLIONTHS
        large = repeat & (owner >= 0) & (history.amount > LARGE * amount.mean() * histories.MILLIONTHS)
        before = large & chosen
        after = large & (number > int(history.number(day))) & (number <= int(history.number(day)) + 7 * WEEKS)
        rest = np.maximum(x[who] - 1, 1)
        stats = np.column_stack([x[who] - 1, np.where(x[who] > 1, (x[who] * z[who] - amount) / rest, 0.0)])
        expected = np.empty((len(who), len(few)))
        family = registry.spend(few.spend.family)
        loops.over_stats(family.expected_spend, few.spend.flat, np.ascontiguousarray(stats), expected)
        columns = {
            "customers": np.ones(len(x)),
            "expected": mean.orders[:, 0],
            "came": count,
            "revenue": mean.margin[:, 0],
            "paid": paid,
            "given": count * mean.spend,
            "window": x,
            "spent": x * z,
            "told": np.bincount(who, amount, len(x)),
            "others": np.bincount(who, expected.mean(axis=1), len(x)),
        }
        for name, mask in (("window", before), ("came", after)):
            columns[f"large_{name}"] = np.bincount(owner[mask], minlength=len(x)).astype(float)
        for name, mask in (("spent", before), ("paid", after)):
            paid_for = history.amount[mask] / histories.MILLIONTHS
            columns[f"large_{name}"] = np.bincount(owner[mask], paid_for, len(x))
        inside = np.array([(x >= low) & (x <= high) for low, high in CLASSES.values()], float)
        out.append({name: inside @ column for name, column in columns.items()})
    return out


def growth(config: str) -> tuple[float, float]:
    """Slope a year of the level of baskets within customers over the whole log, on the log, and its error."""
    settings = load_config(CONFIGS / config, [], None)
    history = histories.read(settings.data, base=settings.base)
    calendar = history.at(history.last)[0].calendar
    weeks = len(calendar.returns)
    found = systematic.within_customers(calendar, weeks, np.ones(weeks))
    if found is None:
        raise ValueError(f"{config}: too few customers came back")
    told = np.isfinite(np.diagonal(found.noise))
    year = np.flatnonzero(told) / shocks.YEAR
    design = np.column_stack([np.ones(told.sum()), year])
    precision = np.linalg.inv(found.noise[np.ix_(told, told)])
    covariance = np.linalg.inv(design.T @ precision @ design)
    level = np.log(found.observed / found.expected)[told]
    return float((covariance @ design.T @ precision @ level)[1]), float(np.sqrt(covariance[1, 1]))


def page() -> str:
    """Markdown: one table of classes and one sentence for each log."""
    head = (
        "", "repeat purchases so far", "purchases expected", "came", "basket expected", "came",
        "in the window", "came / expected", "left out",
    )  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    told = []
    for title, config in LOGS.items():
        found = origins(config)
        sums = {name: np.sum([one[name] for one in found], axis=0) for name in found[0]}
        for k, label in enumerate([*CLASSES, "all"]):
            s = {name: float(v.sum() if label == "all" else v[k]) for name, v in sums.items()}
            seen = s["window"] > 0
            cells = [
                title, label, f"{s['expected']:,.0f}", f"{s['came']:,.0f}",
                f"{s['revenue'] / s['expected']:,.1f}", f"{s['paid'] / s['came']:,.1f}",
                f"{s['spent'] / s['window']:,.1f}" if seen else "–",
                percent(np.log(s["paid"] / s["came"] * s["expected"] / s["revenue"])),
                percent(np.log(s["told"] / s["others"])) if seen else "–",
            ]  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
        total: dict[str, Any] = {name: v.sum() for name, v in sums.items()}
        expected, came = total["revenue"] / total["expected"], total["paid"] / total["came"]
        given = total["given"] / total["came"]
        slope, error = growth(config)

        def share(part: str, whole: str, total: dict[str, Any] = total) -> str:
            return f"{100 * total[part] / total[whole]:.2g} %"

        told.append(
            f"{title}, {len(found)} origins: the mean basket came out {percent(np.log(came / expected))} "
            f"above the forecast (on the log): {percent(np.log(given / expected))} because other customers "
            f"bought than were expected to, {percent(np.log(came / given))} because they paid more than was "
            f"expected of them. Over the whole log baskets grew within customers by {100 * slope:.0f} % a "
            f"year (standard error {100 * error:.1f} %). Purchases above {LARGE} mean baskets of the window "
            f"were {share('large_window', 'window')} of the window's, {share('large_spent', 'spent')} of its "
            f"revenue, {share('large_came', 'came')} of those that came and {share('large_paid', 'paid')} of "
            "their revenue."
        )
    return "\n".join(lines) + "\n\n" + "\n".join(f"- {sentence}" for sentence in told)


def percent(value: float) -> str:
    return f"{100 * value:.0f} %".replace("-", "−")


if __name__ == "__main__":
    print(page())

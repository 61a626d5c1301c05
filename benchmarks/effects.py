"""Do the intervals of effects hold what they promise, and does pooling pay? Written to docs/effects_study.md.

    python benchmarks/effects.py --sets 100

For every family that can carry effects, small data sets are simulated from the family's own story with
effects drawn from their prior, and each is fitted by importance sampling. Intervals of 50 and 90 % should
then cover at that rate. For pooling, segments from 200 customers down to 3 are simulated and fitted by NUTS
with partial, no and complete pooling; the score is the log density of new customers, as many of each segment.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from builders import make_summary  # type: ignore[import-not-found]  # noqa: E402

from clvmodels import fit as fitting  # noqa: E402
from clvmodels.artifacts import Summary  # noqa: E402
from clvmodels.config import CovariatesConfig, FitConfig, ModelConfig, ModelsConfig, PoolConfig  # noqa: E402
from clvmodels.data import design  # noqa: E402
from clvmodels.fit.links import fit_linked  # noqa: E402
from clvmodels.fit.pointwise import log_density  # noqa: E402
from clvmodels.models import links, registry  # noqa: E402
from clvmodels.models.family import Family  # noqa: E402
from clvmodels.value import Natives  # noqa: E402

CUSTOMERS, DRAWS, SCALE = 400, 500, 0.7
SIZES = {f"s{i:02}": n for i, n in enumerate((200, 80, 30, 10, 10, 10, 3, 3, 3, 3, 3, 3))}
SPREAD, NEW = 0.3, 50


def families() -> list[Family]:
    found = [f for f in registry.families() if links.driven(f) and f.per_row]
    return [f for f in found if f.role == "spend" or getattr(f, "clock", "") == "continuous"]


def customers(
    family: Any, theta: dict[str, Any], features: dict[str, np.ndarray], rng: np.random.Generator
) -> Summary:
    """Customers of the family's own story, one parameter vector each."""
    n = len(next(iter(features.values())))
    if family.role == "spend":
        x = rng.integers(1, 6, n)
        columns = family.simulate(theta, x, rng).statistics(family.extra_statistics)
        columns |= {"recency": np.full(n, 20.0), "T": np.full(n, 40.0)}
    else:
        T = rng.choice([40.0, 60.0, 80.0], n)
        columns = family.simulate(theta, T, rng).statistics(T, family.extra_statistics)
    made = make_summary(columns, features)
    return replace(made, segments={}, features=dict(made.segments))


def rows_of(family: Family, theta: dict[str, Any], n: int) -> dict[str, Any]:
    """Parameters by customer where they differ, and as a number where they do not."""
    return {
        name: np.broadcast_to(value, n).copy() if np.ndim(value) else float(value)
        for name, value in theta.items()
    }


def fitted(
    family: Family, summary: Summary, models: ModelsConfig, seed: int, sampler: Any = "importance"
) -> Any:
    mine = [t for t in design.terms(models, summary) if (t.driver == "spend") == (family.role == "spend")]
    where = summary.spenders if family.role == "spend" else None
    return fit_linked(
        family, summary, where, mine, ModelConfig(family=family.name),
        FitConfig(sampler=sampler, draws=DRAWS, tune=300, chains=2), np.random.SeedSequence(seed),
        fitting.measure(summary),
        lambda name: lambda share: None,
    )  # fmt: skip


def coverage(family: Family, sets: int) -> list[tuple[str, int, float, float, float]]:
    """By coefficient: data sets with k-hat at most 0.7, coverage of 50 and 90 %, rank chi-square p."""
    from scipy.stats import chi2

    drivers = list(links.driven(family))
    names: dict[str, Any] = dict.fromkeys(drivers, ("age", "channel"))
    models = ModelsConfig(covariates=CovariatesConfig(**names, scale=SCALE))
    found: dict[str, list[float]] = {}
    for number in range(sets):
        rng = np.random.default_rng([1, number])
        age = rng.choice([20, 30, 40, 50], CUSTOMERS)
        web = rng.random(CUSTOMERS) < 0.4
        z = (age - age.mean()) / age.std()
        beta = {driver: rng.normal(0, SCALE, 2) for driver in drivers}
        shifts = {driver: b[0] * z + b[1] * web for driver, b in beta.items()}
        point = {name: float(value) for name, value in family.typical[0].items()}
        theta = rows_of(family, links.native(family, point, shifts), CUSTOMERS)
        features = {"age": age.astype(str), "channel": np.where(web, "web", "ads")}
        summary = customers(family, theta, features, rng)
        if not summary.spenders.any():
            continue
        part = fitted(family, summary, models, number)
        if part.diagnostics["k_hat"] > 0.7:
            continue
        truth = [float(v) for b in beta.values() for v in b]
        reference = next(t.reference for t in part.effects.terms if t.kind == "levels")
        for name, value, draws in zip(part.effects.names, truth, part.effects.flat.T, strict=True):
            sign = -1.0 if "channel" in name and reference == "web" else 1.0
            found.setdefault(name.partition(" = ")[0], []).append(float((draws < sign * value).mean()))
    out: list[tuple[str, int, float, float, float]] = []
    for name, ranks in found.items():
        u = np.array(ranks)
        counts = np.histogram(u, np.linspace(0, 1, 6))[0]
        p = float(chi2.sf(((counts - len(u) / 5) ** 2 / (len(u) / 5)).sum(), 4))
        half, ninety = (float((np.abs(u - 0.5) <= width / 2).mean()) for width in (0.5, 0.9))
        out.append((name, len(u), half, ninety, p))
    return out


def pooling(family: Family, sets: int) -> dict[str, np.ndarray]:
    """Log density of new customers by way of pooling, shape (data set,): mean over customers, nats."""
    drivers = tuple(links.driven(family))[:1]
    ways = {"partial": None, "none": 3.0, "complete": 0.0}
    scores: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(sets):
        rng = np.random.default_rng([2, number])
        u = {driver: dict(zip(SIZES, rng.normal(0, SPREAD, len(SIZES)), strict=True)) for driver in drivers}
        point = {name: float(value) for name, value in family.typical[0].items()}

        def made(sizes: dict[str, int], u: Any = u, point: Any = point, rng: Any = rng) -> Summary:
            segment = np.repeat(list(sizes), list(sizes.values()))
            shifts = {driver: np.array([u[driver][label] for label in segment]) for driver in drivers}
            theta = rows_of(family, links.native(family, point, shifts), len(segment))
            return customers(family, theta, {"segment": segment}, rng)

        train, test = made(SIZES), made(dict.fromkeys(SIZES, NEW))
        for way, sd in ways.items():
            models = ModelsConfig(pool=(PoolConfig(by=("segment",), on=drivers, sd=sd),))
            part = fitted(family, train, models, number, "nuts")
            total = 0.0
            for draws, members in Natives.of(part, test).groups():
                stats = np.column_stack([test[name][members] for name in family.statistics])
                values = log_density(family, draws, stats)
                top = values.max(axis=0)
                total += float((top + np.log(np.exp(values - top).mean(axis=0))).sum())
            scores[way].append(total / len(test))
    return {way: np.array(values) for way, values in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--pooled-sets", type=int, default=30)
    parser.add_argument("--families", nargs="*", default=[f.name for f in families()])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "effects_study.md")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        "# Effects: coverage and pooling",
        "",
        f"Written by `python benchmarks/effects.py --sets {options.sets} "
        f"--pooled-sets {options.pooled_sets}`.",
        "",
        f"{options.sets} data sets of {CUSTOMERS} customers for each family, with effects drawn from their",
        f"prior (normal, sd {SCALE}) on a number and on a level; importance sampling with {DRAWS} draws,",
        "data sets with a k-hat above 0.7 left out. At a true rate of 50 and 90 %, 100 data sets show 40 to",
        "60 and 84 to 96 % nineteen times in twenty. p: chi-square test that the truth's rank among draws is",
        "uniform, five classes.",
        "",
        "| family | effect | data sets | inside 50 % | inside 90 % | p |",
        "|---|---|---|---|---|---|",
    ]
    for name in options.families:
        start = time.perf_counter()
        for effect, n, half, ninety, p in coverage(registry.get(name), options.sets):
            lines.append(
                f"| `{name}` | {effect} | {n} | {100 * half:.0f} % | {100 * ninety:.0f} % | {p:.2f} |"
            )
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(name, f"{time.perf_counter() - start:.0f} s", flush=True)
    lines += [
        "",
        f"Twelve segments of {', '.join(map(str, SIZES.values()))} customers, whose mean purchase rate (or",
        f"mean spend) deviates with sd {SPREAD}, {options.pooled_sets} data sets: log density of",
        f"{NEW * len(SIZES)} new customers, {NEW} of each segment, relative to partial pooling",
        "(nats, all by NUTS, mean ± standard error).",
        "",
        "| family | no pooling | complete pooling |",
        "|---|---|---|",
    ]
    for name in options.families:
        scores = pooling(registry.get(name), options.pooled_sets)
        cells = []
        for way in ("none", "complete"):
            gap = NEW * len(SIZES) * (scores[way] - scores["partial"])
            cells.append(f"{gap.mean():.1f} ± {gap.std(ddof=1) / np.sqrt(len(gap)):.1f}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
        options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(name, "pooling", flush=True)


if __name__ == "__main__":
    main()

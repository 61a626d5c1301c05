"""Whether draws can be trusted: effective sample sizes, R-hat, k-hat, and the gate they form."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np

from clvmodels.artifacts import Check, FamilyPosterior, Posterior
from clvmodels.numerics.special import ranks

R_HAT_MAX = 1.01
"""Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Bayesian Analysis 16(2), section 4."""
ESS_MIN = 400.0
"""The same: 100 for each of four chains, below which R-hat and ESS are themselves uncertain."""
K_HAT_MAX = 0.7
"""Vehtari, Simpson, Gelman, Yao and Gabry (2024), JMLR 25(72), section 3.2.4: beyond it, the number of
draws that importance sampling needs grows impractically."""


def ess(draws: np.ndarray, *copies: np.ndarray) -> dict[str, float]:
    """Bulk and tail effective sample size of one quantity.

    Parameters
    ----------
    draws
        Shape (chain, draw).
    copies
        For independent draws of which some are copies: labels of shape (draw,), equal where a draw
        repeats another; two where each draw pairs two such draws. None: draws of Markov chains.

    Notes
    -----
    Copies: ``Σe² / Σ_g(Σ_{d in g} e_d)²`` times the number of draws, e the deviation from the mean
    and g the groups of copies; with two labellings the sums over the groups of each, less those
    over the groups of both (the two-way clustered variance). Bulk takes it of normal
    scores of the ranks, tail of the indicators of the 5 % and 95 % quantiles, the lower of both.
    """
    from scipy.special import ndtri

    if not copies:
        from arviz_stats.base import array_stats

        tail = array_stats.ess(draws, method="tail", prob=(0.05, 0.95))
        return {"bulk": float(array_stats.ess(draws, method="bulk")), "tail": float(tail)}
    flat = draws.ravel()
    scores = ndtri((ranks(flat) - 0.375) / (len(flat) + 0.25))
    low, high = np.quantile(flat, [0.05, 0.95])
    return {
        "bulk": _ess_of_mean(scores, copies),
        "tail": min(_ess_of_mean(flat <= low, copies), _ess_of_mean(flat <= high, copies)),
    }


def copies_of(rows: np.ndarray) -> np.ndarray:
    """Labels of equal rows, shape (draw,), of ``rows[draw, parameter]``."""
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def _ess_of_mean(values: np.ndarray, copies: tuple[np.ndarray, ...]) -> float:
    away = values - values.mean()
    groups = [*copies, copies_of(np.column_stack(copies))] if len(copies) == 2 else list(copies)
    signs = (1, 1, -1) if len(copies) == 2 else (1,)
    spread = sum(
        sign * (np.bincount(group, away) ** 2).sum() for sign, group in zip(signs, groups, strict=True)
    )
    return float(len(values) * (away @ away) / spread) if spread > 0 else float("nan")


def diagnose(
    draws: np.ndarray, names: tuple[str, ...], given: Container[str], *, independent: bool
) -> dict[str, Any]:
    """``ess_bulk``, ``ess_tail`` and ``r_hat`` by parameter.

    None where there is nothing to say: for parameters that are given, and R-hat of independent draws.

    Parameters
    ----------
    draws
        Shape (chain, draw, parameter).
    given
        Parameters that are not estimated.
    """
    found: dict[str, Any] = {kind: dict.fromkeys(names) for kind in ("ess_bulk", "ess_tail", "r_hat")}
    copies = (copies_of(draws[0]),) if independent else ()
    for j, name in enumerate(names):
        column = draws[:, :, j]
        if name not in given:
            sizes = ess(column, *copies)
            found["ess_bulk"][name], found["ess_tail"][name] = sizes["bulk"], sizes["tail"]
            if not independent:
                from arviz_stats.base import array_stats

                stuck = column.min() == column.max()
                found["r_hat"][name] = float("nan") if stuck else float(array_stats.rhat(column))
    return found


def gate(posterior: Posterior, equity_draws: np.ndarray | None = None) -> tuple[Check, ...]:
    """Whether the draws may be used.

    Parameters
    ----------
    equity_draws
        Total equity at level expected, shape (draw,); its effective sample size is checked too.

    Returns
    -------
    tuple of Check
        One for each diagnostic of each fitted family and of equity; ``passed`` is None where a
        single parameter vector leaves nothing to converge. All must pass.
    """
    parts = {"purchases": posterior.purchases, "spend": posterior.spend}
    checks = [check for role, part in parts.items() for check in _check_family(role, part)]
    if equity_draws is not None and not posterior.is_point:
        drawn = [part for part in parts.values() if len(part.flat) > 1]
        if any(part.sampler == "nuts" for part in drawn):
            chains = max(part.draws.shape[0] for part in drawn)
            size = ess(equity_draws.reshape(chains, -1))
        else:
            size = ess(equity_draws[None], *(copies_of(part.flat) for part in drawn))
        checks += [_enough(f"equity: {kind} ESS", "customer equity", size[kind]) for kind in ("bulk", "tail")]
    return tuple(checks)


def _check_family(role: str, part: FamilyPosterior) -> list[Check]:
    title = f"{role} ({part.family})"
    if part.sampler in ("map", "fixed"):
        what = "the posterior mode" if part.sampler == "map" else "given"
        sentence = f"{title}: the parameters are {what}, one vector without uncertainty."
        return [Check(name=f"{role}: single vector", passed=None, sentence=sentence)]
    found, checks = part.diagnostics, []
    if part.sampler == "importance":
        k_hat = found["k_hat"]
        good = bool(k_hat <= K_HAT_MAX)
        advice = "" if good else " The draws cannot be trusted; try fit.sampler: nuts, or tighter priors."
        checks.append(
            Check(
                name=f"{role}: k-hat",
                passed=good,
                sentence=f"{title}: k-hat of importance weights is {k_hat:.2f}, limit {K_HAT_MAX}.{advice}",
                value=k_hat,
                threshold=K_HAT_MAX,
            )
        )
    else:
        worst, r_hat = max(_told(found["r_hat"]), key=lambda pair: _or_inf(pair[1]))
        diverged = found["divergences"]
        good = bool(r_hat <= R_HAT_MAX)
        advice = "" if good else " The chains disagree; try a larger fit.tune and fit.draws."
        checks.append(
            Check(
                name=f"{role}: R-hat",
                passed=good,
                sentence=f"{title}: the largest R-hat is {r_hat:.3f} ({worst}), limit {R_HAT_MAX}.{advice}",
                value=r_hat,
                threshold=R_HAT_MAX,
            )
        )
        advice = " The posterior has corners that NUTS cannot enter; try tighter priors." if diverged else ""
        checks.append(
            Check(
                name=f"{role}: divergences",
                passed=diverged == 0,
                sentence=f"{title}: {diverged} of {len(part.flat):,} draws diverged, limit 0.{advice}",
                value=float(diverged),
                threshold=0.0,
            )
        )
    for kind in ("bulk", "tail"):
        worst, size = min(_told(found[f"ess_{kind}"]), key=lambda pair: -_or_inf(-pair[1]))
        checks.append(_enough(f"{role}: {kind} ESS", f"{title}, {worst}", size))
    return checks


def _enough(name: str, what: str, size: float) -> Check:
    good = bool(size >= ESS_MIN)
    advice = "" if good else " Try more fit.draws."
    return Check(
        name=name,
        passed=good,
        sentence=f"{what}: {name.split()[-2]} effective sample size is {size:,.0f}, at least {ESS_MIN:.0f} "
        f"needed.{advice}",
        value=size,
        threshold=ESS_MIN,
    )


def _told(by_parameter: Mapping[str, float | None]) -> list[tuple[str, float]]:
    return [(name, value) for name, value in by_parameter.items() if value is not None]


def _or_inf(value: float) -> float:
    """NaN counts as the worst."""
    return np.inf if np.isnan(value) else value

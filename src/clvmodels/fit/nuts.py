"""The No-U-Turn sampler of nutpie, on the density that the other samplers use.

Compiling a PyMC model for nutpie takes half a minute; the density is compiled already and is
passed as a Python function. It is sampled in coordinates in which the posterior is about
standard normal, so that short trajectories suffice: whitened by the curvature at the mode, or, where asked,
straightened (:mod:`clvmodels.numerics.bends`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from clvmodels.fit.maximum import Peak
from clvmodels.numerics.bends import Straightened

START = 2.0
"""Chains start from a normal this many times as wide as the posterior, as R-hat supposes."""
STEPS = 300
"""Warm-up steps of a chain that needs to learn its step alone."""


def sample(
    target: Callable[[np.ndarray], tuple[Any, ...]],
    mode: Peak,
    chains: int,
    tune: int,
    draws: int,
    seed: int,
    acceptance: float = 0.8,
    progress: Callable[[float], None] = lambda share: None,
    bend: bool = False,
) -> tuple[np.ndarray, int]:
    """Draw from the posterior.

    Parameters
    ----------
    target
        ``point -> (log density, gradient, ...)``.
    mode
        Centre and curvature of the posterior over unconstrained points.
    chains, tune, draws
        ``draws`` in all, split evenly over the chains (rounded up), after ``tune`` each.
    acceptance
        Mean probability of acceptance that steps are tuned to; narrow corners need small steps.
    bend
        Whether to straighten the coordinates, not only to whiten them: for a few dimensions.

    Returns
    -------
    points, divergences
        Shape (chain, draw, k), and how many draws diverged.
    """
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    k, each = len(mode.point), -(-draws // chains)
    straight = (
        Straightened.of(target, mode.point, mode.covariance)
        if bend
        else Straightened.at(mode.point, mode.covariance)
    )

    def density(y: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = target(straight(y))[:2]
        return straight.back(y, value, gradient)

    model = from_pyfunc(
        k,
        make_logp_fn=lambda: density,
        make_expand_fn=lambda *seeds: lambda y: {"y": y},
        expanded_dtypes=[np.dtype(float)],
        expanded_shapes=[(k,)],
        expanded_names=["y"],
        make_initial_point_fn=lambda chain_seed: START * np.random.default_rng(chain_seed).standard_normal(k),
    )
    found = nutpie.sample(
        model,
        draws=each,
        tune=tune,
        chains=chains,
        cores=1,  # the density holds the interpreter's lock and its own storage
        seed=seed,
        target_accept=acceptance,
        save_warmup=False,
        progress_bar=False,
        progress_callback=lambda state: progress(
            sum(chain.finished_draws for chain in state) / (chains * (each + tune))
        ),
    )
    points = np.array([straight(y) for y in found["posterior"]["y"].values.reshape(-1, k)])
    return points.reshape(chains, each, k), int(found["sample_stats"]["diverging"].sum())

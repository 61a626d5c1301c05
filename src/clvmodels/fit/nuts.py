"""The No-U-Turn sampler of nutpie, on the density that the other samplers use.

Compiling a PyMC model for nutpie takes half a minute; the density is compiled already and is
passed as a Python function. It is sampled in coordinates in which the posterior is about
standard normal, so that short trajectories suffice.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from clvmodels.fit.maximum import Peak

START = 2.0
"""Chains start from a normal this many times as wide as the posterior, as R-hat supposes."""


def sample(
    target: Callable[[np.ndarray], tuple[float, np.ndarray, np.ndarray]],
    mode: Peak,
    chains: int,
    tune: int,
    draws: int,
    seed: int,
    acceptance: float = 0.8,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, int]:
    """Draw from the posterior.

    Parameters
    ----------
    target
        ``point -> (log density, gradient, quantities)``.
    mode
        Centre and curvature of the posterior over unconstrained points.
    chains, tune, draws
        ``draws`` in all, split evenly over the chains (rounded up), after ``tune`` each.
    acceptance
        Mean probability of acceptance that steps are tuned to; narrow corners need small steps.

    Returns
    -------
    draws, divergences
        Quantities, shape (chain, draw, quantity), and how many draws diverged.
    """
    import nutpie
    from nutpie.compiled_pyfunc import from_pyfunc

    root = np.linalg.cholesky(mode.covariance)
    k, each = len(mode.point), -(-draws // chains)

    def density(z: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient, _ = target(mode.point + root @ z)
        return value, root.T @ gradient

    model = from_pyfunc(
        k,
        make_logp_fn=lambda: density,
        make_expand_fn=lambda *seeds: lambda z: {"z": z},
        expanded_dtypes=[np.dtype(float)],
        expanded_shapes=[(k,)],
        expanded_names=["z"],
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
    z = found["posterior"]["z"].values.reshape(-1, k)
    native = np.array([target(mode.point + root @ point)[2] for point in z])
    return native.reshape(chains, each, -1), int(found["sample_stats"]["diverging"].sum())

"""From a summary to posterior draws: PyMC graph, samplers, convergence gate.

Nothing heavy is imported before something is fitted.
"""

from clvmodels.fit.convergence import ESS_MIN, K_HAT_MAX, R_HAT_MAX, gate
from clvmodels.fit.joint import fit, fit_family
from clvmodels.fit.priors import check_data, check_effects, check_model, measure

__all__ = [
    "ESS_MIN",
    "K_HAT_MAX",
    "R_HAT_MAX",
    "check_data",
    "check_effects",
    "check_model",
    "fit",
    "fit_family",
    "gate",
    "measure",
]

"""Whether model and data agree; knows nothing of PyMC."""

from clvmodels.validate.checks import predictive_checks

__all__ = ["predictive_checks"]

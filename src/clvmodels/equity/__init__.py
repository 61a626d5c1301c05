"""Sums of value over customers: total, segments, bands, concentration, and what they depend on."""

from clvmodels.equity.sensitivity import Survey, survey
from clvmodels.equity.statement import build, top, with_shocks

__all__ = ["Survey", "build", "survey", "top", "with_shocks"]

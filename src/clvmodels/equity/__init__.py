"""Sums of value over customers: total, segments, bands, concentration, and what they depend on."""

from clvmodels.equity.drivers import effects
from clvmodels.equity.prospects import prospect
from clvmodels.equity.sensitivity import Survey, survey
from clvmodels.equity.statement import build, top, with_shocks
from clvmodels.equity.what_if import what_if

__all__ = ["Survey", "build", "effects", "prospect", "survey", "top", "what_if", "with_shocks"]

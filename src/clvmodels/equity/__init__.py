"""Sums of value over customers: total, segments, bands, concentration."""

from clvmodels.equity.drivers import effects
from clvmodels.equity.prospects import prospect
from clvmodels.equity.statement import build, top
from clvmodels.equity.what_if import what_if

__all__ = ["build", "effects", "prospect", "top", "what_if"]

"""Sums of value over customers: total, segments, bands, concentration."""

from clvmodels.equity.statement import build, top

__all__ = ["build", "top"]

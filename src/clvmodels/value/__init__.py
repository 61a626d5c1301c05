"""Streams draws × customers into values; knows nothing of PyMC."""

from clvmodels.numerics.discounting import Flow
from clvmodels.value.newcomer import AnyNewcomer, Newcomer, newcomer
from clvmodels.value.patterns import AnyValuation, Natives, PatternedValuation, valuation
from clvmodels.value.residual import residual
from clvmodels.value.stream import (
    Tile,
    Valuation,
    expected_purchases,
    expected_spend,
    p_alive,
    valuation_flow,
)

__all__ = [
    "AnyNewcomer",
    "AnyValuation",
    "Flow",
    "Natives",
    "Newcomer",
    "PatternedValuation",
    "Tile",
    "Valuation",
    "expected_purchases",
    "expected_spend",
    "newcomer",
    "p_alive",
    "residual",
    "valuation",
    "valuation_flow",
]

"""The pipeline: what the commands and a notebook call."""

from clvmodels.run.bridging import BridgeResult, bridge
from clvmodels.run.comparing import Comparison, compare
from clvmodels.run.job import EquityResult, Run, check, fit, from_pymc_marketing, load, report

__all__ = [
    "BridgeResult",
    "Comparison",
    "EquityResult",
    "Run",
    "bridge",
    "check",
    "compare",
    "fit",
    "from_pymc_marketing",
    "load",
    "report",
]

"""The pipeline: what the commands and a notebook call."""

from clvmodels.run.backtesting import BacktestResult, backtest
from clvmodels.run.bridging import BridgeResult, bridge
from clvmodels.run.comparing import Comparison, compare
from clvmodels.run.job import EquityResult, Run, check, fit, from_pymc_marketing, load, report
from clvmodels.run.simulating import Calibration, sbc

__all__ = [
    "BacktestResult",
    "BridgeResult",
    "Calibration",
    "Comparison",
    "EquityResult",
    "Run",
    "backtest",
    "bridge",
    "check",
    "compare",
    "fit",
    "from_pymc_marketing",
    "load",
    "report",
    "sbc",
]

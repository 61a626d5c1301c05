"""The pipeline: what the commands and a notebook call."""

from clvmodels.run.backtesting import BacktestResult, backtest
from clvmodels.run.bridging import BridgeResult, bridge, bridge_runs
from clvmodels.run.comparing import Comparison, compare
from clvmodels.run.job import EquityResult, Run, check, fit, from_pymc_marketing, load, report
from clvmodels.run.rolling import RollingResult, compare_rolling
from clvmodels.run.simulating import Calibration, sbc
from clvmodels.run.tracking import HistoryResult, history

__all__ = [
    "BacktestResult",
    "BridgeResult",
    "Calibration",
    "Comparison",
    "EquityResult",
    "HistoryResult",
    "RollingResult",
    "Run",
    "backtest",
    "bridge",
    "bridge_runs",
    "check",
    "compare",
    "compare_rolling",
    "fit",
    "from_pymc_marketing",
    "history",
    "load",
    "report",
    "sbc",
]

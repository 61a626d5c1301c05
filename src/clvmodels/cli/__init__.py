"""The commands. Each imports what it needs when it runs, so that ``--help`` answers in a blink."""

# The order of the imports is the order of the help.
# isort: off
from clvmodels.cli.app import app, main
from clvmodels.cli import init, job, compare, bridge, history, backtest, sbc, families

__all__ = ["app", "backtest", "bridge", "compare", "families", "history", "init", "job", "main", "sbc"]

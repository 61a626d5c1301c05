"""From a log of transactions, or a table of summaries, to customers: sources, ledger, bundled data.

The only user of Ibis; it is imported when data are read.
"""

from __future__ import annotations

from clvmodels.data.bundled import bundled_path
from clvmodels.data.guessing import Guess, guess
from clvmodels.data.summary import check, summarise

__all__ = ["Guess", "bundled_path", "check", "guess", "summarise"]

"""From a transaction log to one row per customer: sources, summary, ledger, bundled logs.

The only user of Ibis; it is imported when a log is read.
"""

from __future__ import annotations

from clvmodels.data.bundled import bundled_path
from clvmodels.data.guessing import Guess, guess
from clvmodels.data.summary import check, summarise

__all__ = ["Guess", "bundled_path", "check", "guess", "summarise"]

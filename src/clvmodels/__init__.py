"""Probabilistic customer lifetime value and customer equity.

``fit(config, transactions)`` runs the main job, ``bridge`` says why equity moved between two dates
(``bridge_runs``: between two finished runs), ``history`` gives equity at a series of dates,
``backtest`` holds forecasts from many past days against what happened,
``compare`` sets variants side by side (``compare_rolling``: on many past days),
``check`` validates a config and its data without fitting,
``load`` reads a finished run back from its folder, ``from_pymc_marketing`` values what was fitted
there, and ``families`` lists the models.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Run",
    "__version__",
    "backtest",
    "bridge",
    "bridge_runs",
    "check",
    "compare",
    "compare_rolling",
    "families",
    "fit",
    "from_pymc_marketing",
    "history",
    "load",
]

_HOMES = {
    "Comparison": "run",
    "Run": "run",
    "backtest": "run",
    "bridge": "run",
    "bridge_runs": "run",
    "check": "run",
    "compare": "run",
    "compare_rolling": "run",
    "families": "models.registry",
    "from_pymc_marketing": "run",
    "history": "run",
    "load": "run",
}


class _Callable(ModuleType):
    """The stage ``clvmodels.fit``, which is called to run the main job."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from clvmodels import run

        return run.fit(*args, **kwargs)


class _Package(ModuleType):
    """Makes the stage ``fit`` callable when it is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "fit" and isinstance(value, ModuleType):
            value.__class__ = _Callable
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "fit":
        return importlib.import_module(f"{__name__}.fit")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

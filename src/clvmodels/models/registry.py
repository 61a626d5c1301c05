"""Discovery of families: every module of this package that defines ``FAMILY`` is one.

Nothing is imported until it is asked for by name, so that listing names stays quick.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from clvmodels import models
from clvmodels.errors import InputError
from clvmodels.models.family import Family, PurchaseFamily, SpendFamily

_HELPERS = {"family", "links", "registry"}


@cache
def names() -> tuple[str, ...]:
    """Names of all families, in alphabetical order, without importing any."""
    stems = (module.name for module in pkgutil.iter_modules(models.__path__))
    return tuple(sorted(stem for stem in stems if stem not in _HELPERS and stem[0] != "_"))


@cache
def get(name: str) -> Family:
    """The family of that name.

    Raises
    ------
    InputError
        If there is none; the message names the nearest.
    """
    if name not in names():
        close = difflib.get_close_matches(str(name), names(), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise InputError(f"unknown family {name!r}{hint} Known: {', '.join(names())}.")
    family: Family = importlib.import_module(f"{models.__name__}.{name}").FAMILY
    return family


def families(role: str | None = None) -> tuple[Family, ...]:
    """All families, or those of one role."""
    found = (get(name) for name in names())
    return tuple(family for family in found if role is None or family.role == role)


def purchases(name: str) -> PurchaseFamily:
    """A purchase (or contract) family by name."""
    family = get(name)
    if not isinstance(family, PurchaseFamily):
        raise InputError(f"{name!r} is a {family.role} family; purchases need one of {_of('purchases')}.")
    return family


def spend(name: str) -> SpendFamily:
    """A spend family by name."""
    family = get(name)
    if not isinstance(family, SpendFamily):
        raise InputError(f"{name!r} is a {family.role} family; spend needs one of {_of('spend')}.")
    return family


def _of(role: str) -> str:
    kind = SpendFamily if role == "spend" else PurchaseFamily
    return ", ".join(family.name for family in families() if isinstance(family, kind))

"""How effects act on a family: on the coordinate that a driver names, through a link of its domain.

====================  ==============  ==============================================
domain                link            a shift of h
====================  ==============  ==============================================
positive              log             multiplies the coordinate by exp(h)
unit                  logit           multiplies its odds by exp(h)
real                  identity        adds h
====================  ==============  ==============================================

All other coordinates are held. In the families with a beta-distributed dropout probability this moves
its mean φ with the precision κ = a + b held, so that a = φκ and b = (1-φ)κ: one effect for one
question. (Scaling a and b alike would leave φ where it is.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from clvmodels.effects import DRIVERS, Driver
from clvmodels.models.family import Coordinate, Domain, Family


def driven(family: Family) -> dict[Driver, Coordinate]:
    """The coordinate that each driver moves; drivers of which a family knows nothing are left out."""
    found = {coordinate.drives: coordinate for coordinate in family.coordinates}
    return {driver: found[driver] for driver in DRIVERS if driver in found}


def moved(domain: Domain, value: Any, by: Any, xp: Any = np) -> Any:
    """A coordinate after a shift, elementwise; ``xp`` is NumPy or ``pytensor.tensor``."""
    if domain == "positive":
        return value * xp.exp(by)
    if domain == "unit":
        return value / (value + (1 - value) * xp.exp(-by))
    return value + by


def native(
    family: Family, theta: Mapping[str, Any], shifts: Mapping[Driver, Any], xp: Any = np
) -> dict[str, Any]:
    """Native parameters after shifts of the drivers.

    Parameters
    ----------
    theta
        Native parameters at the centre, constants among them.
    shifts
        Driver → shift on the scale of the link; shapes broadcast.
    """
    constants = {name: theta[name] for name in family.constants}
    coordinates = {**family.to_coordinates(theta), **constants}
    for driver, coordinate in driven(family).items():
        if driver in shifts:
            coordinates[coordinate.name] = moved(
                coordinate.domain, coordinates[coordinate.name], shifts[driver], xp
            )
    return {**theta, **family.from_coordinates(coordinates), **constants}


def draws(family: Family, centre: np.ndarray, shifts: Mapping[Driver, np.ndarray]) -> np.ndarray:
    """Native draws after shifts, shape (draw, parameter), of draws at the centre.

    Parameters
    ----------
    centre
        Shape (draw, parameter).
    shifts
        Driver → shape (draw,).
    """
    theta = {name: centre[:, j] for j, name in enumerate(family.parameter_names)}
    found = native(family, theta, shifts)
    columns = [np.broadcast_to(found[name], len(centre)) for name in family.parameter_names]
    return np.ascontiguousarray(np.stack(columns, axis=1))

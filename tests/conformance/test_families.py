"""What holds for every family, whatever its role: the record itself."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import oracles
import pytest

from clvmodels.models import registry
from clvmodels.models.family import PurchaseFamily, Scale

TESTS = Path(__file__).parents[1]
FAMILIES = registry.families()
SCALE = Scale(time=35.0, rate=0.05, spend=30.0)
CENTERS = {"positive": (0.02, 0.7, 3.0, 12.0), "unit": (0.01, 0.3, 0.97), "real": (-2.0, 0.0, 1.5)}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.name)
def family(request):
    return request.param


def test_record(family):
    assert registry.get(family.name) is family
    assert family.role in ("purchases", "spend", "contract")
    assert isinstance(family, PurchaseFamily) == (family.role != "spend")
    assert len(set(family.parameter_names)) == len(family.parameters)
    assert len(family.coordinates) == len(family.parameters) - len(family.constants)
    for thing in (*family.parameters, *family.coordinates):
        assert re.fullmatch(r"[a-z][a-z0-9_]*", thing.name)
        assert thing.meaning
        assert thing.meaning == thing.meaning.rstrip(".")
    assert family.title
    assert family.references
    assert all(1900 < reference.year < 2100 for reference in family.references)
    assert repr(family).startswith(f"<{family.role} family {family.name}(")
    known = {"frequency", "recency", "T", "monetary_value"} | {s.name for s in family.extra_statistics}
    assert set(family.statistics) <= known
    if isinstance(family, PurchaseFamily):
        assert set(family.rate_depends_on) <= set(family.state) <= known
        assert "T" in family.state
        assert family.latents[:3] == ("alive", "intensity", "decay")
    else:
        assert family.latents[0] == "mean"


def test_every_family_has_its_own_tests(family):
    assert (TESTS / f"test_{family.name}.py").exists()


def test_typical_points_are_in_the_support(family):
    assert family.typical
    for theta in family.typical:
        assert set(theta) == set(family.parameter_names)
        for parameter in family.parameters:
            assert oracles.in_domain(theta[parameter.name], parameter.domain), parameter.name


def points(family) -> dict[str, np.ndarray]:
    """Coordinates over their domains, every one at several values."""
    rng = np.random.default_rng(2)
    return {c.name: rng.choice(CENTERS[c.domain], 50) for c in family.coordinates}


def native(family, coordinates) -> dict:
    return {**family.from_coordinates({**coordinates, **family.constants}), **family.constants}


def test_any_coordinates_give_parameters_in_the_support(family):
    theta = native(family, points(family))
    assert set(theta) == set(family.parameter_names)
    for parameter in family.parameters:
        assert oracles.in_domain(theta[parameter.name], parameter.domain), parameter.name


def test_coordinates_round_trip(family):
    # Differences such as (1-φ)κ lose a factor 1/(1-φ) = 100 of float precision at most.
    before = points(family)
    after = family.to_coordinates(native(family, before))
    assert set(after) == set(family.coordinate_names)
    for name in family.coordinate_names:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12)
    for theta in family.typical:
        coordinates = family.to_coordinates(theta)
        for coordinate in family.coordinates:
            assert oracles.in_domain(coordinates[coordinate.name], coordinate.domain)
        back = {**family.from_coordinates({**coordinates, **theta}), **family.constants}
        for name in family.parameter_names:
            if name not in family.constants:
                assert back[name] == pytest.approx(theta[name], rel=1e-12)


def test_a_drive_is_asked_once(family):
    drives = [c.drives for c in family.coordinates if c.drives]
    assert len(set(drives)) == len(drives)
    assert set(drives) <= {"purchase", "dropout", "spend"}


def test_priors_cover_the_coordinates_and_have_no_unit(family):
    """In a smaller unit of time or currency the prior moves with the data, and stays otherwise."""
    priors = family.priors(SCALE)
    assert set(priors) == set(family.coordinate_names)
    smaller = family.priors(Scale(time=SCALE.time * 7, rate=SCALE.rate / 7, spend=SCALE.spend * 100))
    factor = {"1": 1.0, "time": 7.0, "1/time": 1 / 7, "currency": 100.0}
    for coordinate in family.coordinates:
        before, after = priors[coordinate.name], smaller[coordinate.name]
        moved = dict(before)
        if coordinate.unit != "1":
            assert before["dist"] == "LogNormal", "a scale family is needed for a quantity with a unit"
            moved["mu"] = before["mu"] + math.log(factor[coordinate.unit])
        assert after["dist"] == moved["dist"]
        for name in set(moved) - {"dist"}:
            assert after[name] == pytest.approx(moved[name], abs=1e-12)


def test_names_are_found_without_importing():
    assert registry.names() == tuple(sorted(family.name for family in FAMILIES))

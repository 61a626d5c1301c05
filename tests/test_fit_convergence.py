"""The gate: every threshold on both sides, and effective sizes that know copies."""

from __future__ import annotations

import numpy as np
import pytest

from clvmodels.artifacts import FamilyPosterior, Posterior
from clvmodels.fit import ESS_MIN, K_HAT_MAX, R_HAT_MAX, gate
from clvmodels.fit.convergence import copies_of, diagnose, ess

RNG = np.random.default_rng(1)
DRAWS = RNG.normal(size=(2000, 2))
GOOD = {
    "k_hat": 0.1,
    "divergences": 0,
    "ess_bulk": {"a": 900.0, "b": None},
    "ess_tail": {"a": 800.0, "b": None},
    "r_hat": {"a": 1.001, "b": None},
}


def part(sampler="importance", draws=DRAWS[None], **changes) -> FamilyPosterior:
    return FamilyPosterior(
        family="toy",
        parameters=("a", "b"),
        draws=draws,
        sampler=sampler,
        maximum={},
        diagnostics=GOOD | changes,
        priors={},
        rows=1,
        customers=1,
    )


def joint(purchases, spend=None) -> Posterior:
    spend = spend or part("fixed", np.zeros((1, 1, 2)))
    return Posterior(purchases=purchases, spend=spend, time_unit="week", currency="USD")


def failed(posterior, equity=None) -> list[str]:
    return [check.name for check in gate(posterior, equity) if check.passed is False]


@pytest.mark.parametrize(
    ("sampler", "changes", "names"),
    [
        ("importance", {}, []),
        ("importance", {"k_hat": K_HAT_MAX}, []),
        ("importance", {"k_hat": K_HAT_MAX + 0.01}, ["purchases: k-hat"]),
        ("importance", {"k_hat": float("nan")}, ["purchases: k-hat"]),
        ("importance", {"ess_bulk": {"a": ESS_MIN}}, []),
        ("importance", {"ess_bulk": {"a": 900.0, "b": ESS_MIN - 1}}, ["purchases: bulk ESS"]),
        ("importance", {"ess_tail": {"a": float("nan"), "b": 900.0}}, ["purchases: tail ESS"]),
        ("nuts", {}, []),
        ("nuts", {"r_hat": {"a": R_HAT_MAX, "b": None}}, []),
        ("nuts", {"r_hat": {"a": 1.0, "b": R_HAT_MAX + 0.001}}, ["purchases: R-hat"]),
        ("nuts", {"divergences": 1}, ["purchases: divergences"]),
    ],
)
def test_thresholds(sampler, changes, names):
    draws = DRAWS.reshape(4, 500, 2) if sampler == "nuts" else DRAWS[None]
    assert failed(joint(part(sampler, draws, **changes))) == names


def test_failure_says_what_to_try():
    sentences = [
        check.sentence for check in gate(joint(part(k_hat=0.9, ess_bulk={"a": 10.0}))) if not check.passed
    ]
    assert any("fit.sampler: nuts" in sentence for sentence in sentences)
    assert any("more fit.draws" in sentence for sentence in sentences)


def test_equity_is_checked_too():
    # 2,000 draws that are copies of 100.
    copies = part(draws=np.repeat(DRAWS[:100], 20, axis=0)[None])
    assert failed(joint(copies), copies.flat[:, 0]) == ["equity: bulk ESS", "equity: tail ESS"]
    value = next(
        check.value for check in gate(joint(copies), copies.flat[:, 0]) if "equity: bulk" in check.name
    )
    assert value == pytest.approx(100)
    assert failed(joint(part(), part()), DRAWS.sum(1)) == []


def test_equity_of_markov_chains_is_judged_by_chains():
    chains = np.cumsum(RNG.normal(size=(4, 500, 2)), axis=1)  # random walks that never return
    walk = part("nuts", chains)
    assert failed(joint(walk), walk.flat[:, 0]) == ["equity: bulk ESS", "equity: tail ESS"]


def test_independent_draws_count_one_each():
    assert ess(DRAWS[:, 0], np.arange(2000)) == pytest.approx({"bulk": 2000, "tail": 2000})


def test_pairs_of_copied_draws():
    # Sum of 2,000 pairs of which one side has 200 values and the other 500, paired at random: the variance
    # of the mean is 1/200 + 1/500 (within 4 errors of 200 repetitions: 40 %).
    means, sizes = [], []
    for _ in range(200):
        one, other = (np.repeat(RNG.normal(size=n), 2000 // n) for n in (200, 500))
        other = RNG.permutation(other)
        means.append((one + other).mean())
        sizes.append(ess(one + other, copies_of(one[:, None]), copies_of(other[:, None]))["bulk"])
    assert np.var(means) == pytest.approx(1 / 200 + 1 / 500, rel=0.4)
    # Twice the variance of one side over that of the mean; its own noise is that of 200 squares.
    assert np.median(sizes) == pytest.approx(2 / (1 / 200 + 1 / 500), rel=0.1)


def test_a_single_draw_over_and_over_does_not_pass():
    stuck = np.ones((1, 2000, 2))
    for sampler, draws in (("importance", stuck), ("nuts", stuck.reshape(4, 500, 2))):
        found = diagnose(draws, ("a", "b"), (), independent=sampler == "importance")
        assert failed(joint(part(sampler, draws, **found)))


def test_diagnose_leaves_given_parameters_out():
    draws = np.stack([DRAWS[:, 0], np.full(2000, 3.0)], axis=1)
    one = diagnose(draws[None], ("a", "k"), {"k"}, independent=True)
    assert one["ess_bulk"] == {"a": pytest.approx(2000), "k": None}
    assert one["r_hat"] == {"a": None, "k": None}
    four = diagnose(draws.reshape(4, 500, 2), ("a", "k"), {"k"}, independent=False)
    assert four["r_hat"]["a"] < R_HAT_MAX
    assert four["ess_tail"]["k"] is None

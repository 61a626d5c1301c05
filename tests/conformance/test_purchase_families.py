"""Every purchase and contract family at every typical point: one model, whatever way it is asked.

Simulator, density, P(alive), rate, latents and gaps are written apart from one another. The
tests hold them against each other; a new family file is covered by being there.

Monte Carlo tests use fixed seeds and fail beyond ``oracles.Z`` standard errors.
"""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import oracles
import pytest
from builders import make_posterior
from oracles import PurchaseCase, assert_mean_zero
from scipy.special import gammaln

from clvmodels import value
from clvmodels.artifacts import Assumptions
from clvmodels.errors import InputError
from clvmodels.models.family import Histories, PurchaseFamily
from clvmodels.numerics import loops
from clvmodels.numerics.discounting import Flow
from clvmodels.value.horizons import from_acquisition
from clvmodels.value.presence import tabulate_presence
from clvmodels.value.residual import make_schedule

CASES = oracles.all_cases(PurchaseFamily)


@pytest.fixture(scope="session", params=CASES, ids=repr)
def case(request) -> PurchaseCase:
    return request.param


@pytest.fixture(scope="session")
def density(case) -> oracles.Density:
    return oracles.density(case.family, case.theta)


# ---------------------------------------------------------------- simulator


def test_simulated_histories_are_histories(case):
    histories, last = case.histories, case.T + case.horizon
    assert len(histories.lifetime) == len(case.T)
    assert len(histories.time) > len(case.T) / 20
    order = np.lexsort((histories.time, histories.customer))
    assert (order == np.arange(len(order))).all(), "not sorted by customer and time"
    same = histories.customer[1:] == histories.customer[:-1]
    assert (np.diff(histories.time)[same] > 0).all()
    assert (histories.time > 0).all()
    assert (histories.time <= last[histories.customer]).all()
    assert (histories.time <= histories.lifetime[histories.customer]).all(), "bought after dropping out"
    if case.discrete:
        assert (histories.time == np.round(histories.time)).all()
    frequency, recency = case.columns["frequency"], case.columns["recency"]
    assert ((frequency == 0) == (recency == 0)).all()
    assert (recency <= case.T).all()


def test_a_history_does_not_depend_on_how_long_it_is_watched(case):
    # The first T of a history simulated up to T + horizon is distributed like one simulated to T.
    short = case.family.simulate(case.theta, case.T, np.random.default_rng(7))
    columns = short.statistics(case.T, case.family.extra_statistics)
    for name in ("frequency", "recency"):
        assert_mean_zero(columns[name] - case.columns[name], name)


# ---------------------------------------------------------------- density


def test_density_equals_the_story_told_by_predictions(case, density):
    """log L = Σ log h(t_i) - ∫ h with the intensity h = P(alive) · rate at the end of the past."""
    if case.discrete:
        histories = [([], 5), ([1], 1), ([1], 4), ([1, 2], 6), ([1, 2, 3], 3)]
        if case.family.role != "contract":
            histories += [([2], 4), ([1, 3, 6], 6)]
        tolerance = 1e-11
    else:
        unit = case.scale
        histories = [
            ([], 2 * unit),
            ([0.3 * unit], unit),
            ([0.3 * unit], 3 * unit),
            ([0.1 * unit, 0.15 * unit, 1.4 * unit], 1.5 * unit),
            ([0.1 * k * unit for k in range(1, 13)], 1.3 * unit),
        ]
        tolerance = 1e-8  # of the quadrature over time
    for times, T in histories:
        rebuilt = oracles.from_predictions(case, times, T)
        direct = density(case.vector, case.observed(times, T))[0]
        if case.family.role == "contract" and len(times) < T:
            # After a contract's end nothing can happen: P(alive) = 0 from T = x + 1 on.
            rebuilt = oracles.from_predictions(case, times, len(times) + 1)
        assert direct == pytest.approx(rebuilt, abs=tolerance * (1 + abs(direct))), (times, T)


def test_density_adds_up_to_one(case, density):
    """Over all histories of a fixed age; of purchases in continuous time up to two are integrated."""
    if case.discrete:
        T = 7
        strings = list(itertools.product((0, 1), repeat=T))
        if case.family.role == "contract":
            strings = [s for s in strings if list(s) == sorted(s, reverse=True)]
        customer = np.repeat(np.arange(len(strings)), [sum(s) for s in strings])
        time = np.array([k + 1.0 for s in strings for k in range(T) if s[k]])
        histories = Histories(customer=customer, time=time, lifetime=np.full(len(strings), np.inf))
        columns = histories.statistics(np.full(len(strings), float(T)), case.family.extra_statistics)
        assert np.exp(density(case.vector, columns)).sum() == pytest.approx(1, abs=1e-12)
        return
    T = case.T.min()
    x, w = np.polynomial.legendre.leggauss(64)
    nodes, w = T * (x + 1) / 2, T * w / 2
    second, first = (grid.ravel() for grid in np.meshgrid(nodes, nodes / T))
    first = first * second  # 0 < first < second < T
    areas = np.outer(w / T, w * nodes).ravel()
    none = math.exp(density(case.vector, case.observed([], T))[0])
    one = oracles.merged([case.observed([t], T) for t in nodes])
    times = np.column_stack([first, second])
    histories = Histories(
        customer=np.repeat(np.arange(len(times)), 2), time=times.ravel(), lifetime=np.full(len(times), np.inf)
    )
    two = histories.statistics(np.full(len(times), T), case.family.extra_statistics)
    shares = [none, w @ np.exp(density(case.vector, one)), areas @ np.exp(density(case.vector, two))]
    seen = case.columns["frequency"][case.T == T]
    for count, share in enumerate(shares):
        assert_mean_zero((seen == count) - share, f"share of customers with {count} purchases")
    if case.family.extra_statistics:
        return
    # Without further statistics only the number and the last of x purchases count: the others fall
    # anywhere before it, in a volume of t^(x-1) / (x-1)!.
    counts = np.repeat(np.arange(1, 161), len(nodes))
    t = np.tile(nodes, 160)
    columns = {"frequency": counts.astype(float), "recency": t, "T": np.full(len(t), T)}
    log_volume = (counts - 1) * np.log(t) - gammaln(counts)
    terms = np.tile(w, 160) * np.exp(density(case.vector, columns) + log_volume)
    assert terms[-len(nodes) :].sum() < 1e-9, "the sum over counts is not complete"
    assert none + terms.sum() == pytest.approx(1, abs=1e-8)


def test_gradient_equals_differences(case, density):
    """For single rows and for weighted sums."""
    rng = np.random.default_rng(3)
    pick = rng.choice(len(case.T), 200, replace=False)
    columns = {name: column[pick] for name, column in case.columns.items()}
    weight = rng.integers(0, 4, len(pick)).astype(float)
    score, level = density.score(case.vector, columns), np.abs(density(case.vector, columns))
    free = [case.family.parameter_names.index(name) for name in density.free]
    for w in (weight, np.eye(len(pick))[0], np.eye(len(pick))[level.argmax()]):
        room = 1e-9 * (1 + w @ level) / np.maximum(np.abs(case.vector[free]), 1e-2)
        np.testing.assert_array_less(
            np.abs(density.gradient(case.vector, columns, w) - w @ score), room + 1e-9 * (w @ np.abs(score))
        )


def test_score_has_mean_zero(case, density):
    assert_mean_zero(density.score(case.vector, case.columns), "score")


def test_information_equality(case, density):
    """E[s sᵀ] = -E[∂s/∂θ]: the density is right to second order around the point."""
    columns = {name: column[:10_000] for name, column in case.columns.items()}
    score = density.score(case.vector, columns)
    products = score[:, :, None] * score[:, None, :]
    assert_mean_zero(products + density.curvature(case.vector, columns), "information")


def test_density_ratio_has_mean_one(case, density):
    """E[L(θ')/L(θ)] = 1 under θ, for a θ' some way off: mass is conserved when θ moves."""
    for factor in (0.9, 1.1):
        other = case.vector.copy()
        for name in density.free:
            other[case.family.parameter_names.index(name)] *= factor
        ratio = np.exp(density(other, case.columns) - density(case.vector, case.columns))
        assert_mean_zero(ratio - 1, "likelihood ratio")


def test_weights_equal_repeated_rows(case, density, summary_of):
    summary = summary_of(case)
    rows = summary.fold(case.family.statistics)
    folded = density(case.vector, dict(zip(rows.names, rows.stats.T, strict=True)))
    full = density(case.vector, case.columns)
    assert len(rows.weight) < len(full)
    # Sums of 30,000 terms in another order differ by some 100 eps.
    assert rows.weight @ folded == pytest.approx(full.sum(), rel=1e-12)
    assert folded[rows.index] == pytest.approx(full, rel=1e-12)


# ---------------------------------------------------------------- P(alive) and the future


def test_alive_as_often_as_said(case):
    alive = case.histories.lifetime > case.T
    assert ((case.p_alive >= 0) & (case.p_alive <= 1)).all()
    assert_mean_zero(alive - case.p_alive, "share alive")
    bins = np.digitize(case.p_alive, [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    for b in np.unique(bins):
        chance, found = case.p_alive[bins == b], alive[bins == b]
        # The variance is that of the prediction: a rare bin may hold no event at all.
        deviation = (found - chance).sum() / math.sqrt(max((chance * (1 - chance)).sum(), 1e-300))
        expected = min(chance.sum(), (1 - chance).sum())
        if expected > 20:  # else a sum of so few events is not normal
            assert abs(deviation) < oracles.Z, f"{len(chance)} customers near {chance.mean():.2f}"
        elif expected < 1e-9:
            assert (found == (chance > 0.5)).all()


def test_future_purchases_are_those_expected(case):
    """The tower property, customer by customer: simulated minus expected has mean 0."""
    flows = [Flow(delta=0.0, horizon=case.horizon), Flow(delta=case.delta, horizon=case.horizon)]
    expected = case.given_alive(case.state, flows) * case.p_alive[:, None]
    for k, found in enumerate(case.future):
        error = found - expected[:, k]
        assert_mean_zero(error, "all customers")
        parts = np.digitize(expected[:, k], np.quantile(expected[:, k], [0.25, 0.5, 0.75, 0.95]))
        for part in np.unique(parts):
            assert_mean_zero(error[parts == part], f"customers of class {part}")
        for T in np.unique(case.T):
            assert_mean_zero(error[case.T == T], f"customers of age {T}")


def test_new_customers_buy_as_expected(case):
    """Mean over customers of P(alive) R, the simulator's mean and R of a new customer are one number."""
    new = case.states(case.observed([], 0.0))
    chance = case.family.p_alive(case.vector, new[0])
    for T in np.unique(case.T):
        window = Flow(delta=0.0, start=T, horizon=T + case.horizon)
        unconditional = chance * case.given_alive(new, [window])[0, 0]
        here = case.T == T
        assert_mean_zero(case.future[0][here] - unconditional, "simulated")
        later = Flow(delta=0.0, horizon=case.horizon)
        conditional = case.given_alive(case.state[here], [later])[:, 0] * case.p_alive[here]
        assert_mean_zero(conditional - unconditional, "P(alive) R")


def test_rate_depends_on_what_is_named(case):
    # A statistic that is not named may be anything, without moving the last bit.
    others = [j for j, n in enumerate(case.family.state) if n not in case.family.rate_depends_on]
    for row in case.some(5):
        for s in (0.0, 1.0, case.scale, 30 * case.scale):
            before = case.family.rate(case.vector, row, s)
            for j in others:
                moved = row.copy()
                moved[j] = moved[j] / 2 + 0.25
                assert case.family.rate(case.vector, moved, s) == before


def test_ages_alike_where_said(case):
    """``aging``: rate and survival at s depend on age through s / (c + T), the rate's size apart."""
    family = case.family
    if family.aging is None:
        pytest.skip("rates at one age do not serve others")
    theta = family.vector(case.theta)
    c = case.theta[family.aging]
    for x in (0.0, 3.0, 40.0):
        young, old = (np.array([x, 0.0, T]) for T in (0.5 * c, 30.0 * c))
        for v in (0.01, 1.0, 30.0):
            pair = ((young, v * 1.5 * c), (old, v * 31.0 * c))
            left = [family.rate(theta, row, s) / family.rate(theta, row, 0.0) for row, s in pair]
            assert left[0] == pytest.approx(left[1], rel=1e-10)
            if family.survival is not None:
                there = [family.survival(theta, row, s) for row, s in pair]
                assert there[0] == pytest.approx(there[1], rel=1e-10)


def test_rate_falls(case):
    # A mixture of exponentials that decay; a latent rate of another form may rise.
    if case.family.latent_rate is not None:
        pytest.skip("the latent rate is not exponential")
    times = np.r_[0, np.geomspace(1e-3, 1e4, 40)] * case.scale
    if case.discrete:
        times = np.unique(np.ceil(times + 1e-9))
    for row in case.some(8):
        rates = np.array([case.family.rate(case.vector, row, s) for s in times])
        assert (rates >= 0).all()
        assert (np.diff(rates) <= 1e-12 * rates[:-1]).all()


def test_horizons_add_up(case):
    middle, end = case.horizon, 3.0 * case.horizon
    for delta in (0.0, case.delta / 10):
        flows = [
            Flow(delta=delta, horizon=middle),
            Flow(delta=delta, start=middle, horizon=end),
            Flow(delta=delta, horizon=end),
        ]
        if delta:
            flows += [Flow(delta=delta, start=end), Flow(delta=delta)]
        parts = case.given_alive(case.some(6), flows)
        np.testing.assert_allclose(parts[:, 0] + parts[:, 1], parts[:, 2], rtol=1e-8)
        if delta:
            np.testing.assert_allclose(parts[:, 2] + parts[:, 3], parts[:, 4], rtol=1e-8)


def test_purchases_since_acquisition(case):
    """Of a customer of whom nothing is known: those of the story, and P(alive) times those of the living.

    The first purchase may already have been the last.
    """
    steps = round(case.horizon) if case.discrete else 200
    asked = SimpleNamespace(purchases=case.family, draws=case.vector[None])
    found = from_acquisition(asked, steps, steps / case.horizon).sum()
    nobody = np.zeros((1, len(case.family.state)))
    flow = Flow(delta=0.0, horizon=float(case.horizon))
    exact = value.expected_purchases(case.family, case.vector[None], nobody, [flow]).item()
    assert found == pytest.approx(exact, rel=1e-6)  # three nodes in each step
    histories = case.histories
    early = histories.customer[histories.time <= case.horizon]
    assert_mean_zero(np.bincount(early, minlength=len(case.T)) - exact)


def test_undiscounted_total(case):
    """``total`` is the limit of R; where it is said to diverge, R grows without end."""
    rows = case.some(4)
    draws = case.vector[None, :]
    forever = Flow(delta=0.0)
    if not case.family.converges(draws):
        with pytest.raises(InputError, match="diverges"):
            make_schedule(case.family, draws, rows, [forever])
        grown = case.given_alive(rows, [Flow(delta=0.0, horizon=h * case.scale) for h in (1e2, 1e3, 1e4)])
        # Terms of a converging power law would shrink by more than any power of ten seen here.
        assert (np.diff(grown, axis=1) > 0.2 * grown[:, :-1]).all()
        return
    total = case.given_alive(rows, [forever])[:, 0]
    assert total == pytest.approx([case.family.total(case.vector, row) for row in rows], rel=1e-12)
    if not case.discrete:
        # What discounting at δ takes away is of order δ^(a-1): 1e-8 for a shape a of 1.3.
        near = case.given_alive(rows, [Flow(delta=1e-26 / case.scale)])[:, 0]
        assert near == pytest.approx(total, rel=1e-7)
        return
    # A tail that falls like a power of the horizon is a geometric series over decades (Aitken).
    a, b, c = case.given_alive(rows, [Flow(delta=0.0, horizon=h) for h in (1e3, 1e4, 1e5)]).T
    gain = b - a - (c - b)
    limit = c + np.divide((c - b) ** 2, gain, out=np.zeros_like(c), where=gain > 1e-12 * c)
    assert limit == pytest.approx(total, rel=2e-3)


# ---------------------------------------------------------------- latents and gaps


DRAWS = 5_000


@pytest.fixture(scope="session")
def valuations(case, summary_of) -> tuple[value.Valuation, value.Valuation]:
    """Six kinds of customers, one draw and many equal draws, one currency unit a purchase."""
    pick = [int(np.flatnonzero((case.state == row).all(axis=1))[0]) for row in case.some(6)]
    summary = summary_of(case, np.array(pick))
    assumptions = Assumptions(
        margin=np.ones(len(summary)),
        margin_source="1",
        annual_discount_rate=math.e - 1,
        units_per_year=1 / case.delta,
        horizon=math.inf,
        horizons={"one": case.horizon, "two": 2 * case.horizon},
    )
    one, many = (
        make_posterior((case.family.name, np.tile(case.vector, (n, 1))), ("fixed_spend", np.ones((1, 1))))
        for n in (1, DRAWS)
    )
    return tuple(value.Valuation(summary, posterior, assumptions, seed=5) for posterior in (one, many))


@pytest.mark.parametrize("level", ["latent", "predictive"])
def test_draws_average_to_what_is_expected(valuations, level):
    (exact,), (drawn,) = valuations[0].expected(), getattr(valuations[1], level)()
    # Values are discounted to infinity, orders counted to two horizons.
    values = [tile.value[np.argsort(tile.customers)] for tile in (drawn, exact)]
    assert_mean_zero((values[0] - values[1]).T, f"value at level {level}")
    assert_mean_zero(drawn.alive - exact.alive, "alive")
    assert_mean_zero(drawn.orders - exact.orders, "orders")
    np.testing.assert_allclose(drawn.revenue, drawn.orders, rtol=1e-12)


def test_predictive_is_wider_than_latent(valuations):
    (latent,), (predictive,) = valuations[1].latent(), valuations[1].predictive()
    # Same mean, more noise: Var(predictive) = Var(latent) + E[Var(purchases | latents)].
    for k in range(2):
        a, b = (np.square(t.orders[:, k] - t.orders[:, k].mean()) for t in (latent, predictive))
        assert b.mean() - a.mean() > -oracles.Z * math.sqrt((a.var() + b.var()) / DRAWS)
        assert b.mean() > a.mean()


# ---------------------------------------------------------------- time alive


def test_survival_falls_from_one(case):
    if case.family.survival is None:
        pytest.skip("survival follows from last purchases")
    times = np.r_[0.0, np.geomspace(1e-3, 1e4, 30)] * case.scale
    if case.discrete:
        times = np.unique(np.ceil(times))
    for row in case.some(5):
        found = np.array([case.family.survival(case.vector, row, s) for s in times])
        assert found[0] == pytest.approx(1, rel=1e-12)
        assert (np.diff(found) <= 1e-12).all()
        assert (found >= 0).all()


def test_time_alive_is_that_of_the_simulator(case):
    """The tower property of lifetimes: P(alive) times expected time alive, against the story."""
    some = np.arange(0, oracles.CUSTOMERS, 7)  # all ages
    rows, index = np.unique(case.state[some], axis=0, return_inverse=True)
    flows = [Flow(delta=delta, horizon=case.horizon) for delta in (0.0, case.delta)]
    given_alive = tabulate_presence(case.family, case.vector[None], rows, flows).at(slice(0, len(rows)))
    expected = given_alive[index.ravel(), :, 0] * case.p_alive[some, None]
    ahead = case.histories.lifetime[some] - case.T[some]
    if case.discrete:  # the opportunity at which a customer leaves is not attended
        kept = np.clip(np.ceil(ahead) - 1, 0, case.horizon)
        discounted = -np.expm1(-case.delta * kept) / math.expm1(case.delta)
    else:
        kept = np.clip(ahead, 0, case.horizon)
        discounted = -np.expm1(-case.delta * kept) / case.delta
    for k, found in enumerate((kept, discounted)):
        assert_mean_zero(found - expected[:, k], "time alive")
        for T in np.unique(case.T):
            here = case.T[some] == T
            assert_mean_zero(found[here] - expected[here, k], f"time alive at age {T}")


def test_purchases_and_time_alive_share_the_discount(case):
    """Check 14: p R + δ L = 1 given latents and alive, where a purchase is the last with probability p."""
    if "p" not in case.family.latents:
        pytest.skip("purchases do not end a life")
    family, rng, out = case.family, np.random.default_rng(4), np.zeros(len(case.family.latents))
    code = Flow(delta=case.delta).code()
    purchases = family.latent_value or loops.exponential_value
    presence = family.latent_presence or loops.exponential_presence
    alive = 0
    for row in case.some(8):
        for _ in range(40):
            family.latent(case.vector, row, rng, out)
            if out[0]:
                alive += 1
                p = out[family.latents.index("p")]
                # Sums of k roots are right to 1e-8 where p is all but 1 (renewal.py).
                room = 1e-12 if family.latent_rate is None else 1e-8
                assert p * purchases(out, code) + case.delta * presence(out, code) == pytest.approx(
                    1, abs=room
                )
    assert alive > 50


@pytest.mark.parametrize("level", ["latent", "predictive"])
def test_cost_averages_to_what_is_expected(valuations, level):
    """Paid while alive and for a window: the draws' mean is that of level expected, customer by customer."""
    exact, drawn = (copy.copy(v) for v in valuations)
    drawn.draws, drawn.spend_draws = drawn.draws[:2000], drawn.spend_draws[:2000]
    for v in (exact, drawn):
        v.assumptions = replace(
            v.assumptions, cost_alive=0.3, cost_addressed=0.1, cost_window=1.7 / v.flow.delta
        )
    (mean,), (found,) = exact.expected(), getattr(drawn, level)()
    order = np.argsort(mean.customers)[np.argsort(np.argsort(found.customers))]
    error = (found.value - mean.value[order]).T
    # A customer who is alive in no draw, or as good as never, is worth the cost of the window.
    never = found.value.std(axis=1) < 1e-12
    assert np.abs(error[:, never]).max(initial=0.0) < 1e-2 * exact.assumptions.cost_alive / exact.flow.delta
    assert_mean_zero(error[:, ~never], f"value less cost at level {level}")
    bands = mean.bands[:, :-1].sum(axis=1)
    np.testing.assert_allclose(bands, mean.value.sum(axis=0), rtol=1e-7, atol=1e-9)


# ---------------------------------------------------------------- units, dress, edges


def test_smaller_unit_of_time(case, density):
    """Weeks to days: times seven, densities per purchase over seven, nothing else."""
    if case.discrete:
        pytest.skip("an opportunity has no unit")
    theta = oracles.rescaled(case.family, case.vector, time=7.0)
    h = case.histories
    longer = Histories(customer=h.customer, time=7 * h.time, lifetime=7 * h.lifetime)
    columns = longer.statistics(7 * case.T, case.family.extra_statistics)
    frequency = case.columns["frequency"]
    assert (columns["frequency"] == frequency).all()
    level = density(case.vector, case.columns)
    # A sum of terms up to x log x in size, rounded differently.
    room = 1e-12 * (10 + np.abs(level) + 20 * frequency * np.log1p(frequency))
    assert (np.abs(density(theta, columns) - (level - frequency * math.log(7))) <= room).all()
    rows, scaled = case.state[:300], case.states(columns)[:300]
    for old, new in zip(rows, scaled, strict=True):
        assert case.family.p_alive(theta, new) == pytest.approx(
            case.family.p_alive(case.vector, old), rel=1e-9, abs=1e-300
        )
    flows = [Flow(delta=case.delta, horizon=case.horizon), Flow(delta=case.delta)]
    longer_flows = [Flow(delta=f.delta / 7, horizon=f.horizon * 7) for f in flows]
    np.testing.assert_allclose(
        case.given_alive(scaled, longer_flows, theta), case.given_alive(rows, flows), rtol=1e-9
    )


def test_compiled_equals_interpreted(case):
    """The compiled scalars and the same functions as plain Python, to the last few bits."""
    family, theta = case.family, case.vector
    for row in case.some(12):
        pairs = [(name, (theta, row)) for name in ("p_alive", "total")]
        pairs += [("rate", (theta, row, s)) for s in (1.0, case.scale, 50 * case.scale)]
        for name, arguments in pairs:
            if name == "total" and not family.converges(theta[None]):
                continue
            function = getattr(family, name)
            assert function(*arguments) == pytest.approx(function.py_func(*arguments), rel=1e-11, abs=1e-300)
        for seed in range(5):
            outs = []
            for latent, gap in ((family.latent, family.gap), (family.latent.py_func, family.gap.py_func)):
                rng, out = np.random.default_rng(seed), np.zeros(len(family.latents))
                latent(theta, row, rng, out)
                waits = [gap(out, s, rng) for s in (0.0, 1.0)] if out[0] else []
                waits = [w for w in waits if w < math.inf]
                if family.latent_rate is not None:
                    waits += [f(out, case.scale) for f in (family.latent_rate, family.latent_rate.py_func)]
                outs.append([*out, len(waits), *waits])
            assert outs[0] == pytest.approx(outs[1], rel=1e-10)


def test_finite_at_the_corners(case, density):
    """No NaN and no infinity anywhere near where data and draws may go."""
    columns = case.awkward()
    rows = case.states(columns)
    for theta in oracles.corners(case.family, case.theta):
        assert np.isfinite(density(theta, columns)).all(), theta
        assert np.isfinite(density.gradient(theta, columns, np.ones(len(rows)))).all(), theta
        for row in rows:
            where = f"{theta} {row}"
            assert 0 <= case.family.p_alive(theta, row) <= 1, where
            for s in (0.0, 1e-6 * case.scale, 1.0, 1e3 * case.scale, 1e9 * case.scale):
                rate = case.family.rate(theta, row, math.ceil(s) or 1.0 if case.discrete else s)
                assert 0 <= rate < math.inf, f"{where} {s}"
            rng, out = np.random.default_rng(1), np.zeros(len(case.family.latents))
            for _ in range(20):
                case.family.latent(theta, row, rng, out)
                assert np.isfinite(out).all(), where
                assert out[0] in (0.0, 1.0), where
                if out[0]:
                    assert case.family.gap(out, 0.0, rng) != 0, where

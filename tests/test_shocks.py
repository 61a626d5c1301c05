"""Common shocks: the normal model against brute force, and forecasts against simulated weather."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from clvmodels.fit import shocks

PHI, SIGMA, TAU = 0.5, 0.2, 0.015


def weather(weeks: int, paths: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """a and w of the story, shape (path, week); w is not anchored."""
    a = np.empty((paths, weeks))
    a[:, 0] = SIGMA * rng.standard_normal(paths)
    for t in range(1, weeks):
        a[:, t] = PHI * a[:, t - 1] + SIGMA * np.sqrt(1 - PHI**2) * rng.standard_normal(paths)
    return a - SIGMA**2 / 2, np.cumsum(TAU * rng.standard_normal((paths, weeks)), axis=1)


def process(weeks: int, seen: np.ndarray, noise: np.ndarray, z: np.ndarray) -> shocks._Process:
    return shocks._Process.of(z, noise, seen, weeks, np.empty((weeks, 0)), np.empty(0))


def test_covariances_are_those_of_simulated_paths():
    weeks, paths, rng = 12, 200_000, np.random.default_rng(1)
    seen = np.array([0, 1, 2, 4, 5, 8, 9, 11])
    noise = np.linspace(0.01, 0.2, len(seen))
    model = process(weeks, seen, noise, np.zeros(len(seen)))
    a, w = weather(weeks, paths, rng)
    share = 1 / (noise + 0.04)
    w = w - (w[:, seen] @ (share / share.sum()))[:, None]
    seen_z = a[:, seen] + w[:, seen] + np.sqrt(noise) * rng.standard_normal((paths, len(seen)))
    whole = np.column_stack([seen_z, a[:, -1], w[:, -1]])
    found = np.cov(whole.T)
    expected = np.zeros_like(found)
    expected[:-2, :-2] = model.covariance(*np.array([[PHI], [SIGMA], [TAU]]))[0]
    expected[:-2, -2] = expected[-2, :-2] = SIGMA**2 * PHI**model.back
    expected[:-2, -1] = expected[-1, :-2] = TAU**2 * model.walk_end
    expected[-2, -2], expected[-1, -1] = SIGMA**2, TAU**2 * model.walk_last
    size = np.sqrt(np.diag(expected))
    # The sd of an empirical covariance of normals is at most sqrt(2 / n) of the product of the sds.
    assert np.abs((found - expected) / np.outer(size, size)).max() < 4.5 * np.sqrt(2 / paths)


def test_density_is_the_multivariate_normal():
    rng = np.random.default_rng(2)
    seen, noise = np.arange(20), rng.uniform(0.01, 0.1, 20)
    z = 0.2 * rng.standard_normal(20)
    model = process(20, seen, noise, z)
    points = rng.standard_normal((5, 3))
    expected = []
    for point, (phi, sigma, tau) in zip(points, shocks.native(points), strict=True):
        covariance = model.covariance(*np.array([[phi], [sigma], [tau]]))[0]
        normal = stats.multivariate_normal(np.full(20, -(sigma**2) / 2), covariance)
        expected.append(normal.logpdf(z) + stats.norm.logpdf(point).sum())
    found = model.density(points)
    np.testing.assert_allclose(found - found[0], np.array(expected) - expected[0], rtol=1e-9, atol=1e-9)


def test_noise_of_a_window_may_be_shared_by_its_weeks():
    """A diagonal covariance is the variances; of a full one the weeks that tell nothing fall out."""
    rng = np.random.default_rng(9)
    weeks = 30
    variance, share = rng.uniform(0.01, 0.05, weeks), rng.dirichlet(np.ones(weeks))
    variance[[2, 17]] = np.inf
    about = {"observed": np.exp(0.1 * rng.standard_normal(weeks)), "expected": np.ones(weeks)}
    one = shocks._process(shocks.Ratios(**about, noise=variance))[0]
    two = shocks._process(shocks.Ratios(**about, noise=np.diag(variance)))[0]
    points = rng.standard_normal((4, 3))
    np.testing.assert_array_equal(one.density(points), two.density(points))
    root = 0.05 * rng.standard_normal((weeks, weeks))
    full = root @ root.T
    full[[2, 17], [2, 17]] = np.inf
    seen = np.isfinite(variance)
    three = shocks._process(shocks.Ratios(**about, noise=full, anchor=share))[0]
    np.testing.assert_array_equal(three.noise, (root @ root.T)[np.ix_(seen, seen)])
    np.testing.assert_allclose(three.share, share[seen] / share[seen].sum())
    phi, sigma, tau = shocks.native(points[:1])[0]
    covariance = three.covariance(*np.array([[phi], [sigma], [tau]]))[0]
    # The walk's anchored mean has no variance of its own.
    assert three.share @ three.walk @ three.share == pytest.approx(0, abs=1e-9)
    normal = stats.multivariate_normal(np.full(seen.sum(), -(sigma**2) / 2), covariance)
    expected = normal.logpdf(np.log(about["observed"][seen])) - 0.5 * (points[0] ** 2).sum()
    assert three.density(points[:1])[0] + seen.sum() / 2 * -np.log(2 * np.pi) == pytest.approx(expected)


def test_density_is_that_of_the_state_space_model_in_pymc():
    """The story week by week in PyMC, its states integrated out by what is exact for a normal: the mode,
    the curvature, and the density there."""
    import pymc as pm

    weeks, rng = 5, np.random.default_rng(11)
    noise, z = rng.uniform(0.01, 0.1, weeks), 0.3 * rng.standard_normal(weeks)
    share = 1 / (noise + 0.04)
    share /= share.sum()
    with pm.Model() as model:
        phi, sigma, tau = (pm.Data(name, 0.5) for name in ("phi", "sigma", "tau"))
        centre = -(sigma**2) / 2
        inner = sigma * pm.math.sqrt(1 - phi**2)
        a = [pm.Normal("a0", centre, sigma)]
        w = [pm.Normal("w0", 0, tau)]
        for t in range(1, weeks):
            a.append(pm.Normal(f"a{t}", centre + phi * (a[-1] - centre), inner))
            w.append(pm.Normal(f"w{t}", w[-1], tau))
        anchor = sum(float(s) * one for s, one in zip(share, w, strict=True))
        for t in range(weeks):
            pm.Normal(f"z{t}", a[t] + w[t] - anchor, np.sqrt(noise[t]), observed=z[t])
    log = model.compile_logp(mode="FAST_COMPILE")
    names = [variable.name for variable in model.value_vars]
    size = len(names)

    def integrated() -> float:
        def at(state: np.ndarray) -> float:
            return float(log(dict(zip(names, state, strict=True))))

        unit = np.eye(size)  # the density is quadratic: differences are exact but for rounding
        zero = at(np.zeros(size))
        up, down = ([at(sign * u) for u in unit] for sign in (1, -1))
        slope = (np.array(up) - down) / 2
        bend = np.array(
            [[at(u + v) - up[i] - up[j] + zero for j, v in enumerate(unit)] for i, u in enumerate(unit)]
        )
        bend[np.diag_indices(size)] = np.array(up) + down - 2 * zero
        mode = np.linalg.solve(-bend, slope)
        return zero + slope @ mode / 2 - np.linalg.slogdet(-bend)[1] / 2

    points = np.array([[0.3, -0.2, 0.4], [-1.0, 0.5, 1.2]])
    told = []
    for values in shocks.native(points):
        with model:
            pm.set_data(dict(zip(("phi", "sigma", "tau"), values, strict=True)))
        told.append(integrated())
    found = process(weeks, np.arange(weeks), noise, z).density(points) + 0.5 * (points**2).sum(1)
    # Second differences of numbers near 1e4 (1/τ²) lose seven digits of sixteen.
    assert found[1] - found[0] == pytest.approx(told[1] - told[0], abs=1e-5)


def test_parameters_have_their_priors():
    found = shocks.native(np.random.default_rng(3).standard_normal((20_000, 3)))
    assert stats.kstest(found[:, 0], "uniform").pvalue > 1e-4
    assert stats.kstest(found[:, 1], stats.halfnorm(scale=shocks.SHOCK).cdf).pvalue > 1e-4
    assert stats.kstest(found[:, 2], stats.halfnorm(scale=shocks.STEP).cdf).pvalue > 1e-4


def test_state_at_the_end_is_the_conditional_normal():
    """Bayes by weighting simulated paths with what they make of the observations."""
    weeks, paths, rng = 15, 400_000, np.random.default_rng(4)
    seen, noise = np.arange(weeks), np.full(weeks, 0.05)
    a, w = weather(weeks, paths, rng)
    share = np.full(weeks, 1 / weeks)
    w = w - (w @ share)[:, None]
    z = np.linspace(-0.2, 0.35, weeks)
    log_weight = -((z - a - w) ** 2).sum(1) / (2 * 0.05)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    model = process(weeks, seen, noise, z)
    state, _ = model.end(np.tile([PHI, SIGMA, TAU], (20_000, 1)), rng)
    effective = 1 / (weight**2).sum()
    for drawn, told in zip(state.T, (a[:, -1], w[:, -1]), strict=True):
        error = drawn.std() * np.sqrt(1 / effective + 1 / len(drawn))
        assert drawn.mean() == pytest.approx(weight @ told, abs=4 * error)


def test_shocks_widen_a_forecast_and_do_not_lift_it():
    """With nothing observed to go by, the mean factor stays 1."""
    n = 40_000
    flat = shocks.Shocks(
        parameters=np.tile([PHI, SIGMA, TAU], (n, 1)), state=np.tile([-(SIGMA**2) / 2, 0.0], (n, 1)),
        loads=np.empty((n, 0)), weeks=50, used=50, season=False, events=None, k_hat=0.0, ess=n,
    )  # fmt: skip
    path = flat.path(60, 1)
    spread = np.exp(SIGMA**2 + 60 * TAU**2)
    np.testing.assert_allclose(path[:, 10:].mean(0), 1, atol=4.5 * np.sqrt((spread - 1) / n))
    assert path[:, -1].std() > path[:, 5].std()


def test_a_process_that_follows_does_not_lift_what_leads():
    """Of one that follows weighed by what leads, and by itself where slopes are known: mean 1 both times."""
    n = 40_000
    flat = shocks.Shocks(
        parameters=np.tile([PHI, SIGMA, 0.0], (n, 1)), state=np.tile([-(SIGMA**2) / 2, 0.0], (n, 1)),
        loads=np.empty((n, 0)), weeks=50, used=50, season=False, events=None, k_hat=0.0, ess=n,
    )  # fmt: skip
    np.testing.assert_array_equal(flat.following(flat, 3, 1), 1)
    slope = 0.8
    tied = replace(flat, slope=np.full(n, slope))
    path, factor = flat.path(30, 1)[:, 9:], tied.following(flat, 30, 1)[:, 9:]
    spread = np.exp((1 + slope) ** 2 * SIGMA**2) - 1
    np.testing.assert_allclose((path * factor).mean(0), 1, atol=4.5 * np.sqrt(spread / n))
    # On the log it is the slope times the leader's shock, in every draw and week.
    whole = np.log(factor) - slope * np.log(path)
    np.testing.assert_allclose(whole, whole[0, 0], atol=1e-12)


def test_passing_shocks_are_the_conditional_mean():
    """Bayes by weighting simulated paths, in every week, also one that was not seen."""
    weeks, paths, rng = 12, 400_000, np.random.default_rng(14)
    seen, noise = np.array([0, 1, 2, 3, 5, 6, 8, 9, 10, 11]), np.full(10, 0.05)
    a, w = weather(weeks, paths, rng)
    w = w - w[:, seen].mean(1)[:, None]
    z = np.linspace(-0.2, 0.3, len(seen))
    log_weight = -((z - a[:, seen] - w[:, seen]) ** 2).sum(1) / (2 * 0.05)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    found = process(weeks, seen, noise, z).passing(np.array([PHI, SIGMA, TAU]))
    error = SIGMA * np.sqrt((weight**2).sum())
    np.testing.assert_allclose(found, weight @ a - SIGMA**2 / 2, atol=4.5 * error)


def test_a_process_follows_another_as_far_as_it_does():
    """16 pairs of windows, counts and baskets: slopes are found, and none where there is none."""
    pairs, weeks, rng = 16, 52, np.random.default_rng(15)
    a, _ = weather(weeks, pairs, rng)
    own, _ = weather(weeks, pairs, rng)
    counts = rng.poisson(60 * np.exp(a))
    noise = np.full(weeks, 0.05**2)
    leaders = [shocks.estimate(shocks.Ratios.of_counts(y, np.full(weeks, 60.0)), 100, 6) for y in counts]
    for slope in (0.0, 0.6):
        baskets = np.exp(slope * a + 0.3 * own + 0.05 * rng.standard_normal(own.shape))
        z = []
        for leads, level in zip(leaders, baskets, strict=True):
            about = {"observed": level, "expected": np.full(weeks, level.mean()), "noise": noise}
            found = shocks.estimate(shocks.Ratios(**about, leader=leads.passing), 100, 7)
            assert found.loads.shape == (100, 0)
            z.append((found.slope.mean() - slope) / found.slope.std())
        low, high = stats.chi2.ppf([0.0005, 0.9995], pairs) / pairs
        assert low < np.mean(np.square(z)) < high
        assert abs(np.mean(z)) < 3.5 / np.sqrt(pairs)


def test_the_drift_of_one_process_may_be_that_of_another():
    rng = np.random.default_rng(16)
    one, two = (
        shocks.Shocks(
            parameters=rng.uniform(size=(5, 3)), state=rng.normal(size=(5, 2)), loads=np.empty((5, 0)),
            weeks=50, used=used, season=False, events=None, k_hat=k_hat, ess=ess,
        )
        for used, k_hat, ess in ((40, 0.1, 90.0), (30, 0.3, 95.0))
    )  # fmt: skip
    both = one.drifting(two)
    np.testing.assert_array_equal(both.steps(6, 3)[0], one.steps(6, 3)[0])
    np.testing.assert_array_equal(both.steps(6, 3)[1], two.steps(6, 3)[1])
    assert (both.used, both.k_hat, both.ess) == (30, 0.3, 90.0)


def test_forecasts_are_calibrated_and_parameters_recovered():
    """36 windows of simulated weather, counts and all: z of the log ratio after them has rms 1."""
    windows, weeks, later, rng = 36, 52, 13, np.random.default_rng(5)
    a, w = weather(weeks + later, windows, rng)
    w = w - w[:, :weeks].mean(1)[:, None]
    rate = np.exp(a + w) * 60
    counts = rng.poisson(rate)
    z, inside, certificates = [], [], []
    for y, mean in zip(counts, rate, strict=True):
        found = shocks.estimate(shocks.Ratios.of_counts(y[:weeks], np.full(weeks, 60.0)), 400, 6)
        assert isinstance(found, shocks.Shocks)
        factor = np.log(found.path(later, 7).mean(1))
        truth = np.log(mean[weeks:].mean() / 60)
        z.append((truth - factor.mean()) / factor.std())
        inside.append(np.quantile(found.parameters, [0.025, 0.975], axis=0))
        certificates.append(found.k_hat)
    # Σz² of true weather is chi-square; the prior is wider than this one truth, so rms is at most 1.
    low, high = stats.chi2.ppf([0.0005, 0.9995], windows) / windows
    assert low / 1.5 < np.mean(np.square(z)) < high
    assert abs(np.mean(z)) < 3.5 / np.sqrt(windows)
    covered = [np.mean([q[0, j] < value < q[1, j] for q in inside]) for j, value in enumerate((PHI, SIGMA))]
    assert min(covered) >= stats.binom.ppf(0.0005, windows, 0.95) / windows
    assert max(certificates) <= 0.7


def test_events_and_season_are_seen():
    rng = np.random.default_rng(8)
    weeks = 120
    season = 0.3 * np.cos(2 * np.pi * np.arange(weeks + 20) / shocks.YEAR)
    event = np.zeros((weeks + 20, 1))
    event[[30, 70, 110, 125], 0] = 1
    rate = 200 * np.exp(season + 0.6 * event[:, 0])
    y = rng.poisson(rate[:weeks])
    found = shocks.estimate(shocks.Ratios.of_counts(y, np.full(weeks, 200.0), event), 200, 1)
    assert found.season
    effect = found.loads[:, -1]
    assert effect.mean() == pytest.approx(0.6, abs=4 * effect.std())
    assert effect.std() < 0.1
    path = np.log(found.path(20, 2)).mean(0)
    assert path[5] - (path[4] + path[6]) / 2 == pytest.approx(0.6, abs=4 * effect.std())
    blind = shocks.estimate(shocks.Ratios.of_counts(y, np.full(weeks, 200.0)), 200, 1)
    assert blind.parameters[:, 1].mean() > found.parameters[:, 1].mean()


def test_quiet_weeks_are_left_out_and_wild_ones_survived():
    rng = np.random.default_rng(9)
    expected = np.full(40, 50.0)
    expected[:6] = 0.0
    y = rng.poisson(expected * 1.0)
    first = shocks.estimate(shocks.Ratios.of_counts(y, expected), 400, 1)
    assert first.used == 34
    y[:6] = 3  # what nobody expected there says nothing of the weeks after
    again = shocks.estimate(shocks.Ratios.of_counts(y, expected), 400, 1)
    np.testing.assert_array_equal(first.parameters, again.parameters)
    y[20] = 50 * 40
    wild = shocks.estimate(shocks.Ratios.of_counts(y, expected), 400, 1)
    assert np.isfinite(wild.path(52, 1)).all()
    assert first.path(26, 1).mean(1).std() < wild.path(26, 1).mean(1).std() < 3


def test_a_short_window_says_why_it_has_none():
    found = shocks.estimate(shocks.Ratios.of_counts(np.full(8, 50), np.full(8, 50.0)), 100, 1)
    assert "need 13 weeks" in found
    assert "has 8" in found

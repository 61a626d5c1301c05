"""Comparing variants: scores by customer, what they say, and the files they end in."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import holdout
import numpy as np
import pytest
import yaml
from builders import make_summary

import clvmodels as clv
from clvmodels import cli, config, value
from clvmodels.artifacts import FamilyPosterior, Summary
from clvmodels.errors import InputError
from clvmodels.models import registry
from clvmodels.models.family import PurchaseFamily
from clvmodels.numerics.discounting import Flow
from clvmodels.validate import compare

BG = {"r": 0.243, "alpha": 4.414, "a": 0.793, "b": 2.426}
MBG = {"r": 0.525, "alpha": 6.183, "a": 0.891, "b": 1.614}
SPEND = {"p": 6.25, "q": 3.74, "gamma": 15.44}
PURCHASES = [family for family in registry.families() if isinstance(family, PurchaseFamily)]
EXACT = [f for f in PURCHASES if set(f.statistics) <= {"frequency", "recency", "T"}]


def part(
    name: str, theta: dict[str, float], draws: int = 400, sampler: str = "importance"
) -> FamilyPosterior:
    """Draws around a point, spread by 5 %; one draw: the point."""
    family = registry.get(name)
    noise = np.random.default_rng(3).normal(0, 0.05 if draws > 1 else 0.0, (1, draws, len(theta)))
    return FamilyPosterior(
        family=name,
        parameters=family.parameter_names,
        draws=family.vector(theta) * np.exp(noise),
        sampler=sampler,
        maximum={},
        diagnostics={},
        priors={},
        rows=0,
        customers=0,
    )


@pytest.fixture(scope="module")
def few(cdnow) -> Summary:
    """Every eighth customer of the sample: 295, many of them equal."""
    pick = slice(None, None, 8)
    return make_summary({name: column[pick] for name, column in cdnow.columns.items()})


# ---------------------------------------------------------------- leave one out


def unfolded(summary: Summary, posterior: FamilyPosterior):
    """ArviZ's own LOO with one entry for each customer."""
    import arviz as az

    from clvmodels.fit.pointwise import log_density

    family = registry.get(posterior.family)
    where = summary.spenders if family.role == "spend" else slice(None)
    stats = np.column_stack([summary[name][where] for name in family.statistics])
    density = log_density(family, posterior.flat, stats)[None]
    tree = az.from_dict({"posterior": {"theta": posterior.draws[..., 0]}, "log_likelihood": {"y": density}})
    return az.loo(tree, pointwise=True, reff=1.0)


@pytest.mark.parametrize(("name", "theta"), [("bg_nbd", BG), ("gamma_gamma", SPEND)])
def test_folded_rows_score_like_customers_one_by_one(few, name, theta):
    posterior = part(name, theta)
    found = compare.leave_one_out(few, posterior)
    family = registry.get(name)
    rows = few.fold(family.statistics, few.spenders if family.role == "spend" else None)
    if name == "bg_nbd":  # mean spend is a different number for nearly everybody
        assert len(rows.weight) < 0.8 * len(few)
    expected = unfolded(few, posterior)
    scored = ~np.isnan(found.density)
    assert (scored == (few.spenders if family.role == "spend" else True)).all()
    # Sums of some hundred terms of size ten, in another order.
    np.testing.assert_allclose(found.density[scored], expected.elpd_i.values, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.k_hat[scored], expected.pareto_k.values, rtol=1e-6, atol=1e-9)
    total, error = compare.total(found.density)
    assert total == pytest.approx(expected.elpd, rel=1e-10)
    assert error == pytest.approx(expected.se, rel=1e-8)
    assert found.parameters == pytest.approx(expected.p, rel=1e-7)
    assert found.k_limit == pytest.approx(expected.good_k)
    assert found.unreliable == (expected.pareto_k.values > expected.good_k).sum()


def test_differences_and_weights_agree_with_arviz(few):
    import arviz as az

    parts = {
        "bg": part("bg_nbd", BG),
        "mbg": part("mbg_nbd", MBG),
        "nbd": part("nbd", {"r": 0.4, "alpha": 12}),
    }
    ours = {name: compare.leave_one_out(few, one).density for name, one in parts.items()}
    table = az.compare({name: unfolded(few, one) for name, one in parts.items()}, round_to="none")
    best = max(ours, key=lambda name: ours[name].sum())
    for name, density in ours.items():
        value, error = compare.difference(density, ours[best])
        assert value == pytest.approx(table.loc[name, "elpd_diff"], abs=1e-8)
        # ArviZ divides the variance of a score by n - 1 and that of a difference by n; here n - 1 in both.
        theirs = table.loc[name, "dse"] * math.sqrt(len(few) / (len(few) - 1))
        assert error == pytest.approx(theirs, rel=1e-8, abs=1e-12)
    weights = compare.stack(list(ours.values()))
    assert weights.sum() == pytest.approx(1)
    # At the maximum of Σ log(Σ w p) the ratios p/mixture average to 1 where w > 0, and to less elsewhere;
    # the optimizer stops where the value changes by less than 1e-12.
    density = np.exp(np.column_stack(list(ours.values())))
    ratios = (density / (density @ weights)[:, None]).mean(axis=0)
    assert (ratios < 1 + 1e-5).all()
    assert ratios[weights > 1e-6] == pytest.approx(1, abs=1e-5)
    theirs = table.loc[list(ours), "weight"].to_numpy()
    assert np.log(density @ weights).sum() >= np.log(density @ theirs).sum() - 1e-6


def test_fixed_parameters_score_their_likelihood_and_a_mode_has_no_score(few):
    from clvmodels.fit.pointwise import log_density

    one = part("bg_nbd", BG, draws=1, sampler="fixed")
    found = compare.leave_one_out(few, one)
    stats = np.column_stack([few[name] for name in ("frequency", "recency", "T")])
    np.testing.assert_array_equal(found.density, log_density(registry.get("bg_nbd"), one.flat, stats)[0])
    assert found.parameters == 0
    assert np.isnan(found.k_hat).all()
    assert found.unreliable == 0
    assert compare.leave_one_out(few, replace(one, sampler="map")) is None
    assert compare.leave_one_out(few, part("fixed_spend", {"amount": 30.0}, 1, "fixed")) is None


def test_what_is_scored_decides_what_can_be_compared():
    assert {compare.scored(f) for f in PURCHASES if f.clock == "continuous"} == {"purchase times"}
    assert {compare.scored(f) for f in PURCHASES if f.clock == "discrete"} == {
        "purchases at each opportunity"
    }
    spend = {f.name: compare.scored(f) for f in registry.families("spend")}
    assert spend["gamma_gamma"] == "monetary_value"
    assert spend["lognormal_spend"] == "log_spend and log_spend_squared"
    assert spend["fixed_spend"] is None


@pytest.mark.parametrize(
    ("value", "error", "apart"), [(-3.9, 0.1, False), (-4.0, 1.9, True), (-9, 5, False), (-11, 5, True)]
)
def test_told_apart_needs_four_nats_and_two_standard_errors(value, error, apart):
    assert compare.told_apart(value, error) is apart


# ---------------------------------------------------------------- holdout


def histories(family: PurchaseFamily) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequency, recency and T of a few customers that the family allows."""
    if family.role == "contract":
        rows = [(0, 0, 0), (3, 3, 3)]
    elif family.clock == "discrete":
        rows = [(0, 0, 0), (0, 0, 5), (2, 3, 6), (6, 6, 6)]
    else:
        rows = [(0, 0.0, 0.0), (0, 0.0, 30.0), (1, 2.0, 25.0), (5, 18.0, 20.0), (12, 20.0, 20.0)]
    x, t_x, T = np.array(rows, float).T
    return x, t_x, T


@pytest.mark.parametrize("family", EXACT, ids=lambda family: family.name)
def test_probabilities_of_counts_sum_to_one_and_to_the_expectation(family):
    """The likelihood, integrated over future purchases, against P(alive) times the sum of rate."""
    x, t_x, T = histories(family)
    length, most = 6.0, 6 if family.clock == "discrete" else 80
    draws = np.array([[theta[name] for name in family.parameter_names] for theta in family.typical[:1]])
    columns = {"frequency": x, "recency": t_x, "T": T}
    counts = np.arange(most + 1.0)
    given = {name: np.repeat(columns[name], len(counts)) for name in family.statistics}
    log = compare.log_count(family, draws, given, np.tile(counts, len(x)), length)
    p = np.exp(log).reshape(len(x), len(counts))
    stats = np.column_stack([columns[name] for name in family.state])
    expected = value.expected_purchases(family, draws, stats, [Flow(delta=0.0, horizon=length)])[:, :, 0]
    # A likelihood by quadrature is good to some 1e-9. The heaviest tail, that of a log-normal rate without
    # a history, leaves 1e-7 of the probability and 1e-5 of a purchase beyond 80.
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=2e-7)
    np.testing.assert_allclose(p @ counts, expected.mean(axis=0), rtol=1e-6, atol=1e-5)


def test_simulated_probabilities_are_the_exact_ones():
    """With k = 1 the Erlang family, which is simulated, is the family with exact probabilities."""
    exact, simulated = registry.purchases("mbg_nbd"), registry.purchases("mbg_cnbd_k")
    x, t_x, T = histories(exact)
    given = {"frequency": np.repeat(x, 4), "recency": np.repeat(t_x, 4), "T": np.repeat(T, 4)}
    count = np.tile(np.arange(4.0), len(x))
    want = np.exp(compare.log_count(exact, exact.vector(MBG)[None], given, count, 6.0))
    stats = np.column_stack(list(given.values()))
    draws = simulated.vector({"k": 1.0, **MBG})[None]
    found, missed = compare.simulated_log_count(simulated, draws, stats, count, 6.0, np.random.default_rng(1))
    error = np.sqrt(want * (1 - want) / compare.PATHS)
    assert (np.abs(np.exp(found) - want) < 5 * error + 1e-12).all()
    assert not missed.any()
    far = np.full(len(stats), 500.0)
    found, missed = compare.simulated_log_count(simulated, draws, stats, far, 6.0, np.random.default_rng(1))
    assert missed.all()
    assert found == pytest.approx(math.log(0.5 / compare.PATHS))


PRINTED = {
    "NBD": ("nbd", {}),
    "Pareto/NBD": ("pareto_nbd", {}),
    "BG/NBD": ("bg_nbd", {}),
    "CBG/NBD (=MBG/NBD)": ("mbg_nbd", {}),
    "CBG/CNBD-k (k=1)": ("mbg_cnbd_k", {"k": 1}),
}
NOT_HERE = {"GG/NBD (Gamma-Gompertz)"}


def test_every_model_of_the_printed_table_is_accounted_for(published):
    assert {*PRINTED, *NOT_HERE} == set(published["CDNOW_holdout_accuracy_by_model"]["table"])


@pytest.mark.parametrize("label", PRINTED)
def test_printed_holdout_accuracy_by_model(cdnow, published, label):
    from clvmodels.config import DataConfig
    from clvmodels.data import summarise

    printed = published["CDNOW_holdout_accuracy_by_model"]["table"][label]
    name, settings = PRINTED[label]
    family, summary = registry.purchases(name), cdnow
    if family.extra_statistics:
        source = DataConfig(source="cdnow_sample", observation_end="1997-09-30")
        summary = summarise(source, statistics=family.extra_statistics)
    theta = holdout.maximum(summary, name, priors="flat", settings=settings)
    expected = holdout.expected(summary, name, theta, Flow(delta=0.0, horizon=summary.holdout))
    found = compare.accuracy(summary["holdout_frequency"], expected)
    # Half a unit of the last printed digit, and as much again for the one record that the script behind
    # the table may have left out (its log-likelihoods are 3.7 higher).
    assert found["relative_error"] == pytest.approx(printed["MAPE"], abs=0.001)
    assert found["rmse"] == pytest.approx(printed["RMSE"], abs=0.001)
    assert found["msle"] == pytest.approx(printed["MSLE"], abs=0.001)
    assert found["mae"] * len(summary) == pytest.approx(found["relative_error"] * 1882)


def test_ranked_probability_by_hand():
    # E|Y-2| = (2+1+1)/3 and, over the three pairs, E|Y-Y'| = (1+3+2)/3.
    assert compare.ranked_probability(np.array([3.0, 0.0, 1.0]), 2.0) == pytest.approx(4 / 3 - 1)
    assert compare.ranked_probability(np.full(5, 7.0), 7.0) == 0


def test_mixtures_take_draws_by_weight():
    one, two = np.arange(1000.0), 5000 + np.arange(500.0)
    mixed = compare.mixture([one, two], np.array([0.7005, 0.2995]))
    assert len(mixed) == 1000
    assert (mixed >= 5000).sum() in (299, 300)
    assert mixed[mixed < 5000].mean() == pytest.approx(499.5, abs=0.5)  # each is rounded to a draw
    np.testing.assert_array_equal(compare.mixture([one, two], np.array([1.0, 0.0])), one)


# ---------------------------------------------------------------- variants of a config

BASE = {
    "name": "base",
    "data": {"source": "cdnow_sample", "observation_end": "1997-09-30"},
    "models": {
        "purchases": {"family": "bg_nbd", "priors": {"dropout": {"dist": "Beta", "alpha": 2, "beta": 2}}},
        "spend": {"family": "gamma_gamma", "fixed": SPEND},
    },
    "value": {"margin": 0.3, "annual_discount_rate": 0.15},
}


def varied(*entries) -> dict:
    return {**BASE, "variants": list(entries)}


def test_variants_are_merged_over_the_rest_of_the_config():
    flat = {"name": "flat", "models": {"purchases": {"priors": "flat"}}}
    found = config.variants(
        varied({"models": {"purchases": {"family": "mbg_nbd"}}}, flat, {"name": "same"}), ["value.margin=0.4"]
    )
    assert [one.name for one in found] == ["mbg_nbd", "flat", "same"]
    # Another family replaces the model with its priors; the other model stays.
    assert found[0].models.purchases.priors == {}
    assert found[0].models.spend.fixed == SPEND
    assert (found[1].models.purchases.family, found[1].models.purchases.priors) == ("bg_nbd", "flat")
    assert found[2].models.purchases.priors == BASE["models"]["purchases"]["priors"]
    assert {one.value.margin for one in found} == {0.4}
    assert [one.name for one in config.variants(BASE)] == ["base"]


def test_other_commands_leave_variants_aside():
    assert config.load(varied({"name": "x"})) == config.load(BASE)


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"models": {"spend": {"priors": "flat"}}}], "variants[0] needs a name"),
        ([{"name": "a"}, {"name": "b", "valu": {}}], "variant b: valu is not a key of the config"),
        ([{"models": {"purchases": {"family": "bgnbd"}}}], "variant bgnbd: models.purchases.family"),
        (["mbg_nbd"], "variants is a list of parts of a config"),
        ([], "variants is a list of parts of a config"),
        ({"a": {}}, "variants is a list of parts of a config"),
        ([{"name": "a/b"}], "letters, digits"),
    ],
)
def test_variants_that_cannot_be_read(entries, expected):
    with pytest.raises(InputError, match=re.escape(expected)):
        config.variants({**BASE, "variants": entries})


# ---------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def log():
    """Transactions of 400 customers of CDNOW."""
    import pyarrow.parquet as pq

    from clvmodels.data import bundled_path

    table = pq.read_table(bundled_path("cdnow_sample")).to_pandas()
    some = sorted(table["customer_id"].unique())[::5][:400]
    return table[table["customer_id"].isin(some)]


SHOP = {
    "name": "shop",
    "data": {
        "columns": {"customer": "customer_id", "date": "date", "amount": "amount"},
        "observation_end": "1997-09-30",
    },
    "value": {"margin": 0.3, "annual_discount_rate": 0.15},
    "fit": {"draws": 700},
    "models": {"spend": {"family": "gamma_gamma", "fixed": SPEND}},
    "variants": [
        {"models": {"purchases": {"family": "bg_nbd"}}},
        {"models": {"purchases": {"family": "mbg_nbd"}}},
        {
            "name": "other spend",
            "models": {"purchases": {"family": "mbg_nbd"}, "spend": {"fixed": {"gamma": 20}}},
        },
    ],
}


@pytest.fixture(scope="module")
def made(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "shop"
    return clv.compare(SHOP, transactions=log, out=folder)


def test_the_comparison_says_what_the_scores_say(made):
    second, third = made.summary["variants"][1:]
    assert (
        [v["name"] for v in made.summary["variants"]]
        == list(made.runs)
        == ["bg_nbd", "mbg_nbd", "other spend"]
    )
    # The same purchase model: the same draws, the same score, no difference.
    assert second["loo"]["purchases"] == third["loo"]["purchases"]
    assert second["holdout"]["log_score"] == third["holdout"]["log_score"]
    value, error = compare.difference(*(made.entries[j].leave_one_out["purchases"].density for j in (0, 1)))
    assert not compare.told_apart(value, error)
    said = "\n".join(made.summary["conclusions"])
    assert "cannot be told apart from" in said
    assert "cannot be told apart" in repr(made)
    level = made.summary["dependence"]["all"]
    means = [run.equity.total("expected").mean() for run in made.runs.values()]
    assert level["low"]["value"] == pytest.approx(min(means))
    assert level["range"]["value"] == pytest.approx(max(means) - min(means))
    widths = [
        np.diff(run.summary["equity"]["existing"]["expected"]["interval_90"]) for run in made.runs.values()
    ]
    assert level["ratio"] == pytest.approx(float((max(means) - min(means)) / np.mean(widths)))
    assert f"{level['ratio']:.2f} times the width of a 90" in said
    assert list(made.table.index) == list(made.runs)
    assert made.table.loc["bg_nbd", "equity"] == pytest.approx(means[0])


def test_holdout_scores_follow_from_the_runs(made):
    run, block = made.runs["mbg_nbd"], made.summary["variants"][1]["holdout"]
    drawn = run.arrays["holdout_orders"]
    assert block["totals"]["orders"]["crps"] == pytest.approx(
        compare.ranked_probability(drawn.values, drawn.attrs["actual"])
    )
    draws, rows = run.draws.purchases.flat, run.data.fold(("frequency", "recency", "T"))
    expected = value.expected_purchases(
        registry.purchases("mbg_nbd"), draws, rows.stats, [Flow(delta=0.0, horizon=run.data.holdout)]
    ).mean(axis=0)[rows.index, 0]
    actual = run.data["holdout_frequency"]
    # The table interpolates in T to 1e-11.
    assert block["bias"]["orders"]["value"] == pytest.approx(expected.sum() / actual.sum() - 1, rel=1e-8)
    assert block["mae"]["value"] == pytest.approx(np.abs(expected - actual).mean(), rel=1e-8)
    assert made.summary["data"]["holdout"]["orders"]["value"] == actual.sum()


def test_stacked_equity_is_the_mixture(made):
    weights = np.array([v["weight"]["value"] for v in made.summary["variants"]])
    assert weights.sum() == pytest.approx(1)
    density = [e.leave_one_out["purchases"].density + np.nan_to_num(e.leave_one_out["spend"].density)
               for e in made.entries]  # fmt: skip
    np.testing.assert_allclose(weights, compare.stack(density), rtol=1e-9, atol=1e-12)
    for level, draws in made.stacked.items():
        means = np.array([run.equity.total(level).mean() for run in made.runs.values()])
        spread = max(run.equity.total(level).std() for run in made.runs.values())
        # Evenly spread draws: at most the error of a mean of as many independent ones.
        assert abs(draws.mean() - weights @ means) < 5 * spread / math.sqrt(len(draws))
        block = made.summary["stacked"]["equity"][level]
        assert block["mean"] == pytest.approx(draws.mean())


def test_page_csv_and_json_hold_the_same_numbers(made):
    from clvmodels.report.text import lookup

    folder = made.path
    table = json.loads((folder / "comparison.json").read_text())
    assert table == made.summary
    page = (folder / "comparison.html").read_text()
    shown = re.findall(r'data-key="([^"]+)">([^<]*)<', page)
    assert len(shown) > 100
    for key, text in shown:
        found = lookup(table, key)
        if isinstance(found, float | int) and not isinstance(found, bool):
            number = text.replace("\u2212", "-").replace(",", "").replace("\u00a0%", "")
            size = 100 if "%" in text else 1
            digits = len(number.partition(".")[2])
            assert abs(float(number) - size * found) <= 0.5000001 * 10**-digits, key
    for sentence in table["conclusions"]:
        assert re.sub(r"<[^>]+>", "", sentence) in re.sub(r"<[^>]+>", "", page).replace("&#39;", "'")
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    pick = {(r["variant"], r["metric"], r["level"], r["statistic"]): r["value"] for r in rows}
    for variant in table["variants"]:
        name = variant["name"]
        assert (
            float(pick[name, "loo_purchases_elpd", "", "value"])
            == variant["loo"]["purchases"]["elpd"]["value"]
        )
        assert float(pick[name, "holdout_mae", "expected", "value"]) == variant["holdout"]["mae"]["value"]
        for level, block in variant["equity"].items():
            assert float(pick[name, "equity", level, "mean"]) == block["mean"]
            assert float(pick[name, "equity", level, "interval_90_high"]) == block["interval_90"][1]
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!variants/|#)', page)


def leaves(node, path=()):
    if isinstance(node, dict | list) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*path, str(key)))
    else:
        yield "/".join(path)


def test_docs_list_every_key(made):
    text = (Path(__file__).parents[1] / "docs" / "comparison.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", text, flags=re.M)
    patterns = {}
    for key in (key for row in rows for key in re.findall(r"`([^`]+)`", row)):
        body = re.escape(key.removesuffix(".*")).replace(r"\.", "/").replace(r"\[i\]", r"/\d+")
        patterns[key] = re.compile(re.sub(r"<\w+>", "[^/]+", body) + "(/.*)?")
    paths = list(leaves(made.summary))
    assert [p for p in paths if not any(pattern.fullmatch(p) for pattern in patterns.values())] == []
    assert [key for key, p in patterns.items() if not any(p.fullmatch(path) for path in paths)] == []


def test_the_folder_holds_every_run_and_customer(made):
    import pyarrow.parquet as pq

    assert (made.path / "figures" / "comparison.svg").read_text().startswith("<svg")
    customers = pq.read_table(made.path / "customers.parquet")
    assert customers.num_rows == 400
    total = np.nansum(customers["loo_purchases:bg_nbd"].to_numpy())
    assert total == pytest.approx(made.summary["variants"][0]["loo"]["purchases"]["elpd"]["value"])
    for name, run in made.runs.items():
        again = clv.load(made.path / "variants" / name)
        assert again.summary == run.summary
        assert (
            f'href="variants/{name.replace(" ", "%20")}/report.html"'
            in (made.path / "comparison.html").read_text()
        )


def test_finished_runs_are_compared_as_they_are(made, tmp_path):
    folders = [made.path / "variants" / name for name in made.runs]
    again = clv.compare([folders[0], made.runs["mbg_nbd"], str(folders[2])], out=tmp_path / "again")
    assert {**again.summary, "name": "shop"} == made.summary
    assert not (tmp_path / "again" / "variants" / "bg_nbd").exists()
    for level, draws in made.stacked.items():
        np.testing.assert_array_equal(again.stacked[level], draws)


def test_incomparable_spend_is_said(made, log):
    models = {"purchases": {"family": "bg_nbd"}, "spend": {"family": "lognormal_spend"}}
    other = SHOP | {"variants": [{"name": "logs", "models": models}]}
    with pytest.raises(InputError, match="one variant alone"):
        clv.compare(other, transactions=log)
    found = clv.compare([made.runs["bg_nbd"], clv.fit(config.variants(other)[0], transactions=log)])
    said = " ".join(found.summary["conclusions"])
    assert (
        "Models of spend here are densities of different things and cannot be compared by LOO: "
        "monetary value (bg_nbd) against log spend and log spend squared (logs)."
    ) in said
    assert "No stacked equity: the spend models score different statistics." in said
    assert found.summary["variants"][0]["loo"]["spend"]["difference"] is None
    assert found.stacked == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": {"observation_end": "1997-08-31"}}, "not of the same data"),
        ({"data": {"time_unit": "day"}}, "they differ in time unit"),
        ({"data": {"exclude": {"repeat_spend_above": 200}}}, "they differ in customers or purchases"),
        (
            {"models": {"purchases": {"family": "bg_nbd", "fixed": {"r": 1.0}}}},
            "variant odd: models.purchases",
        ),
        ({"value": {"margin": {"column": "nothing"}}}, "variant odd: the pandas table has no column"),
    ],
)
def test_variants_that_cannot_be_compared_leave_nothing_behind(log, tmp_path, change, expected):
    document = SHOP | {"variants": [{"name": "even"}, {"name": "odd", **change}]}
    with pytest.raises(InputError, match=re.escape(expected)):
        clv.compare(document, transactions=log, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_names_must_differ(log):
    with pytest.raises(InputError, match="two variants are called 'shop'"):
        clv.compare([{**SHOP, "variants": None}, {**SHOP, "variants": None}], transactions=log)


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["clvmodels", *arguments])
    try:
        cli.main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    return (status, *capsys.readouterr())


def test_the_command_compares_files_and_folders(made, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folders = [str(made.path / "variants" / name) for name in ("bg_nbd", "mbg_nbd")]
    status, out, _ = command(monkeypatch, capsys, "compare", *folders)
    assert status == 0
    assert "cannot be told apart" in out
    assert Path("runs/compared/comparison.html").is_file()
    assert out.rstrip().endswith("report: runs/compared/comparison.html")
    status, out, err = command(monkeypatch, capsys, "compare", *folders)
    assert (status, out) == (2, "")
    assert err.startswith("error: the output folder runs/compared exists")
    status, out, _ = command(monkeypatch, capsys, "compare", *folders, "--json", "--overwrite")
    assert status == 0
    assert json.loads(out)["path"] == "runs/compared"


def test_the_command_refuses_one_variant(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("one.yaml").write_text(yaml.safe_dump(BASE))
    status, out, err = command(monkeypatch, capsys, "compare", "one.yaml")
    assert (status, out) == (2, "")
    assert err == (
        "error: one variant alone cannot be compared: name two configs, or list variants in one of them.\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.yaml"]

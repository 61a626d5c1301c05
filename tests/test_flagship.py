"""The customer equity that Fader, Hardie and Lee (2005) printed for the full CDNOW cohort."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import clvmodels as clv
from clvmodels import config, fit, value
from clvmodels.config import DataConfig, FitConfig, ModelConfig
from clvmodels.data import summarise
from clvmodels.errors import InputError
from clvmodels.run.stages import resolve_assumptions

CONFIG = Path(__file__).parents[1] / "configs" / "cdnow_fhl2005.yaml"


@pytest.fixture(scope="module")
def paper():
    """The run of the config: the parameters of the paper."""
    return clv.fit(CONFIG)


@pytest.fixture(scope="module")
def printed(published):
    return published["FHL2005_RFM_CLV_customer_equity"]


def test_total_and_mean(paper, printed):
    total = paper.equity.total("point")[0]
    # Parameters have four decimals, and the paper discounts by .0027 a week, not by ln(1.15)/52.
    assert total == pytest.approx(printed["sum_of_workshop_cells"], rel=0.005)
    assert round(total / len(paper.data)) == printed["avg_CLV_per_customer"]
    assert paper.equity.artifact.levels == ("point",)
    assert paper.summary["equity"]["existing"]["point"]["interval_90"] is None


def test_cohort_without_the_ten_largest_buyers(paper, printed):
    cohort, ledger = printed["cohort"], paper.data.ledger
    assert len(paper.data) == ledger["customers"] == cohort["n"]
    assert ledger["customers_read"] - ledger["customers_excluded"] == cohort["n"]
    assert ledger["repeat_customers"] == cohort["repeat_buyers"]
    assert paper.data["T"].max() == pytest.approx(printed["settings"]["T_for_plots"], abs=0.005)
    assert any("10 customers left out by data.exclude" in note for note in ledger["notes"])
    disclosed = {entry["topic"]: entry["text"] for entry in paper.summary["disclosures"]}
    assert "10 customers are left out because the config excludes them" in disclosed["Scope"]


def test_zero_class(paper, printed):
    block = paper.summary["never_again"]
    assert block["customers"]["value"] == printed["cohort"]["zero_repeat"] == 12_054
    # Printed: 4.40 each, 53 thousand in all, .0482 of the total.
    assert block["per_customer"]["point"]["mean"] == pytest.approx(printed["zero_class_avg_CLV"], abs=0.005)
    assert round(block["equity"]["point"]["mean"], -3) == 53_000
    assert block["share"]["point"]["mean"] == pytest.approx(0.0482, abs=0.00005)
    once = paper.data["frequency"] == 0
    # Sums of the same 12,054 numbers in another order.
    assert block["equity"]["point"]["mean"] == pytest.approx(
        paper.customers["value_mean"][once].sum(), rel=1e-9
    )


def test_the_config_sets_a_posterior_beside_it():
    variants = {one.name: one for one in config.variants(CONFIG)}
    assert list(variants) == ["paper", "posterior"]
    models = variants["posterior"].models
    assert (models.purchases.fixed, models.spend.fixed) == (None, None)
    assert variants["paper"].models == config.load(CONFIG).models
    assert models.purchases.family == variants["paper"].models.purchases.family


def test_the_printed_total_lies_inside_the_interval_of_its_own_sample(paper, printed):
    """Estimated as in the paper, on the 1/10 sample, and valued on the whole cohort."""
    sample = summarise(DataConfig(source="cdnow_sample"))
    settings = config.load(CONFIG)
    models = [ModelConfig(family=m.family) for m in (settings.models.purchases, settings.models.spend)]
    draws = fit.fit(sample, *models, FitConfig(draws=300), 1)
    found = draws.purchases.maximum
    estimates = [found[name] for name in draws.purchases.parameters]
    # The paper's parameters are the maximum; an optimizer stops within the fourth digit.
    assert estimates == pytest.approx(printed["params_78wk"]["Pareto/NBD"], rel=2e-4)
    assumptions = resolve_assumptions(settings, paper.data)
    tiles = value.Valuation(paper.data, draws, assumptions, 1).expected(details=False)
    total = sum(tile.value.sum(axis=0) for tile in tiles)
    low, high = np.quantile(total, [0.05, 0.95])
    assert low < printed["sum_of_workshop_cells"] < high
    # A sample of 2,357 customers leaves a tenth of the total as its standard deviation.
    assert 0.07 < total.std() / total.mean() < 0.14


# ---------------------------------------------------------------- leaving customers out


def rows(*transactions):
    import pyarrow as pa

    customer, date, amount = zip(*transactions, strict=True)
    return pa.table({"customer": customer, "date": date, "amount": amount})


LOG = rows(
    ("a", "2020-01-01", 500.0),  # a large first purchase is no repeat spend
    ("a", "2020-01-05", 60.0),
    ("b", "2020-01-02", 1.0),
    ("b", "2020-01-08", 40.0),
    ("b", "2020-01-09", 60.01),
    ("b", "2020-02-09", 7.0),
    ("c", "2020-01-03", 10.0),
    ("c", "2020-01-06", 100.0),  # exactly the limit
    ("d", "2020-01-04", 10.0),
    ("d", "2020-02-10", 5000.0),  # later than observation_end
    ("e", "2020-02-01", 10.0),
)
COLUMNS = {"customer": "customer", "date": "date", "amount": "amount"}


def summary_of(**changes):
    options = {"columns": COLUMNS, "observation_end": "2020-01-31", "time_unit": "day"}
    return summarise(DataConfig(**(options | changes)), transactions=LOG)


def test_customers_above_the_limit_leave_no_trace():
    plain, found = summary_of(), summary_of(exclude={"repeat_spend_above": 100})
    assert plain.customer.tolist() == ["a", "b", "c", "d"]
    assert found.customer.tolist() == ["a", "c", "d"]
    told = found.ledger
    assert (told["customers_read"], told["customers_excluded"], told["customers_later"]) == (5, 1, 1)
    assert told["spend_excluded"] == 108.01
    assert told["spend_holdout"] == 5000.0
    assert told["holdout_days"] == 1
    assert found.calendar.repeat_orders.sum() == plain.calendar.repeat_orders.sum() - 3
    assert found.calendar.first_orders.sum() == plain.calendar.first_orders.sum() - 1
    assert found.fingerprint != plain.fingerprint
    assert any("1 customer left out by data.exclude" in note for note in told["notes"])
    assert summary_of(exclude={"repeat_spend_above": 1000}).fingerprint == plain.fingerprint


def test_a_limit_without_a_number_is_refused():
    for wrong in ({}, {"repeat_spend_above": -1}, {"repeat_spend_above": "4,000"}, {"spend_above": 1}):
        with pytest.raises(InputError, match=r"data\.exclude|spend_above"):
            config.load({"data": {"source": "cdnow", "exclude": wrong},
                         "value": {"margin": 0.3, "annual_discount_rate": 0.1}})  # fmt: skip


def test_free_repeat_purchases_take_no_part_in_the_spend_model():
    import pyarrow as pa

    free = rows(("f", "2020-01-01", 20.0), ("f", "2020-01-09", 0.0), ("g", "2020-01-01", 20.0))
    options = {"columns": COLUMNS, "observation_end": "2020-01-31", "time_unit": "day"}
    found = summarise(DataConfig(**options), transactions=pa.concat_tables([LOG, free]))
    assert found.spenders.tolist() == [True, True, True, False, False, False]
    assert any(
        note.startswith("1 customer with repeat purchases of amount 0 only") for note in found.ledger["notes"]
    )
    options["observation_end"] = "2020-01-09"
    alone = summarise(DataConfig(**options), transactions=free)
    with pytest.raises(InputError, match="no repeat purchase of 1 customers has an amount above 0"):
        fit.check_data(alone, ModelConfig(family="bg_nbd"), ModelConfig(family="gamma_gamma"))

"""CDNOW in pymc-marketing, as a user would write it: both models by NUTS, 12 months of value."""

from __future__ import annotations

import sys
from typing import Any

import pandas as pd
from pymc_marketing import clv

from benchmarks.ours import MONTHLY_RATE
from clvmodels.data import bundled_path


def main(out: str, draws: str, tune: str) -> None:
    settings: dict[str, Any] = {
        "draws": int(draws),
        "tune": int(tune),
        "random_seed": 1,
        "progressbar": False,
    }
    log = pd.read_parquet(bundled_path("cdnow_sample"))
    log["date"] = pd.to_datetime(log["date"])
    table = clv.rfm_summary(
        log,
        customer_id_col="customer_id",
        datetime_col="date",
        monetary_value_col="amount",
        observation_period_end="1997-09-30",
        time_unit="D",
    )
    table[["recency", "T"]] /= 7
    purchases = clv.BetaGeoModel()
    purchases.fit(table, **settings)
    spend = clv.GammaGammaModel()
    spend.fit(table[(table["frequency"] > 0) & (table["monetary_value"] > 0)], **settings)
    value = spend.expected_customer_lifetime_value(
        purchases, table, future_t=12, discount_rate=MONTHLY_RATE, time_unit="W"
    )
    mean = value.mean(("chain", "draw")).to_series()
    mean.rename("value").to_frame().to_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])

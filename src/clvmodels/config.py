"""The YAML schema: what a user may ask for, validated before anything slow starts."""

from __future__ import annotations

import datetime as dt
import difflib
import os
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from clvmodels.artifacts import DAYS_PER_UNIT, DAYS_PER_YEAR
from clvmodels.effects import BUILT_IN, MONTH
from clvmodels.errors import InputError

BUNDLED = ("cdnow", "cdnow_sample", "online_retail", "donations", "contracts")
INFINITE = "infinite"
_COST = re.compile(r"(?:([A-Z]{3}) )?(\d+(?:\.\d+)?)(?: ([A-Z]{3}))? (?:per|a) (day|week|month|year)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?) (day|week|month|year)s?")


def _day(value: Any) -> str:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value.isoformat()
    try:
        return dt.date.fromisoformat(value).isoformat()
    except (TypeError, ValueError):
        raise ValueError("a day is written 1997-09-30, without a time") from None


def _duration(value: Any) -> str:
    if isinstance(value, int | float) or re.fullmatch(r"[\d.]+", str(value)):
        raise ValueError(f'a duration needs its unit: write "{value} months", or days, weeks or years')
    text = " ".join(str(value).lower().split())
    if (match := _DURATION.fullmatch(text)) and float(match[1]) > 0:
        return text
    raise ValueError(
        'a duration is a number above 0 and a unit: "30 days", "12 weeks", "3 months", "2 years"'
    )


def _horizon(value: Any) -> str:
    if value in (INFINITE, float("inf")):
        return INFINITE
    try:
        return _duration(value)
    except ValueError as error:
        raise ValueError(f"{error}; or infinite") from None


def _cost(value: Any) -> str:
    if isinstance(value, int | float):
        raise ValueError(f'a cost needs its unit: write "{value} per year", or per day, week or month')
    text = " ".join(str(value).split())
    match = _COST.fullmatch(text)
    if match and not (match[1] and match[3]):
        return text
    raise ValueError('a cost is an amount of money per time: "5 per year", "0.40 GBP per month"')


def _ratio(value: Any) -> Any:
    if isinstance(value, bool) or (isinstance(value, str) and "%" in value):
        raise ValueError("a margin is written as a ratio of revenue: 30 % is 0.3")
    return value


def _at_most_one(value: float) -> float:
    if value > 1:
        raise ValueError("a margin is a ratio of revenue and at most 1: 30 % is 0.3")
    return value


def _rate(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("a yearly discount rate is a ratio from 0 to 1: 15 % is 0.15")
    return value


def _folder_name(value: str) -> str:
    if not re.fullmatch(r"\w[\w .+-]*", value):
        raise ValueError("it names the folder of the run: letters, digits, _ . + - and spaces only")
    return value


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, Mapping) else value


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str | dt.date) else value


def _amount(value: float | tuple[float, float]) -> float | tuple[float, float]:
    low, high = value if isinstance(value, tuple) else (value, value)
    if low < 0 or high < low or (isinstance(value, tuple) and (low == 0 or low == high)):
        raise ValueError(
            "it is an amount of at least 0, or [low, high] with 0 < low < high: a log-normal of which 90 % "
            "lies between"
        )
    return value


Day = Annotated[str, BeforeValidator(_day)]
Amount = Annotated[
    Annotated[float, Tag("<number>")] | Annotated[tuple[float, float], Tag("<pair>")],
    Discriminator(lambda value: "<pair>" if isinstance(value, list | tuple) else "<number>"),
    AfterValidator(_amount),
]
Duration = Annotated[str, BeforeValidator(_duration)]
Horizon = Annotated[str, BeforeValidator(_horizon)]
Cost = Annotated[str, BeforeValidator(_cost)]
Ratio = Annotated[float, BeforeValidator(_ratio), AfterValidator(_at_most_one)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Section(BaseModel):
    """Unknown keys are errors; a config does not change once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Columns(Section):
    """Which column of the log means what."""

    customer: str
    """Customer id, read as text."""
    date: str
    """Day of the purchase; a time of day is cut off."""
    amount: str
    """Revenue of the row, negative for a refund."""


class SummaryColumns(Section):
    """Which column of a table of summaries means what."""

    frequency: str = "frequency"
    """Of a summary: number of repeat purchases (on a discrete clock, of later periods with a purchase)."""
    recency: str = "recency"
    """Of a summary: time from the first purchase to the last, 0 without a repeat purchase."""
    T: str = "T"
    """Of a summary: time from the first purchase to observation_end."""
    monetary_value: str | None = None
    """Of a summary: mean amount of the repeat purchases; default: ``monetary_value`` where the
    table has it."""
    weight: str | None = None
    """Of a summary: number of customers that a row stands for; default: ``weight`` where the table
    has it, else 1."""
    customer: str | None = None
    """Of a summary: customer id; default: ``customer`` where the table has it, else numbers."""


def _columns_kind(value: Any) -> str:
    names = value if isinstance(value, Mapping) else ("date",) if isinstance(value, Columns) else ()
    return "<transactions>" if "date" in names or "amount" in names else "<summary>"


AnyColumns = Annotated[
    Annotated[Columns, Tag("<transactions>")] | Annotated[SummaryColumns, Tag("<summary>")],
    Discriminator(_columns_kind),
]


class Exclude(Section):
    """Customers who are left out of everything, each kind counted in the ledger."""

    repeat_spend_above: Annotated[float, Field(ge=0)]
    """Customers whose repeat purchases up to observation_end sum to more than this amount."""


class DataConfig(Section):
    """Where the transactions are and how they become one row per customer."""

    source: str | None = None
    """Bundled data set, file path or glob (relative to the config file); None: a table is passed."""
    kind: Literal["transactions", "summary"] = "transactions"
    """A log of transactions, or a table that already has frequency, recency and T of each customer."""
    columns: AnyColumns | None = None
    """Which column means what: customer, date and amount of a log (not needed for bundled data);
    frequency, recency, T, monetary_value, weight and customer of a summary (default: those names)."""
    format: Literal["csv", "parquet"] | None = None
    """Default: by the file's ending."""
    delimiter: str | None = None
    """CSV only; default: the one that splits the header."""
    date_format: str | None = None
    """strptime format; default: ISO dates and date columns."""
    clock: Literal["continuous", "discrete"] = "continuous"
    """``discrete``: purchases are merged within calendar periods of time_unit (weeks start on
    Monday), each of which is one opportunity to buy; frequency, recency and T count the periods
    after the first, and only periods that observation_end completes."""
    time_unit: Literal["day", "week", "month", "year"] = "week"
    """Unit of all durations. On a continuous clock the answer does not depend on it."""
    currency: str | None = None
    """Label of all money; default: the bundled data's own, else USD."""
    observation_end: Day | None = None
    """ISO date; default: last date in the data. A table of summaries has no dates and needs it."""
    holdout_end: Day | None = None
    """ISO date; purchases after observation_end up to here are counted per customer; default:
    last date in the data where observation_end is earlier."""
    refunds: Literal["net", "drop", "error"] = "net"
    """Negative amounts: net within customer-day, drop the rows, or refuse the file."""
    negative_days: Literal["drop", "zero", "error"] = "drop"
    """Customer-days that refunds bring to zero or below: not a purchase (drop), a purchase of
    amount 0 (zero), or refuse."""
    zero_days: Literal["keep", "drop"] = "keep"
    """Customer-days of amount 0 without a refund (free orders): a purchase of amount 0, or none."""
    segments: Names = ()
    """Columns that partition the customers, by their values on the first purchase day."""
    duplicates: Literal["keep", "drop"] = "keep"
    """Rows that are equal in every column used: two purchases (merged by day anyway) or an error
    of the export."""
    exclude: Exclude | None = None
    """Customers who are left out of everything, each kind counted in the ledger."""

    @model_validator(mode="after")
    def _one_kind(self) -> DataConfig:
        if self.kind == "transactions":
            if isinstance(self.columns, SummaryColumns):
                raise ValueError(
                    "data.columns names neither date nor amount: a log needs customer, date and amount, "
                    "and for a table of frequency, recency and T data.kind is summary"
                )
            return self
        if isinstance(self.columns, Columns):
            raise ValueError(
                "data.columns names date or amount, which a table of summaries does not have: it has "
                "frequency, recency and T, or data.kind is transactions"
            )
        for name in _LOG_ONLY:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"data.{name} is for a log of transactions, but data.kind is summary")
        if self.observation_end is None:
            raise ValueError(
                "data.observation_end is missing: a table of summaries has no dates, so give the day to "
                "which T was counted"
            )
        return self


_LOG_ONLY = ("date_format", "holdout_end", "refunds", "negative_days", "zero_days", "duplicates", "exclude")


class ModelConfig(Section):
    """One family with its priors, or with its parameters fixed."""

    family: str
    """A name that ``python -m clvmodels families`` lists."""
    priors: Literal["flat"] | dict[str, Any] = Field(default_factory=dict)
    """``flat``, or coordinate → prior (``{dist: LogNormal, mu: 0, sigma: 1}``); the rest default."""
    fixed: dict[str, float] | None = None
    """Native parameters, all of them: no fit, no parameter uncertainty."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Constants of the family, by parameter; auto: the choice with the highest marginal likelihood."""


class CovariateColumn(Section):
    """How a column of the log enters as a covariate."""

    kind: Literal["auto", "numeric", "categorical"] = "auto"
    """auto: numeric where every value is a number. Numbers are standardised, the scaling is stored."""
    log: bool = False
    """Numeric: the logarithm of the value enters."""
    step: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Numeric: standardised values are rounded to multiples of it, so that customers fold into fewer
    patterns: 0.05 makes a fit and the values of many customers much quicker; 0: not rounded."""
    coding: Literal["reference", "sum"] = "reference"
    """Categorical: levels are compared with the reference, or with the mean of all levels."""
    reference: str | None = None
    """Categorical: the level that others are compared with; default: the one of most customers."""
    missing: Literal["refuse", "impute"] = "refuse"
    """Customers without a value: refuse; or impute: numbers at the mean with a coefficient of their
    own that flags them, levels as a level of their own."""
    measured: Day | None = None
    """The day on which the values were taken; a warning is given where purchases came before it."""


class CovariatesConfig(Section):
    """What makes customers differ, by what it acts on."""

    purchase: Names = ()
    """Columns that act on the log of the mean purchase rate: columns of the log, by their value on
    the first purchase day, ``first_amount`` (amount of that day) or ``first_month`` (its month)."""
    dropout: Names = ()
    """Columns that act on the logit of the mean dropout probability, its precision held (log of the
    mean dropout rate in families that have a rate)."""
    spend: Names = ()
    """Columns that act on the log of the mean spend."""
    columns: dict[str, CovariateColumn] = Field(default_factory=dict)
    """Column → how it enters, where the defaults do not serve."""
    prior: Literal["normal", "horseshoe"] = "normal"
    """normal: coefficients are Normal(0, scale); horseshoe: most are near 0, a few may be as large as
    the normal allows (regularised horseshoe)."""
    scale: Annotated[float, Field(gt=0)] = 0.7
    """Prior standard deviation of a coefficient; 0.7 is a factor of two for a standard deviation of a
    number, or for a level."""


class PoolConfig(Section):
    """A column whose levels differ, each a little like the others."""

    by: Names
    """Column whose values are the levels, or several, whose combinations are (nested below columns
    that are pooled as well); ``first_month`` for cohorts."""
    on: Annotated[tuple[Literal["purchase", "dropout", "spend"], ...], BeforeValidator(_listed)] = (
        "purchase",
        "dropout",
        "spend",
    )
    """What differs between levels."""
    structure: Literal["exchangeable", "random_walk"] = "exchangeable"
    """random_walk: each month is near the one before (by: first_month)."""
    scale: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of the half-normal prior of the levels' standard deviation."""
    sd: Annotated[float, Field(ge=0)] | None = None
    """The levels' standard deviation, where it is given: 0 is complete pooling (levels are equal),
    a large number such as 3 is none (levels are fitted on their own)."""

    @model_validator(mode="after")
    def _walks_over_months(self) -> PoolConfig:
        if not self.by or not self.on:
            raise ValueError("models.pool: by and on each name at least one")
        if self.structure == "random_walk" and self.by != (MONTH,):
            raise ValueError(f"models.pool: a random_walk runs over months: by is {MONTH} alone")
        return self


class ModelsConfig(Section):
    purchases: ModelConfig = ModelConfig(family="bg_nbd")
    """When customers buy and when they leave."""
    spend: ModelConfig = ModelConfig(family="gamma_gamma")
    """How much they spend when they buy."""
    covariates: CovariatesConfig = CovariatesConfig()
    """What makes customers differ, by what it acts on."""
    pool: Annotated[tuple[PoolConfig, ...], BeforeValidator(_several)] = ()
    """Columns whose levels are partially pooled; several are crossed."""
    calendar: Literal["even", "weekly"] = "even"
    """weekly: everybody's clock runs at an intensity that is estimated week by week from the window,
    1 on average over its purchases and beyond the data; for ``backtest`` and ``compare --rolling``."""

    @model_validator(mode="after")
    def _one_explanation(self) -> ModelsConfig:
        if self.calendar != "even" and self.has_effects:
            raise ValueError(
                "models.calendar: weekly and covariates or pooled columns cannot be combined; take one out"
            )
        return self

    @property
    def has_effects(self) -> bool:
        """Whether anything is a covariate or pooled."""
        covariates = self.covariates
        return bool(covariates.purchase or covariates.dropout or covariates.spend or self.pool)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the log that covariates and pooling need, each once."""
        covariates = self.covariates
        named = [*covariates.purchase, *covariates.dropout, *covariates.spend]
        named += [name for pool in self.pool for name in pool.by]
        return tuple(name for name in dict.fromkeys(named) if name not in BUILT_IN)


class FitConfig(Section):
    sampler: Literal["auto", "importance", "nuts", "map"] = "auto"
    """auto: importance; with many effects of covariates or pooling, or where its k-hat fails with
    them, nuts. ``map`` is one parameter vector: no interval is printed."""
    draws: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Joint posterior draws."""
    chains: Annotated[int, Field(ge=2, le=16)] = 4
    """NUTS only; draws are split over chains."""
    tune: Annotated[int, Field(ge=100)] = 1000
    """NUTS only; warm-up steps of a chain. 300 at most where no effect is pooled or has a horseshoe: the
    maximum tells the scale."""
    allow_unconverged: bool = False
    """Value draws that failed the convergence gate; every page says so."""


class MarginByColumn(Section):
    column: str
    """A column of the log: margin ratio of each purchase, averaged over the customer by amount."""


class MarginBySegment(Section):
    by: str
    """One of data.segments."""
    values: dict[str, Ratio]
    """Segment → margin ratio."""


def _margin_kind(value: Any) -> str:
    if isinstance(value, MarginByColumn) or (isinstance(value, Mapping) and "column" in value):
        return "<column>"
    return "<by>" if isinstance(value, MarginBySegment | Mapping) else "<number>"


Margin = Annotated[
    Annotated[Ratio, Tag("<number>")]
    | Annotated[MarginByColumn, Tag("<column>")]
    | Annotated[MarginBySegment, Tag("<by>")],
    Discriminator(_margin_kind),
]


class CostConfig(Section):
    """What it costs to keep and serve a customer, subtracted from value at every level."""

    while_alive: Cost | None = None
    """Paid while the customer is there: ``"5 per year"``, ``"0.40 GBP per month"``; a currency, where one
    is named, must be that of the data."""
    addressed: Cost | None = None
    """Paid for every customer who is addressed, there or not, for the length of ``window``."""
    window: Duration | None = None
    """How long customers are addressed from the valuation date on: ``"2 years"``; needed with
    ``addressed``, and cut at the horizon."""

    @model_validator(mode="after")
    def _fits_together(self) -> CostConfig:
        if self.while_alive is None and self.addressed is None:
            raise ValueError("value.cost is empty: give while_alive, or addressed with its window")
        if (self.addressed is None) != (self.window is None):
            raise ValueError(
                "value.cost.addressed and value.cost.window go together: an amount per time, and for how "
                'long customers are addressed, such as addressed: "6 per year", window: "2 years"'
            )
        return self


class ValueConfig(Section):
    margin: Margin
    """Contribution margin as a ratio of revenue (30 % is 0.3), ``{column: NAME}``, or
    ``{by: SEGMENT, values: {...}}``."""
    annual_discount_rate: Annotated[float, AfterValidator(_rate)]
    """Effective rate per year (15 % is 0.15)."""
    horizon: Horizon = INFINITE
    """``infinite`` or a duration with a unit: ``"12 months"``, ``"3 years"``."""
    timing: Literal["continuous", "begin", "mid", "end"] = "continuous"
    """When the margin of a period is discounted."""
    period: Duration = "1 month"
    """Discounting period of the begin, mid and end conventions; on a discrete clock always one
    opportunity."""
    units_per_year: Annotated[float, Field(gt=0)] | None = None
    """Time units in a year; default: 365.2425 days, 52.1775 weeks, 12 months."""
    cost: CostConfig | None = None
    """Cost of keeping and serving customers; default: none."""
    horizons: Annotated[tuple[Duration, ...], BeforeValidator(_listed)] = ("3 months", "12 months")
    """For expected orders and revenue; on a discrete clock those of at least one opportunity."""
    first_order: Literal["model", "observed"] = "model"
    """Amount of a new customer's first order: the spend model's mean, or the mean of the log's first
    orders."""


class ValidationConfig(Section):
    backtest: Path | None = None
    """Folder of a backtest of this config, for page one; default: ``out/NAME-backtest`` where it
    exists."""
    horizons: Annotated[tuple[Duration, ...], BeforeValidator(_listed)] = (
        *("4 weeks", "13 weeks", "26 weeks", "52 weeks"),
    )
    """How far ahead ``backtest`` compares; those of the default that the log is too short for are left
    out."""
    every: Duration = "4 weeks"
    """Time between origins, counted back from the end of the log (from ``first`` on where given)."""
    first: Day | None = None
    """Earliest origin; default: when a third of the log has been seen."""
    origins: Annotated[tuple[Day, ...], BeforeValidator(_listed)] = ()
    """Origins one by one, in the place of ``every`` and ``first``."""


def _sequence_kind(value: Any) -> str:
    return "<list>" if isinstance(value, list | tuple) else "<number>"


def _spend_kind(value: Any) -> str:
    return "<by>" if isinstance(value, Mapping) else "<file>" if isinstance(value, str) else "<amount>"


def _labelled(value: Any) -> Any:
    return {str(label): amount for label, amount in value.items()} if isinstance(value, Mapping) else value


Customers = Annotated[float, Field(ge=0)]
Plan = Annotated[
    Annotated[Customers, Tag("<number>")] | Annotated[tuple[Customers, ...], Tag("<list>")],
    Discriminator(_sequence_kind),
]
Spend = Annotated[
    Annotated[Amount, Tag("<amount>")]
    | Annotated[dict[str, Amount], BeforeValidator(_labelled), Tag("<by>")]
    | Annotated[str, Tag("<file>")],
    Discriminator(_spend_kind),
]


class FutureConfig(Section):
    """Customers still to be won, valued apart from the existing ones."""

    forecast: Literal["trend", "plan", "none"]
    """How many customers will be won: ``trend`` of the log's own first purchases, a given ``plan``, or
    ``none``."""
    horizon: Duration = "3 years"
    """How far ahead customers are won; later ones are not counted."""
    since: Day | None = None
    """Of a trend: first purchases before this day are left out, such as those of old customers whom
    a young log sees for the first time."""
    plan: Plan | None = None
    """Customers won in a month (on a discrete clock, in a period): one number for all, or one for each
    from the valuation date on; none after the last."""
    interval: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Of a plan: 90 % interval of what is reached, as ratios of the plan, such as [0.8, 1.1]."""
    cac: Amount | None = None
    """Cost of winning a customer, or [low, high] for 90 % of a log-normal; default: the average of the
    acquisition section; without either, future equity is before acquisition cost."""

    @model_validator(mode="after")
    def _one_way(self) -> FutureConfig:
        if (self.forecast == "plan") != (self.plan is not None):
            raise ValueError(
                "future.plan and future.forecast: plan need each other: give the customers won in a month"
            )
        if self.interval and (self.forecast != "plan" or self.interval[0] >= self.interval[1]):
            raise ValueError("future.interval is [low, high] as ratios of future.plan, such as [0.8, 1.1]")
        if self.since and self.forecast != "trend":
            raise ValueError("future.since is for future.forecast: trend")
        return self


class AcquisitionConfig(Section):
    """What customers cost, and what they may cost."""

    by: str | None = None
    """One of data.segments, such as the channel; default: all customers together."""
    spend: Spend
    """What was spent to win customers: an amount, [low, high] for 90 % of a log-normal, segment → amount
    (0 for organic ones), or a CSV file (relative to the config file) with columns ``month``, ``spend`` and
    the one named in acquisition.by."""
    since: Day | None = None
    """First day of the customers that an amount paid for; default: the first day of the log."""
    until: Day | None = None
    """Last day of these customers; default: data.observation_end."""
    lag: Duration | None = None
    """Time from spend to first purchase; a month of a CSV file pays for customers won this much later."""
    currency: str | None = None
    """Currency of the spend, which must be that of the data; default: taken to be."""
    customers: Literal["separate", "together"] = "separate"
    """Value of new customers from the customers of their own segment alone, where there are at least 100
    with 30 repeat buyers among them, or from all customers."""
    assurance: Annotated[float, Field(gt=0.5, lt=1)] = 0.9
    """Probability with which the value of a customer exceeds the maximum cost."""
    target_ratio: Annotated[float, Field(gt=0)] = 3.0
    """Value of a customer over its cost that is aimed at."""
    payback: Duration = "12 months"
    """Time in which a customer has to pay back its cost."""

    @model_validator(mode="after")
    def _fits_together(self) -> AcquisitionConfig:
        if isinstance(self.spend, dict) and self.by is None:
            raise ValueError("acquisition.spend is by segment; name the segment column in acquisition.by")
        if not isinstance(self.spend, dict | str) and self.by is not None:
            raise ValueError(
                f"acquisition.spend is one amount, but acquisition.by is {self.by!r}: give an amount for "
                "each segment, or leave acquisition.by out"
            )
        if isinstance(self.spend, str) and (self.since or self.until):
            raise ValueError("acquisition.since and until are for an amount; the file has its own months")
        if self.since and self.until and self.until < self.since:
            raise ValueError(f"acquisition.until {self.until} is before acquisition.since {self.since}")
        return self


class EventConfig(Section):
    """Something known that moves all customers for a while, such as a sale."""

    name: str
    """How the report calls it; several stretches may share a name and then have one effect."""
    since: Day
    """First day."""
    until: Day
    """Last day; a stretch after the end of the data is a plan."""

    @model_validator(mode="after")
    def _in_order(self) -> EventConfig:
        if self.until < self.since:
            raise ValueError(f"event {self.name!r}: until {self.until} is before since {self.since}")
        return self


class ShocksConfig(Section):
    """How shocks that move customers together are shared."""

    by: str | None = None
    """One of data.segments whose segments have a part of their own in the shocks: their equity at level
    systematic then has its own spread and still adds to the total, which stays the same, and a backtest
    scores them with and without it; default: all customers share one path."""


class ReportConfig(Section):
    title: str | None = None
    """Heading of the page; default: Customer equity."""
    since: Path | None = None
    """Folder of an earlier run of these customers (relative to the config file): page one then says how
    equity has changed since, and the return on it; default: not said."""


class Config(Section):
    """A whole run."""

    name: Annotated[str, AfterValidator(_folder_name)] = "run"
    """Name of the run and of its folder; a config file lends it its own name."""
    data: DataConfig
    """Where the transactions are and how they become one row per customer."""
    models: ModelsConfig = ModelsConfig()
    """The purchase model and the spend model."""
    fit: FitConfig = FitConfig()
    """How the posterior is drawn."""
    value: ValueConfig
    """What a purchase is worth and how the future is discounted."""
    validation: ValidationConfig = ValidationConfig()
    """How forecasts are tested on the past, and where the result lies."""
    future: FutureConfig | None = None
    """Customers still to be won; default: not valued."""
    acquisition: AcquisitionConfig | None = None
    """What customers cost and may cost; default: not asked."""
    events: Annotated[tuple[EventConfig, ...], BeforeValidator(_several)] = ()
    """Known events, past and planned, as regressors of the shocks that all customers share. A backtest takes
    all of them as known at every origin."""
    shocks: ShocksConfig = ShocksConfig()
    """How shocks that move customers together are shared."""
    report: ReportConfig = ReportConfig()
    """How the report looks."""
    seed: Annotated[int, Field(ge=0)] = 20260101
    """Same seed and inputs, same numbers."""
    out: Path = Path("runs")
    """Runs are written to ``out/name``, relative to the working directory."""

    _base: Path = PrivateAttr(default_factory=Path)

    @property
    def base(self) -> Path:
        """Folder that a relative ``data.source`` starts from: that of the config file."""
        return self._base

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        margin, unit, year = self.value.margin, self.data.time_unit, self.value.units_per_year
        if isinstance(margin, MarginBySegment) and margin.by not in self.data.segments:
            raise ValueError(
                f"value.margin.by is {margin.by!r}, which data.segments does not list; add it there"
            )
        usual = DAYS_PER_YEAR / DAYS_PER_UNIT[unit]
        if year is not None and not 0.9 < year / usual < 1.1:
            raise ValueError(
                f"value.units_per_year is {year:g}, but a year has {usual:.4g} of data.time_unit {unit}"
            )
        if self.data.clock == "discrete" and self.value.period != ValueConfig.model_fields["period"].default:
            raise ValueError(
                f"value.period is {self.value.period!r}, but data.clock is discrete and its period is one "
                f"{unit}, the opportunity: leave value.period out"
            )
        short = [label for label in self.value.horizons if label not in horizons(self)]
        if short and self.value.horizons != ValueConfig.model_fields["horizons"].default:
            raise ValueError(
                f"value.horizons has {short[0]!r}, but data.clock is discrete and one opportunity is a "
                f"{unit}: name a horizon that holds at least one"
            )
        by = self.acquisition.by if self.acquisition else None
        if by is not None and by not in self.data.segments:
            raise ValueError(f"acquisition.by is {by!r}, which data.segments does not list; add it there")
        if (parted := self.shocks.by) is not None:
            if parted not in self.data.segments:
                raise ValueError(f"shocks.by is {parted!r}, which data.segments does not list; add it there")
            if self.data.kind == "summary":
                raise ValueError(
                    "shocks.by needs the weeks of a log, but data.kind is summary: leave shocks.by out"
                )
            if self.value.cost is not None:
                raise ValueError(
                    "shocks.by is not known to value.cost, which is paid in any weather: leave one out"
                )
        start, end = self.data.observation_end, self.data.holdout_end
        if start and end and end <= start:
            raise ValueError(f"data.holdout_end {end} is not after data.observation_end {start}")
        return self


def load(source: Path | str | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a config.

    Parameters
    ----------
    source
        A YAML file, a mapping of the same form, or a config. ``extends: other.yaml`` starts
        from another file, relative to this one, and merges this one over it; ``null`` puts a
        key back to its default. ``variants`` is for :func:`variants` and left aside here.
    overrides
        ``"key.sub=value"`` with the value in YAML; validated like the file.

    Raises
    ------
    InputError
        With the config key, what is wrong with it and, for an unknown key, the nearest.
    """
    document, where, base = _document(source)
    document.pop("variants", None)
    return _validated(document, where, base, overrides)


def variants(
    source: Path | str | Mapping[str, Any] | Config, overrides: Sequence[str] = ()
) -> tuple[Config, ...]:
    """The configs that ``compare`` compares: one for each entry of ``variants``, else the config itself.

    An entry is a part of a config, merged over the rest of the file; a model of another family replaces
    the model of the file as a whole. An entry without ``name`` is called after the families it names.

    Parameters
    ----------
    source, overrides
        As for :func:`load`; overrides win over entries.

    Raises
    ------
    InputError
        As :func:`load` does, with the entry; for an entry that has no name.
    """
    document, where, base = _document(source)
    entries = document.pop("variants", None)
    if entries is None:
        return (_validated(document, where, base, overrides),)
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) for e in entries):
        raise InputError(
            f"{where}: variants is a list of parts of a config, such as "
            "[{models: {purchases: {family: NAME}}}]."
        )
    found = []
    for number, entry in enumerate(entries):
        models = entry.get("models") if isinstance(entry.get("models"), dict) else {}
        named = [m["family"] for m in models.values() if isinstance(m, dict) and "family" in m]
        if "name" not in entry and not named:
            raise InputError(f"{where}: variants[{number}] needs a name, for it names no family.")
        name = entry.get("name", " + ".join(map(str, named)))
        merged = _merged(_without_other_families(document, models), entry | {"name": name})
        found.append(_validated(merged, f"{where}, variant {name}", base, overrides))
    return tuple(found)


def _without_other_families(document: dict[str, Any], models: Mapping[str, Any]) -> dict[str, Any]:
    """The document without the models whose family ``models`` changes."""
    mine = document.get("models")
    if not isinstance(mine, dict):
        return document
    changed = {
        role
        for role, model in models.items()
        if isinstance(model, dict)
        and isinstance(mine.get(role), dict)
        and model.get("family", mine[role].get("family")) != mine[role].get("family")
    }
    return document | {"models": {role: model for role, model in mine.items() if role not in changed}}


def _document(
    source: Path | str | Mapping[str, Any] | Config,
) -> tuple[dict[str, Any], str, Path]:
    """A config as a plain document, what messages call it, and the folder of relative paths."""
    where, base = "config", Path()
    if isinstance(source, Config):
        return source.model_dump(), where, source.base
    if isinstance(source, Mapping):
        return _extended(dict(source), base, where, ()), where, base
    path = Path(source)
    where, base = str(path), path.parent
    document = _extended(_read(path), base, where, (path.resolve(),))
    document.setdefault("name", path.stem)
    return document, where, base


def _validated(document: dict[str, Any], where: str, base: Path, overrides: Sequence[str]) -> Config:
    for text in overrides:
        document = override(document, text)
    try:
        config = Config.model_validate(document)
    except ValidationError as error:
        key, sentence = _explain(error)
        for text in overrides:
            if _below(key, text.partition("=")[0].strip()):
                where = f"--set {text}"
        raise InputError(f"{where}: {sentence}{'' if sentence.endswith('?') else '.'}") from None
    config._base = base
    _check_families(config, where)
    return config


def dump(config: Config, folder: Path | None = None) -> str:
    """The config as resolved, in YAML.

    Parameters
    ----------
    folder
        Where the text will be stored: relative paths of the source and of a backtest are rewritten to
        start there, so that what is stored can be loaded again. Left out: they stay as they are.
    """
    document = config.model_dump(mode="json", exclude_none=True)
    source = config.data.source
    if folder is not None and source and source not in BUNDLED and not Path(source).is_absolute():
        document["data"]["source"] = Path(os.path.relpath(config.base / source, folder)).as_posix()
    tested = config.validation.backtest
    if folder is not None and tested is not None and not tested.is_absolute():
        document["validation"]["backtest"] = Path(os.path.relpath(config.base / tested, folder)).as_posix()
    spend = config.acquisition.spend if config.acquisition else None
    if folder is not None and isinstance(spend, str) and not Path(spend).is_absolute():
        document["acquisition"]["spend"] = Path(os.path.relpath(config.base / spend, folder)).as_posix()
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def override(document: Mapping[str, Any], text: str) -> dict[str, Any]:
    """A document with ``"key.sub=value"`` set; an empty value puts the key back to its default."""
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise InputError(f"--set {text}: write key=value, such as value.margin=0.3.")
    found = _parse(value, f"--set {text}")
    out = inner = _merged({}, document)
    for part in path[:-1]:
        if not isinstance(inner.setdefault(part, {}), dict):
            raise InputError(f"--set {text}: {part} holds a value, not keys.")
        inner = inner[part]
    if found is None:
        inner.pop(path[-1], None)
    else:
        inner[path[-1]] = found
    return out


def units_per_year(config: Config) -> float:
    """Time units of the run in a year: as configured, or 365.2425 days of them."""
    return config.value.units_per_year or DAYS_PER_YEAR / DAYS_PER_UNIT[config.data.time_unit]


def horizons(config: Config) -> dict[str, float]:
    """Label → length in time units of ``value.horizons``; an opportunity is not divided."""
    unit, year = config.data.time_unit, units_per_year(config)
    found = {label: duration(label, unit, year) for label in config.value.horizons}
    if config.data.clock == "discrete":
        return {label: length for label, length in found.items() if length > 1 - 1e-9}
    return found


def duration(text: str, time_unit: str, units_per_year: float) -> float:
    """A duration such as ``"12 months"`` in time units; ``infinite`` is ``inf``.

    Days and weeks are exact (7 days a week); months and years follow ``units_per_year``, so
    that 12 months are one year also where a paper's year has 52 weeks.
    """
    if text == INFINITE:
        return float("inf")
    match = _DURATION.fullmatch(_duration(text))
    assert match is not None
    number, unit = float(match[1]), match[2]
    if unit in ("month", "year"):
        return number * units_per_year / (12 if unit == "month" else 1)
    return number * DAYS_PER_UNIT[unit] / DAYS_PER_UNIT[time_unit]


def cost_rate(text: str | None, time_unit: str, units_per_year: float, currency: str, key: str) -> float:
    """A cost such as ``"5 GBP per year"`` in currency per time unit; 0 for None.

    Raises
    ------
    InputError
        If it names another currency than that of the data.
    """
    if text is None:
        return 0.0
    match = _COST.fullmatch(_cost(text))
    assert match is not None
    named = match[1] or match[3]
    if named and named != currency:
        raise InputError(
            f"{key} is {text!r}, but the money of the data is {currency}: convert the cost, or set "
            "data.currency."
        )
    return float(match[2]) / duration(f"1 {match[4]}", time_unit, units_per_year)


def schema(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of the schema with its dotted name."""
    for name, info in section.model_fields.items():
        yield prefix + name, info
        for inner in _sections(info.annotation):
            yield from schema(inner, f"{prefix}{name}.")


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a repeated key is an error, 1e-3 is a number, and ``on`` is a word, not true."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} appears twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{where} is not valid YAML{line}: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _configs(path.parent), n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else "; `init` writes one from a log."
        raise InputError(f"config file {path} does not exist{hint}") from None
    except OSError as error:
        raise InputError(f"config file {path} cannot be read: {error.strerror}.") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path} is not UTF-8 text (byte 0x{data[error.start]:02x} in line {line}); save it as UTF-8."
        ) from None
    document = _parse(text, str(path))
    if document is None:
        raise InputError(f"{path} is empty; `init` writes a config from a log.")
    if not isinstance(document, dict):
        raise InputError(
            f"{path} holds a {type(document).__name__}; a config is keys with values: data, value, ..."
        )
    return document


def _configs(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.y*ml")]


def _extended(document: dict[str, Any], base: Path, where: str, chain: tuple[Path, ...]) -> dict[str, Any]:
    """The document merged over the one it extends."""
    other = document.pop("extends", None)
    if other is None:
        return _merged({}, document)
    if not isinstance(other, str):
        raise InputError(f"{where}: extends is {other!r}; it names one YAML file.")
    path = base / other
    if path.resolve() in chain:
        raise InputError(f"{where}: extends {other}, which leads back to itself.")
    below = _extended(_read(path), path.parent, str(path), (*chain, path.resolve()))
    below.pop("name", None)
    source = (below.get("data") or {}).get("source") if isinstance(below.get("data"), dict) else None
    if isinstance(source, str) and source not in BUNDLED and not Path(source).is_absolute():
        below["data"]["source"] = os.path.relpath(path.parent / source, base or ".")
    costs = below.get("acquisition")
    spend = costs.get("spend") if isinstance(costs, dict) else None
    if isinstance(spend, str) and not Path(spend).is_absolute():
        below["acquisition"] = {**below["acquisition"], "spend": os.path.relpath(path.parent / spend, base)}
    return _merged(below, document)


def _merged(below: Any, above: Mapping[str, Any]) -> dict[str, Any]:
    """JSON merge patch (RFC 7396): mappings merge, null removes, anything else replaces."""
    out = dict(below) if isinstance(below, Mapping) else {}
    for key, value in above.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = _merged(out.get(key), value) if isinstance(value, Mapping) else value
    return out


def _explain(error: ValidationError) -> tuple[str, str]:
    """The first problem as (key, sentence); an unknown key comes before what it left missing."""
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    parts = [part for part in first["loc"] if not re.search(r"[<\[]", str(part))]
    key = "".join(f"[{part}]" if type(part) is int else f".{part}" for part in parts).lstrip(".")
    value, message = first["input"], str(first["msg"])
    match first["type"]:
        case "extra_forbidden":
            return key, _unknown(key)
        case "missing":
            return key, _missing(key)
        case "literal_error":
            choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            return key, f"{key} is {reprlib.repr(value)}, not one of {', '.join(choices)}{hint}"
        case "value_error":
            message = str(first["ctx"]["error"])
        case "model_type" | "dict_type":
            message = "it holds keys with values"
        case "string_type":
            message = "it is text; put it in quotes"
    message = message.replace("Input should", "it should").partition(", unable")[0]
    return key, message if isinstance(value, Mapping) else f"{key} is {reprlib.repr(value)}; {message}"


def _unknown(key: str) -> str:
    known = [name for name, _ in schema()]
    parent, _, last = key.rpartition(".")
    siblings = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == parent]
    elsewhere = [name for name in known if name.rpartition(".")[2] == last]
    if near := difflib.get_close_matches(last, siblings, n=1):
        hint = f"; did you mean {near[0]}?"
    elif elsewhere:
        hint = f"; did you mean {elsewhere[0]}?"
    else:
        hint = f"; it has {', '.join(siblings)}"
    return f"{last} is not a key of {parent or 'the config'}{hint}"


def _missing(key: str) -> str:
    info = next(info for name, info in schema() if name == key)
    if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
        needed = [name for name, field in info.annotation.model_fields.items() if field.is_required()]
        return f"{key} is missing; it needs {' and '.join(needed)}"
    text = " ".join((info.description or "").replace("``", "").split())
    return f"{key} is missing" + (f": {text[0].lower()}{text[1:]}".rstrip(".") if text else "")


def _below(key: str, ancestor: str) -> bool:
    return key == ancestor or key.startswith((f"{ancestor}.", f"{ancestor}["))


def _check_families(config: Config, where: str) -> None:
    from clvmodels.models import registry

    for role, find in (("purchases", registry.purchases), ("spend", registry.spend)):
        try:
            find(getattr(config.models, role).family)
        except InputError as error:
            raise InputError(f"{where}: models.{role}.family: {error}") from None

"""The stage of customers still to be won: how many come, what they cost, what they are worth."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from clvmodels import config as settings
from clvmodels.artifacts import Assumptions, Check, Equity, Forecast, Posterior, Summary
from clvmodels.config import AcquisitionConfig, Config, FutureConfig
from clvmodels.errors import InputError
from clvmodels.run.stages import Progress, converged

MONTHS = {"day": 12 / 365.2425, "week": 84 / 365.2425, "month": 1.0, "year": 12.0}
OWN_CUSTOMERS, OWN_BUYERS = 100, 30
"""Customers, and repeat buyers among them, from which on a channel is fitted on its own."""
ALL = "All customers"


@dataclass(frozen=True)
class Ahead:
    """Periods of the forecast: how long, how many, and the customers won in past ones."""

    period: float
    months: float
    count: int
    history: np.ndarray


@dataclass(frozen=True)
class Costs:
    """What was spent on each group, and whom it won.

    ``spend`` by group: an amount, [low, high], or one amount per month of ``months``; None where it is
    not known. ``paid`` is the day on which a customer was paid for.
    """

    labels: tuple[str, ...]
    members: tuple[np.ndarray, ...]
    spend: tuple[Any, ...]
    won: tuple[np.ndarray, ...]
    months: np.ndarray | None
    paid: np.ndarray


def check(config: Config, data: Summary) -> tuple[Ahead | None, Costs | None]:
    """Whether the data can carry what the config asks of new customers.

    Raises
    ------
    InputError
        If there is no history to forecast, acquisition has stopped, or spend and customers do not fit.
    """
    ahead = _ahead(config, config.future, data) if config.future else None
    costs = _costs(config, config.acquisition, data) if config.acquisition else None
    if config.value.first_order == "observed" and (ahead or costs):
        from clvmodels.equity import future

        future.first_amounts(data, 1, 0)
    return ahead, costs


def add(
    config: Config,
    data: Summary,
    draws: Posterior,
    assumptions: Assumptions,
    result: Equity,
    known: Equity | None = None,
    progress: Progress | None = None,
) -> tuple[Equity, tuple[Check, ...]]:
    """Equity with its parts on new customers, as the config asks, and the convergence of their fits.

    Parameters
    ----------
    known
        A run's equity whose forecast and fits are taken as they are, so that nothing is fitted.
    """
    ahead, costs = check(config, data)
    gate: tuple[Check, ...] = ()
    acquisition = None
    if costs is not None and config.acquisition is not None:
        acquisition = _acquisition(
            config, config.acquisition, data, draws, assumptions, costs, known, progress
        )
    future = None
    checks = result.checks
    if ahead is not None and config.future is not None:
        forecast, gate = _forecast(config, config.future, ahead, len(draws), known, progress)
        future, more = _future(config, data, draws, assumptions, result, forecast, acquisition, gate)
        checks = (*checks, *more)
    return replace(result, future=future, acquisition=acquisition, checks=checks), gate


def _duration(config: Config, text: str) -> float:
    return settings.duration(text, config.data.time_unit, settings.units_per_year(config))


def _back(data: Summary, day: str) -> float:
    """Time units from the start of a day to the end of observation."""
    days = (data.observation_end - dt.date.fromisoformat(day)).days + 1
    return days * 12 / 365.2425 / MONTHS[data.time_unit]


def _ahead(config: Config, future: FutureConfig, data: Summary) -> Ahead:
    from clvmodels.fit import acquisition

    discrete = data.clock == "discrete"
    period = 1.0 if discrete else settings.units_per_year(config) / 12
    months = MONTHS[data.time_unit] if discrete else 1.0
    end = min(_duration(config, future.horizon), _duration(config, config.value.horizon))
    count = int(np.floor(end / period + 1e-9))
    if count < 1:
        raise InputError(
            f"future.horizon: {future.horizon} (cut at value.horizon {config.value.horizon}) is shorter than "
            f"one {'period' if discrete else 'month'}; make it longer."
        )
    since = _back(data, future.since) if future.since else np.inf
    history = acquisition.first_purchases(data, period, since)
    if future.forecast == "trend":
        _refuse_history(data, history, acquisition.stopped(data, period), acquisition.LEAST, discrete)
    if isinstance(future.plan, tuple):
        count = min(count, len(future.plan))
    return Ahead(period, months, count, history)


def _refuse_history(data: Summary, history: np.ndarray, gap: float, least: int, discrete: bool) -> None:
    what = f"{data.time_unit}s" if discrete else "months"
    plan = "give the customers to be won (future.forecast: plan), or none"
    if gap:
        raise InputError(
            f"future.forecast is trend, but the log has no first purchase in the last {gap:.0f} "
            f"{data.time_unit}s before {data.observation_end}: it holds a closed cohort, not an acquisition "
            f"that goes on, and there is nothing to forecast; {plan}."
        )
    if len(history) < least:
        raise InputError(
            f"future.forecast is trend, but the log has {len(history)} whole {what} of first purchases and "
            f"{least} are needed; {plan}."
        )
    if not history.any():
        raise InputError(f"future.forecast is trend, but these {what} have no first purchase; {plan}.")


def _forecast(
    config: Config,
    future: FutureConfig,
    ahead: Ahead,
    draws: int,
    known: Equity | None,
    progress: Progress | None,
) -> tuple[Forecast, tuple[Check, ...]]:
    from clvmodels.equity import future as equity_future

    def made(expected: np.ndarray, counts: np.ndarray, history: np.ndarray) -> Forecast:
        return Forecast(
            kind=future.forecast, period=ahead.period, expected=expected, counts=counts, history=history
        )

    saved = known.future if known is not None else None
    if saved is not None:
        expected, counts = (saved[name].transpose("draw", "period").values for name in ("expected", "counts"))
        gate = tuple(Check(**found) for found in json.loads(saved.attrs["gate"]))
        return made(expected[:, : ahead.count], counts[:, : ahead.count], saved["history"].values), gate
    seed = np.random.SeedSequence(config.seed, spawn_key=(8,))
    gate = ()
    if future.forecast == "trend":
        from clvmodels.fit import acquisition

        expected, counts, gate = acquisition.trend(
            ahead.history, ahead.count, months=ahead.months, draws=max(draws, 2), seed=seed, progress=progress
        )
    else:
        plan = np.zeros(ahead.count)
        if future.forecast == "plan":
            plan[:] = future.plan
        expected, counts = equity_future.plan_counts(plan, future.interval, draws, seed)
        if draws == 1:
            expected = plan[None]
    if draws == 1:
        expected = counts = expected.mean(axis=0, keepdims=True)
    return made(expected, counts, ahead.history), gate


def _future(
    config: Config,
    data: Summary,
    draws: Posterior,
    assumptions: Assumptions,
    result: Equity,
    forecast: Forecast,
    acquisition: Any,
    gate: tuple[Check, ...],
) -> tuple[Any, tuple[Check, ...]]:
    from clvmodels.equity import future
    from clvmodels.equity.segments import cohorts

    new = _newcomer(config, data, draws, assumptions)
    cac = None
    if config.future is not None and config.future.cac is not None:
        seed = np.random.SeedSequence(config.seed, spawn_key=(9,))
        cac = future.amounts(config.future.cac, len(draws), seed)
    elif acquisition is not None:
        cac = acquisition["cac"].sel(channel=ALL).values
    found, checks = future.build(new, forecast, assumptions, result, cac, config.seed)
    acquired = cohorts(data.first_day, future.CHART_COHORTS)
    found["existing_margin"] = (
        ("acquired", "period"),
        future.existing_margin(data, draws, assumptions, forecast, config.seed, acquired),
        {"unit": result.currency},
    )
    found.coords["acquired"] = list(acquired.labels)
    found.attrs["gate"] = json.dumps([asdict(one) for one in gate])
    return found, checks


def outlook(
    config: Config,
    data: Summary,
    draws: Posterior,
    assumptions: Assumptions,
    *,
    cac: np.ndarray | None = None,
    known: Equity | None = None,
    progress: Progress | None = None,
) -> tuple[Any, tuple[Check, ...]]:
    """Future customers as seen on one date, and the convergence of their forecast; the config has them.

    Parameters
    ----------
    cac
        Cost of a customer by draw; default: that of the config's ``future.cac``, or none.
    known
        A run's equity whose forecast and cost are taken as they are.
    """
    from clvmodels.equity import future
    from clvmodels.value import valuation_flow

    assert config.future is not None
    ahead = _ahead(config, config.future, data)
    forecast, gate = _forecast(config, config.future, ahead, len(draws), known, progress)
    if known is not None and known.future is not None:
        cac = known.future["cac"].values if known.future.attrs["cost_known"] else None
    elif config.future.cac is not None:
        cac = future.amounts(
            config.future.cac, len(draws), np.random.SeedSequence(config.seed, spawn_key=(9,))
        )
    new = _newcomer(config, data, draws, assumptions)
    paid = np.zeros(len(draws)) if cac is None else np.broadcast_to(cac, len(draws)).astype(float)
    return future.Outlook(new, forecast, valuation_flow(assumptions), paid), gate


def cost_of_all(config: Config, data: Summary, draws: int) -> np.ndarray | None:
    """Cost of a customer in all by the acquisition section, by draw; None without one."""
    if config.acquisition is None:
        return None
    costs = _costs(config, config.acquisition, data)
    seeds = np.random.SeedSequence(config.seed, spawn_key=(10,)).spawn(len(costs.labels))
    spends = [_spent(a, draws, s) for a, s in zip(costs.spend, seeds, strict=True) if a is not None]
    won = int(np.any(costs.won, axis=0).sum())
    return np.sum(spends, axis=0) / won if spends and won else None


def _newcomer(
    config: Config, data: Summary, draws: Posterior, assumptions: Assumptions, margin: float | None = None
) -> Any:
    """A customer about to be won, like those of ``data``; ``margin`` by default the mean."""
    from clvmodels.equity import future
    from clvmodels.value import newcomer

    observed = config.value.first_order == "observed"
    return newcomer(
        draws,
        data,
        margin=float(np.mean(assumptions.margin)) if margin is None else margin,
        first_amount=future.first_amounts(data, len(draws), config.seed) if observed else None,
        cost_alive=assumptions.cost_alive,
        cost_addressed=assumptions.cost_addressed,
        cost_window=assumptions.cost_window,
    )


# --- what customers cost ---------------------------------------------------------------------------


def _costs(config: Config, asked: AcquisitionConfig, data: Summary) -> Costs:
    if asked.currency and asked.currency != data.currency:
        raise InputError(
            f"acquisition.currency is {asked.currency}, but the data are in {data.currency}: convert the "
            "spend, or set data.currency."
        )
    if asked.by:
        segment = data.segments[asked.by]
        labels: tuple[str, ...] = segment.labels
        members = tuple(segment.codes == code for code in range(len(labels)))
    else:
        labels, members = (ALL,), (np.ones(len(data), bool),)
    lag = round(settings.duration(asked.lag, "day", 365.2425)) if asked.lag else 0
    paid = data.first_day - np.timedelta64(lag, "D")
    months = None
    if isinstance(asked.spend, str):
        from clvmodels.data.spend import read_spend

        table = read_spend(config.base / asked.spend, asked.by, data.currency)
        _refuse_months(table.months, data, lag, asked.spend)
        spend: Mapping[str, Any] = dict(zip(table.groups if asked.by else labels, table.spend, strict=True))
        months = table.months
        inside: Any = np.isin(paid.astype("datetime64[M]"), months)
    else:
        spend = asked.spend if isinstance(asked.spend, dict) else {ALL: asked.spend}
        first, last = _window(asked, data)
        inside = (paid >= first) & (paid <= last)
    if unknown := [label for label in spend if label not in labels]:
        raise InputError(
            f"acquisition.spend: {asked.by} {', '.join(map(repr, unknown[:5]))} is not in the data, whose "
            f"customers have {', '.join(map(repr, labels[:8]))}{' and others' if len(labels) > 8 else ''}."
        )
    won = tuple(mask & inside for mask in members)
    amounts = tuple(spend.get(label) for label in labels)
    for label, amount, who in zip(labels, amounts, won, strict=True):
        if amount is not None and np.sum(amount) > 0 and not who.any():
            of = f" of {asked.by} {label!r}" if asked.by else ""
            raise InputError(
                f"acquisition.spend: {np.sum(amount):,.0f} {data.currency} were spent, but no customer{of} "
                "was won in that time: a cost per customer needs customers; check the dates, or leave it out."
            )
    return Costs(labels, members, amounts, won, months, paid)


def _window(asked: AcquisitionConfig, data: Summary) -> tuple[np.datetime64, np.datetime64]:
    start = dt.date.fromisoformat(asked.since) if asked.since else data.observation_start
    end = dt.date.fromisoformat(asked.until) if asked.until else data.observation_end
    for key, day in (("since", start), ("until", end)):
        if not data.observation_start <= day <= data.observation_end:
            raise InputError(
                f"acquisition.{key} {day} is outside the data, whose customers first bought from "
                f"{data.observation_start} to {data.observation_end}."
            )
    return np.datetime64(start), np.datetime64(end)


def _refuse_months(months: np.ndarray, data: Summary, lag: int, path: str) -> None:
    shift = np.timedelta64(lag, "D")
    first = np.datetime64(data.observation_start, "M").astype("datetime64[D]")
    starts = months.astype("datetime64[D]") + shift
    ends = (months + 1).astype("datetime64[D]") - np.timedelta64(1, "D") + shift
    outside = (starts < first) | (ends > np.datetime64(data.observation_end))
    if outside.any():
        later = f" (with acquisition.lag: {lag} days later)" if lag else ""
        raise InputError(
            f"acquisition.spend: the month {months[outside][0]} of {path}{later} is not wholly inside the "
            f"data, which run from {data.observation_start} to {data.observation_end}: leave out months "
            "whose customers are not all in the log."
        )


def _acquisition(
    config: Config,
    asked: AcquisitionConfig,
    data: Summary,
    draws: Posterior,
    assumptions: Assumptions,
    costs: Costs,
    known: Equity | None,
    progress: Progress | None,
) -> Any:
    from clvmodels.equity import acquisition

    n = len(draws)
    seeds = np.random.SeedSequence(config.seed, spawn_key=(10,)).spawn(len(costs.labels))
    fits: dict[str, tuple[Posterior | None, np.ndarray | None]] = {}
    channels, spends = [], []
    terms = [term for effects in draws.effects for term in effects.terms]
    shared: Any = "pooled" if any(asked.by in term.by for term in terms) else "all"
    anyone: dict[float, Any] = {}  # by margin: a new customer of a channel that is not fitted on its own
    groups = zip(costs.labels, costs.members, costs.spend, costs.won, seeds, strict=True)
    for label, mask, amount, won, seed in groups:
        if not mask.any():
            continue
        if progress:
            progress(f"acquisition: {label}", None)
        part = data.take(np.flatnonzero(mask))
        own = None
        if label != ALL and asked.customers == "separate" and not draws.effects:
            own = _saved(known, label, draws) if known else _own(config, part, draws, seed)
        spend = None if amount is None else _spent(amount, n, seed)
        if spend is not None:
            spends.append(spend)
        response, monthly = _response(config, data, costs, amount, won, n, seed, known, label)
        if own is not None or response is not None:
            fits[label] = own, response
        margin = float(assumptions.margin[mask].mean())
        if own is None and config.value.first_order == "model" and not draws.effects:
            new = anyone.setdefault(margin, _newcomer(config, part, draws, assumptions, margin))
        else:
            new = _newcomer(config, part, own or draws, assumptions, margin)
        channels.append(
            acquisition.Channel(
                label=label,
                customers=int(mask.sum()),
                repeat_buyers=int((part["frequency"] > 0).sum()),
                age=float(part["T"].mean()),
                newcomer=new,
                basis="own" if own is not None or label == ALL else shared,
                spend=spend,
                won=int(won.sum()),
                response=response,
                monthly=monthly,
            )
        )
    channels.sort(key=lambda channel: (channel.spend is None, -channel.customers))
    if costs.labels != (ALL,):
        whole = acquisition.Channel(
            label=ALL,
            customers=len(data),
            repeat_buyers=int((data["frequency"] > 0).sum()),
            age=float(data["T"].mean()),
            newcomer=_newcomer(config, data, draws, assumptions),
            basis="own",
            spend=np.sum(spends, axis=0) if spends else None,
            won=int(np.any(costs.won, axis=0).sum()),
        )
        channels.insert(0, whole)
    payback = _duration(config, asked.payback)
    found = acquisition.build(channels, assumptions, payback, config.seed, data.currency)
    _keep(found, fits, draws)
    return found


def _spent(amount: Any, draws: int, seed: np.random.SeedSequence) -> np.ndarray:
    from clvmodels.equity import future

    return future.amounts(amount if isinstance(amount, tuple) else float(np.sum(amount)), draws, seed)


def _own(config: Config, part: Summary, draws: Posterior, seed: np.random.SeedSequence) -> Posterior | None:
    """The posterior of a channel's own customers, where they are enough and its draws converge."""
    from clvmodels import fit as fitting

    buyers = int(part.spenders.sum())
    if len(part) < OWN_CUSTOMERS or buyers < OWN_BUYERS or draws.purchases.sampler == "fixed":
        return None
    options = config.fit.model_copy(update={"draws": len(draws)} if len(draws) > 1 else {})
    number = int(seed.generate_state(1)[0])
    try:
        own = fitting.fit(part, config.models.purchases, config.models.spend, options, number)
    except InputError:
        return None
    return own if len(own) == len(draws) and converged(fitting.gate(own)) else None


def _response(
    config: Config,
    data: Summary,
    costs: Costs,
    amount: Any,
    won: np.ndarray,
    draws: int,
    seed: np.random.SeedSequence,
    known: Equity | None,
    label: str,
) -> tuple[np.ndarray | None, float]:
    """Draws of the response to monthly spend, where the spend's history and the draws allow it."""
    if costs.months is None or amount is None or draws == 1:
        return None, np.nan
    if known is not None and known.acquisition is not None:
        saved = known.acquisition
        if "response" not in saved or label not in saved["channel"].values:
            return None, np.nan
        found = saved["response"].sel(channel=label).values
        return (found, float(amount.mean())) if np.isfinite(found).all() else (None, np.nan)
    from clvmodels.fit import K_HAT_MAX, acquisition

    month = costs.paid[won].astype("datetime64[M]")
    counts = np.bincount((month - costs.months[0]).astype(int), minlength=len(costs.months))
    fitted = acquisition.response(amount, counts, draws, seed)
    if fitted is None or fitted[1] > K_HAT_MAX:
        return None, np.nan
    return fitted[0], float(amount.mean())


def _keep(found: Any, fits: Mapping[str, tuple[Any, Any]], draws: Posterior) -> None:
    """Store the channels' own draws with their results, so that they can be valued anew."""
    labels = [str(label) for label in found["channel"].values]
    for role in ("purchases", "spend"):
        shape = getattr(draws, role).flat.shape[1]
        values = np.full((len(labels), len(draws), shape), np.nan)
        for k, label in enumerate(labels):
            if label in fits and fits[label][0] is not None:
                values[k] = fits[label][0].pairs()[0 if role == "purchases" else 1]
        found[f"own_{role}"] = (("channel", "draw", f"{role}_parameter"), values)
    if any(response is not None for _, response in fits.values()):
        values = np.full((len(labels), len(draws), 3), np.nan)
        for k, label in enumerate(labels):
            if label in fits and fits[label][1] is not None:
                values[k] = fits[label][1]
        found["response"] = (("channel", "draw", "response_parameter"), values)


def _saved(known: Equity, label: str, draws: Posterior) -> Posterior | None:
    saved = known.acquisition
    if saved is None or label not in saved["channel"].values:
        return None
    purchases, spend = (saved[f"own_{role}"].sel(channel=label).values for role in ("purchases", "spend"))
    if not (np.isfinite(purchases).all() and np.isfinite(spend).all()):
        return None
    return replace(
        draws,
        purchases=replace(draws.purchases, draws=purchases[None]),
        spend=replace(draws.spend, draws=spend[None]),
    )

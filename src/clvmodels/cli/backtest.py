"""Forecasts of the past against what happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from clvmodels.cli.app import (
    ConfigFile,
    Json,
    Overwrite,
    Quiet,
    Seed,
    Set,
    app,
    changes_of,
    out_option,
    print_json,
    print_table,
    session,
)


@app.command()
def backtest(
    config: ConfigFile,
    origins: Annotated[
        list[str] | None,
        typer.Option(
            "--origins", metavar="DATE", help="Forecast from this day; repeatable.", show_default=False
        ),
    ] = None,
    first: Annotated[
        str | None,
        typer.Option("--first", metavar="DATE", help="Earliest origin (default: after a third of the log)."),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option("--every", metavar="DURATION", help='Time between origins (default: "4 weeks").'),
    ] = None,
    horizons: Annotated[
        list[str] | None,
        typer.Option("--horizons", metavar="DURATION", help="How far ahead, as 13 weeks; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, out_option("Folder (default: out/name of the config with -backtest).")
    ] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Refit at past days, forecast, and compare with what happened: do the intervals hold?"""
    from clvmodels.config import load

    given = {
        "origins": [day.strip() for text in origins or () for day in text.split(",")],
        "first": first,
        "every": every,
        "horizons": [length.strip() for text in horizons or () for length in text.split(",")],
    }
    changes = [f"validation.{key}={_yaml(value)}" for key, value in given.items() if value]
    settings = load(config, [*changes_of(overrides, seed), *changes])
    folder = out or settings.out / f"{settings.name}-backtest"

    from clvmodels import run

    with session(quiet, as_json) as progress:
        result = run.backtest(settings, out=folder, overwrite=overwrite, progress=progress)
    if as_json:
        print_json({"path": str(folder), **result.summary})
    elif not quiet:
        _print_backtest(result.summary)
        print(f"report: {folder / 'backtest.html'}")


def _yaml(value: Any) -> str:
    """A value as ``--set`` takes it: text in quotes, so that a wrong one is refused as it was typed."""
    import json

    return json.dumps(value, ensure_ascii=False)


def _print_backtest(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.backtest import printed

    header, rows = printed(summary)
    level = summary["horizons"][0]["orders"]["level"] if summary["horizons"] else "predictive"
    print_table(
        f"Forecasts of {summary['name']} against what happened, level {level}",
        header,
        rows,
        right=len(header) - 2,
    )
    for sentence in summary["sentences"]:
        print(sentence)

"""The main job: check, fit, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from clvmodels.artifacts import Summary


@app.command()
def check(
    config: ConfigFile,
    out: Annotated[Path | None, out_option("Parquet file for the summary, one row per customer.")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Validate a config and its data without fitting, and show the data ledger."""
    from clvmodels import run

    with session(quiet, as_json) as progress:
        summary = run.check(config, out=out, seed=seed, overrides=overrides or (), progress=progress)
    if as_json:
        print_json(_described(summary))
    elif not quiet:
        _print_ledger(summary)


@app.command()
def fit(
    config: ConfigFile,
    out: Annotated[Path | None, out_option("Folder of the run (default: out/name of the config).")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Fit, value and report: from a transaction log to customer equity."""
    from clvmodels.config import load

    settings = load(config, changes_of(overrides, seed))
    folder = out or settings.out / settings.name

    from clvmodels import run

    with session(quiet, as_json) as progress:
        result = run.fit(settings, out=folder, overwrite=overwrite, progress=progress)
    if as_json:
        print_json({"path": str(folder), **result.summary})
    elif not quiet:
        _print_equity(result.summary)
        print(f"report: {folder / 'report.html'}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    out: Annotated[
        Path | None, out_option("Copy of the page; with --set or --seed, the folder of the new run.")
    ] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Render a run's report again, or value its posterior under other assumptions."""
    from clvmodels import run

    with session(quiet, as_json) as progress:
        path = run.report(folder, out=out, seed=seed, overrides=overrides or (), progress=progress)
    if as_json:
        print_json({"report": str(path)})
    elif not quiet:
        print(f"report: {path}")


def _print_equity(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.text import show

    rows = []
    for level, contents in summary["levels"].items():
        key = f"equity.existing.{level}"
        interval = "none"
        if summary["equity"]["existing"][level]["interval_90"] is not None:
            interval = f"{show(summary, f'{key}.interval_90.0')} to {show(summary, f'{key}.interval_90.1')}"
        rows.append((level, show(summary, f"{key}.mean"), interval, contents))
    print_table(
        f"Equity of {show(summary, 'customers.total.value')} existing customers at "
        f"{summary['data']['observation_end']}, {summary['currency']}",
        ("level", "mean", "90 % interval", "the interval contains"),
        rows,
        right=2,
    )
    checks = [check for check in summary["checks"] if check["passed"] is not None]
    print(f"{sum(check['passed'] for check in checks)} of {len(checks)} checks passed")
    for check in checks:
        if not check["passed"]:
            print(f"not passed: {check['name']}: {check['sentence']}")


def _print_ledger(summary: Summary) -> None:
    from clvmodels.data.ledger import KEYS
    from clvmodels.report.text import write

    rows = [
        (label, write(summary.ledger[key], "text" if kind == "date" else kind, size=0))
        for key, (label, kind) in KEYS.items()
        if summary.ledger.get(key)
    ]
    print_table(repr(summary)[len("<Summary ") : -1], ("data ledger", ""), rows, right=1)
    for note in summary.ledger["notes"]:
        print(note)


def _described(summary: Summary) -> dict[str, Any]:
    return {
        "customers": len(summary),
        "repeat_buyers": int((summary["frequency"] > 0).sum()),
        "observation_start": summary.observation_start.isoformat(),
        "observation_end": summary.observation_end.isoformat(),
        "holdout": {"value": summary.holdout, "unit": summary.time_unit},
        "time_unit": summary.time_unit,
        "currency": summary.currency,
        "segments": {name: len(segment.labels) for name, segment in summary.segments.items()},
        "ledger": dict(summary.ledger),
        "fingerprint": summary.fingerprint,
    }

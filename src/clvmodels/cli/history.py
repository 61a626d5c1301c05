"""Equity over time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from clvmodels.cli.app import (
    ConfigFile,
    Json,
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
def history(
    config: ConfigFile,
    start: Annotated[str, typer.Option("--from", metavar="DATE", help="First valuation date.")],
    end: Annotated[str, typer.Option("--to", metavar="DATE", help="No valuation date after this day.")],
    every: Annotated[str, typer.Option("--every", help="week, month, quarter or year.")] = "quarter",
    basis: Annotated[
        str, typer.Option("--basis", help="Parameters of the movements between dates: closing or opening.")
    ] = "closing",
    coupling: Annotated[
        str, typer.Option("--coupling", help="Draws of two dates: independent or comonotone.")
    ] = "independent",
    out: Annotated[
        Path | None, out_option("Folder (default: out/NAME-history); what it has is not computed again.")
    ] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Throw away what the folder has, and begin anew.")
    ] = False,
) -> None:
    """Equity at a series of dates, each fitted to the log as it stood then, and why it moved."""
    from clvmodels.config import load

    settings = load(config, changes_of(overrides, seed))
    folder = out or settings.out / f"{settings.name}-history"

    from clvmodels import run

    with session(quiet, as_json) as progress:
        result = run.history(
            settings, start, end, every=every, basis=basis, coupling=coupling, out=folder,  # type: ignore[arg-type]
            overwrite=overwrite, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json({"path": str(folder), **result.summary})
    elif not quiet:
        _print_history(result.summary)
        done = len([name for name in result.computed if "_" not in name])
        print(f"{done} of {len(result.summary['dates'])} dates computed, the rest from {folder / 'cache'}")
        print(f"report: {folder / 'history.html'}")


def _print_history(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.series import printed

    header, rows = printed(summary)
    print_table(
        f"Equity over time, {summary['currency']}, level {summary['level']}", header, rows, right=len(header)
    )
    for sentence in (*summary["notes"], *summary["sentences"]):
        print(sentence)

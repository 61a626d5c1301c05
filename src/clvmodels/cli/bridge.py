"""Why equity moved."""

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
def bridge(
    config: ConfigFile,
    start: Annotated[str, typer.Option("--from", metavar="DATE", help="Opening, as 1997-09-30.")],
    end: Annotated[str, typer.Option("--to", metavar="DATE", help="Closing, a later day.")],
    basis: Annotated[
        str, typer.Option("--basis", help="Parameters of movements shown first: closing or opening.")
    ] = "closing",
    coupling: Annotated[
        str, typer.Option("--coupling", help="Draws of the two dates: independent or comonotone.")
    ] = "independent",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--change", metavar="KEY=VALUE", help="Overrides a key at the closing date only; repeatable."
        ),
    ] = None,
    acquisition_cost: Annotated[
        float, typer.Option("--acquisition-cost", min=0, metavar="AMOUNT", help="Spent between the dates.")
    ] = 0.0,
    out: Annotated[Path | None, out_option("Folder (default: out/name of the config with -bridge).")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Why equity moved between two dates, line by line, and the return on it."""
    from clvmodels.config import load

    settings = load(config, changes_of(overrides, seed))
    folder = out or settings.out / f"{settings.name}-bridge"

    from clvmodels import run

    with session(quiet, as_json) as progress:
        result = run.bridge(
            settings, start, end, basis=basis, coupling=coupling, changes=changes or (),  # type: ignore[arg-type]
            acquisition_cost=acquisition_cost, out=folder, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json({"path": str(folder), **result.summary})
    elif not quiet:
        _print_bridge(result.summary)
        print(f"report: {folder / 'bridge.html'}")


def _print_bridge(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.bridge import summary_lines
    from clvmodels.report.text import show

    print_table(
        f"Equity from {summary['opening']['date']} to {summary['closing']['date']}, {summary['currency']}, "
        f"level {summary['level']}, parameters of the {summary['basis']}",
        ("line", "mean", "90 % interval"),
        summary_lines(summary),
        right=2,
    )
    key = f"bases.{summary['basis']}.returns.existing.published"
    if summary["bases"][summary["basis"]]["returns"]["existing"]["published"]["defined"]:
        print(f"return {show(summary, f'{key}.value.mean')}, hurdle {show(summary, f'{key}.hurdle.value')}")
    for sentence in summary["sentences"]:
        print(sentence)

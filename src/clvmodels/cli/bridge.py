"""Why equity moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from clvmodels.cli.app import (
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
from clvmodels.errors import InputError


@app.command()
def bridge(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG | RUN_A RUN_B",
            help="A YAML config with --from and --to, or two folders of finished runs, the earlier first.",
            show_default=False,
        ),
    ],
    start: Annotated[
        str | None, typer.Option("--from", metavar="DATE", help="Opening, as 1997-09-30.", show_default=False)
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="DATE", help="Closing, a later day.", show_default=False)
    ] = None,
    basis: Annotated[
        str, typer.Option("--basis", help="Parameters of movements shown first: closing or opening.")
    ] = "closing",
    coupling: Annotated[
        str, typer.Option("--coupling", help="Draws of the two dates: independent or comonotone.")
    ] = "independent",
    attribution: Annotated[
        str,
        typer.Option("--attribution", help="Changed assumptions: sequential, or shapley (over all orders)."),
    ] = "sequential",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--change", metavar="KEY=VALUE", help="Overrides a key at the closing date only; repeatable."
        ),
    ] = None,
    acquisition_cost: Annotated[
        float | None,
        typer.Option(
            "--acquisition-cost",
            min=0,
            metavar="AMOUNT",
            help="Spent between the dates to win customers (default: by future.cac or acquisition).",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, out_option("Folder (default: out/NAME-bridge, or runs/A-to-B).")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Why equity moved between two dates, line by line, and the return on it."""
    from clvmodels import run

    chosen: dict[str, Any] = {
        "basis": basis, "coupling": coupling, "attribution": attribution,
        "acquisition_cost": acquisition_cost, "overwrite": overwrite,
    }  # fmt: skip
    if len(sources) == 1:
        from clvmodels.config import load

        if start is None or end is None:
            raise InputError(
                f"{sources[0]}: a bridge of one config needs --from and --to; without them, name the folders "
                "of two finished runs."
            )
        settings = load(sources[0], changes_of(overrides, seed))
        folder = out or settings.out / f"{settings.name}-bridge"
        with session(quiet, as_json) as progress:
            result = run.bridge(
                settings, start, end, changes=changes or (), out=folder, progress=progress, **chosen
            )
    else:
        _refuse(
            sources, {"--from": start, "--to": end, "--change": changes, "--set": overrides, "--seed": seed}
        )
        folder = out or Path("runs") / f"{sources[0].resolve().name}-to-{sources[1].resolve().name}"
        with session(quiet, as_json) as progress:
            result = run.bridge_runs(*sources, out=folder, progress=progress, **chosen)
    if as_json:
        print_json({"path": str(folder), **result.summary})
    elif not quiet:
        _print_bridge(result.summary)
        print(f"report: {folder / 'bridge.html'}")


def _refuse(sources: list[Path], given: Mapping[str, Any]) -> None:
    if len(sources) > 2:
        raise InputError(f"{len(sources)} folders: a bridge leads from one run to one other.")
    for name, value in given.items():
        if value not in (None, []):
            raise InputError(
                f"{name} is for a bridge of one config: finished runs bring their own dates and settings."
            )


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
    for sentence in (*summary["notes"], *summary["sentences"]):
        print(sentence)

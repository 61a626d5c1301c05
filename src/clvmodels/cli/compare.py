"""Variants side by side."""

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


@app.command()
def compare(
    configs: Annotated[
        list[Path],
        typer.Argument(
            metavar="CONFIG...",
            help="YAML configs, one with a list of variants, or folders of finished runs.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, out_option("Folder (default: out/NAME-compared; of several: runs/compared).")
    ] = None,
    rolling: Annotated[
        bool,
        typer.Option(
            "--rolling", help="Backtest every variant on the same past days and say which forecasts best."
        ),
    ] = False,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare variants: leave-one-out scores, holdout scores, and the equity that each implies."""
    folder = out
    if folder is None and len(configs) == 1 and not configs[0].is_dir():
        from clvmodels.config import load

        settings = load(configs[0], changes_of(overrides, seed))
        folder = settings.out / f"{settings.name}-{'rolling' if rolling else 'compared'}"

    from clvmodels import run

    if rolling:
        place = folder or Path("runs") / "rolling"
        with session(quiet, as_json) as progress:
            found = run.compare_rolling(
                configs,
                out=place,
                seed=seed,
                overrides=overrides or (),
                overwrite=overwrite,
                progress=progress,
            )
        if as_json:
            print_json({"path": str(found.path), **found.summary})
        elif not quiet:
            _print_rolling(found.summary)
            print(f"report: {found.path}/rolling.html")
        return
    with session(quiet, as_json) as progress:
        result = run.compare(
            configs,
            out=folder or Path("runs") / "compared",
            seed=seed,
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        print_json({"path": str(result.path), **result.summary})
    elif not quiet:
        _print_comparison(result.summary)
        print(f"report: {result.path}/comparison.html")


def _print_rolling(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.rolling import printed

    header, rows = printed(summary)
    title = f"Purchases, level {summary['level']}: bias, CRPS over truth (* lowest, ! worse), 90 % coverage"
    print_table(title, header, rows, right=len(header) - 1)
    for sentence in summary["sentences"]:
        print(f"- {sentence}")


def _print_comparison(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.comparison import printed

    header, rows = printed(summary)
    print_table(
        f"Variants for {summary['data']['customers']['value']:,} existing customers at "
        f"{summary['data']['valuation_date']}, {summary['currency']}",
        header,
        rows,
        right=len(header) - 1,
    )
    for sentence in summary["conclusions"]:
        print(f"- {sentence}")

"""Proof by simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clvmodels.cli.app import Json, Quiet, app, out_option, print_json, print_table, session


@app.command()
def sbc(
    families: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FAMILY]...", help="Families; all if none is named.", show_default=False),
    ] = None,
    fits: Annotated[int, typer.Option("--fits", min=1, help="Simulated data sets of each family.")] = 200,
    customers: Annotated[int, typer.Option("--customers", min=50, help="Of a data set.")] = 300,
    sampler: Annotated[str, typer.Option("--sampler", help="importance or nuts.")] = "importance",
    draws: Annotated[
        int | None,
        typer.Option("--draws", min=100, help="Of a posterior (400; nuts: 2000).", show_default=False),
    ] = None,
    out: Annotated[Path, out_option("Folder (default: runs/sbc); what is there is continued.")] = Path(
        "runs/sbc"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0)] = 1,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Simulation-based calibration: simulate, fit, and rank the truth among the draws."""
    from clvmodels import run

    with session(quiet, as_json) as progress:
        result = run.sbc(
            families or (),
            fits=fits,
            customers=customers,
            sampler=sampler,
            draws=draws,
            seed=seed,
            out=out,
            progress=progress,
        )
    if as_json:
        print_json({"path": str(out), **result.summary})
    elif not quiet:
        rows = [
            (
                name,
                f"{pair['fits']}",
                f"{pair['converged']}",
                f"{max(r['departure'] for r in pair['quantities'].values() if r['passed'] is not None):.2f}",
                f"{pair['limit']:.2f}",
                f"{100 * pair['quantities']['orders']['coverage_90']:.0f} %",
                f"{100 * pair['quantities']['orders_expected']['coverage_90']:.0f} %",
                ", ".join(q for q, r in pair["quantities"].items() if r["passed"] is False) or "all uniform",
            )
            for name, pair in result.summary["pairs"].items()
        ]
        header = ("pair", "fits", "converged", "departure", "limit", "90 % predictive", "expected", "ranks")
        print_table("Simulation-based calibration", header, rows, right=6)
        print(f"figure: {out / 'calibration.svg'}")

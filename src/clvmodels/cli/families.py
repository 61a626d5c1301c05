"""The listing of the models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clvmodels.cli.app import Json, Quiet, app, out_option, print_json, print_table, write_new

if TYPE_CHECKING:
    from clvmodels.models.family import Family


@app.command()
def families(
    out: Annotated[Path | None, out_option("File to write the listing to, as JSON.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", hidden=True)] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", hidden=True)] = None,
) -> None:
    """List the models with their parameters, default priors and sources."""
    from clvmodels.models import registry

    listing = [_listed(family) for family in registry.families()]
    if out is not None:
        write_new(out, json.dumps(listing, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        print_json(listing)
    elif not quiet:
        _print_families(listing)


def _listed(family: Family) -> dict[str, Any]:
    from clvmodels.models.family import Scale

    priors = family.priors(Scale(time=1.0, rate=1.0, spend=1.0))
    return {
        "name": family.name,
        "title": family.title,
        "role": family.role,
        "clock": getattr(family, "clock", None),
        "parameters": [asdict(parameter) for parameter in family.parameters],
        "coordinates": [asdict(c) | {"prior": dict(priors[c.name])} for c in family.coordinates],
        "references": [asdict(reference) for reference in family.references],
    }


def _constant(value: float | None) -> str:
    return "" if value is None else f"constant {value:g}"


def _print_families(listing: list[dict[str, Any]]) -> None:
    from clvmodels.report.tables import prior_text

    for family in listing:
        references = (
            f"{r['authors']} ({r['year']}), {r['title']}, {r['where']}" for r in family["references"]
        )
        print_table(
            f"{family['name']}: {family['title']}, {family['role']}\n" + "\n".join(references),
            ("", "name", "unit", "default", "meaning"),
            [
                ("parameter", p["name"], p["unit"], _constant(p["constant"]), p["meaning"])
                for p in family["parameters"]
            ]
            + [
                ("coordinate", c["name"], c["unit"], prior_text(c["prior"]), c["meaning"])
                for c in family["coordinates"]
            ],
        )
    print(
        "Priors are set on coordinates and shown for data whose median age, repeat rate and\n"
        "median spend are 1; a run scales them by its own data and writes them to summary.json."
    )

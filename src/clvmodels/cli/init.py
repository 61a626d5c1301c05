"""A config from a log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clvmodels.cli.app import (
    EXISTS,
    Json,
    Quiet,
    Seed,
    Set,
    app,
    changes_of,
    out_option,
    print_json,
    session,
    write_new,
)
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.data import Guess


@app.command()
def init(
    transactions: Annotated[
        str, typer.Argument(metavar="TRANSACTIONS", help="A CSV or Parquet log, or a glob.")
    ],
    out: Annotated[Path | None, out_option("Config to write (default: the log's name with .yaml).")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Guess columns, dates, time unit and segments of a log, and write a commented config."""
    from clvmodels import data
    from clvmodels.config import load, override

    stem = re.sub(r"[^\w.+-]+", "_", Path(transactions).stem).strip("_.")
    path = out or Path(f"{stem or 'transactions'}.yaml")
    if path.exists():
        raise InputError(EXISTS.format(path))
    with session(quiet, as_json) as progress:
        if progress:
            progress("reading transactions", None)
        found = data.guess(Path(transactions))
    document, comments = _draft(found, path.parent)
    changes = changes_of(overrides, seed)
    load(document, changes)
    for change in changes:
        document = override(document, change)
    head = (
        f"# Guessed from {found.source}: {found.rows:,} rows, {found.customers:,} customers, "
        f"{found.first_date} to {found.last_date}.\n"
        "# Look the guesses over and replace what is marked ASSUMPTION, then\n"
        f"#     python -m clvmodels check {path}\n\n"
    )
    write_new(path, head + "\n".join(_commented(document, comments)))
    if as_json:
        print_json({"config": str(path), "content": document, "reasons": dict(found.reasons)})
    elif not quiet:
        print(f"config: {path}")


def _draft(found: Guess, folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A config for what was guessed, and a comment for each dotted key that needs one."""
    source = found.source if Path(found.source).is_absolute() else os.path.relpath(found.source, folder)
    holdout = found.first_date + (found.last_date - found.first_date) * 3 // 4
    reading: dict[str, Any] = {"source": Path(source).as_posix(), "format": found.format}
    if found.delimiter:
        reading["delimiter"] = found.delimiter
    reading["columns"] = {"customer": found.customer, "date": found.date, "amount": found.amount}
    if found.date_format:
        reading["date_format"] = found.date_format
    document = {
        "data": reading
        | {
            "time_unit": found.time_unit,
            "currency": "USD",
            "observation_end": found.last_date.isoformat(),
            "refunds": "net",
            "segments": [],
        },
        "value": {"margin": 0.3, "annual_discount_rate": 0.15, "horizon": "infinite"},
    }
    comments = {
        f"data.{'columns.' if key in reading['columns'] else ''}{key}": reason
        + (f"; or {', '.join(found.alternatives[key])}" if found.alternatives.get(key) else "")
        for key, reason in found.reasons.items()
    }
    return document, comments | {
        "data.currency": "ASSUMPTION: the label of all money",
        "data.observation_end": f"the last date; an earlier day, such as {holdout}, "
        "keeps later purchases to test the forecast",
        "data.refunds": f"{found.negative_rows:,} rows are negative: net within a day, drop or error",
        "data.segments": f"candidates: {', '.join(found.segments)}"
        if found.segments
        else "no candidates found",
        "value.margin": "ASSUMPTION: 30 % of revenue is contribution",
        "value.annual_discount_rate": "ASSUMPTION: 15 % a year, effective",
        "value.horizon": 'or a duration such as "3 years"',
    }


def _commented(document: Mapping[str, Any], comments: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    """Lines of YAML, each below the comment of its dotted key."""
    import yaml

    def flow(value: Any) -> str:
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        return text.removesuffix("...\n").strip()

    indent = "  " * prefix.count(".")
    for key, value in document.items():
        if comment := comments.get(prefix + key):
            yield f"{indent}# {' '.join(comment.split())}"
        if isinstance(value, Mapping) and value:
            yield f"{indent}{flow(key)}:"
            yield from _commented(value, comments, f"{prefix}{key}.")
        else:
            yield f"{indent}{flow(key)}: {flow(value)}"
        if not prefix:
            yield ""

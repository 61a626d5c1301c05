"""The files of a run folder, written from artefacts and read back."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clvmodels.artifacts import Assumptions, Check, Equity, Posterior, Summary
from clvmodels.config import Config, dump
from clvmodels.errors import InputError
from clvmodels.report import acquisition, future, page, position, tables

_ROLES = ("purchases", "spend")


def write(
    folder: Path,
    *,
    summary: Summary,
    posterior: Posterior,
    assumptions: Assumptions,
    equity: Equity,
    checks: Sequence[Check],
    config: Config,
    table: Mapping[str, Any],
    meta: Mapping[str, Any],
    arrays: Any = None,
) -> None:
    """Write every file of a run into an existing folder.

    Parameters
    ----------
    table
        As made by :func:`clvmodels.report.tables.build`; every number of ``summary.json``, the
        page and the CSV files comes from it.
    meta
        Goes into ``manifest.json`` as it is: timings, warnings, machine, and whatever else may
        differ between two equal runs.
    arrays
        Dataset of :func:`clvmodels.validate.checks.predictive_checks`, for the figures.

    Notes
    -----
    ``assumptions`` and ``checks`` are already in ``table``; they are accepted so that a run hands
    over everything it has in one call.
    """
    folder = Path(folder)
    summary.save(folder / "summary.parquet")
    _save_draws(folder / "equity.nc", posterior, equity, arrays)
    _save_customers(folder / "customers.parquet", equity, table)
    (folder / "summary.json").write_text(tables.dumps(table), encoding="utf-8")
    write_csv(folder / "segments.csv", tables.SEGMENT_COLUMNS, tables.segment_rows(table))
    write_csv(folder / "partitions.csv", tables.SEGMENT_COLUMNS, position.partition_rows(table))
    write_csv(folder / "risk.csv", position.RISK_COLUMNS, position.risk_rows(table))
    write_csv(folder / "wake_up.csv", position.WAKE_UP_COLUMNS, position.wake_up_rows(equity))
    write_csv(folder / "validation.csv", tables.VALIDATION_COLUMNS, tables.validation_rows(table))
    for name, part in (("future", future), ("acquisition", acquisition)):
        if table[name]:
            write_csv(folder / f"{name}.csv", part.COLUMNS, part.rows(table, tables.flat))
    if table["effects"]:
        from clvmodels.report import effects

        write_csv(folder / "effects.csv", effects.COLUMNS, effects.csv_rows(table))
    (folder / "config.yaml").write_text(dump(config, folder), encoding="utf-8")
    _draw(folder, summary, posterior, equity, table, arrays)
    manifest = {
        "schema": tables.SCHEMA,
        "name": config.name,
        "seed": config.seed,
        "versions": table["versions"],
        "fingerprints": table["fingerprints"],
        **meta,
        "files": {
            str(path.relative_to(folder).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def write_diagnostics(
    folder: Path, *, summary: Summary, posterior: Posterior, checks: Sequence[Check], config: Config
) -> None:
    """Write what a run that did not converge leaves behind: draws and diagnostics, no equity."""
    summary.save(folder / "summary.parquet")
    to_datatree(posterior).to_netcdf(folder / "posterior.nc", engine="h5netcdf")
    document = {
        "converged": False,
        "checks": [{"name": c.name, "passed": c.passed, "sentence": c.sentence} for c in checks],
        "diagnostics": {
            part.family: dict(part.diagnostics) for part in (posterior.purchases, posterior.spend)
        },
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, default=float) + "\n"
    (folder / "diagnostics.json").write_text(text, encoding="utf-8")
    (folder / "config.yaml").write_text(dump(config, folder), encoding="utf-8")


def render(folder: Path) -> Path:
    """Draw the figures and the page anew from the files of a run.

    Needs neither PyMC nor the transactions.

    Returns
    -------
    Path of ``report.html``.

    Raises
    ------
    InputError
        If the folder does not hold a complete run.
    """
    folder = Path(folder)
    run = load(folder)
    return _draw(folder, run["summary"], run["posterior"], run["equity"], run["table"], run["arrays"])


def load(folder: Path) -> dict[str, Any]:
    """Read a run folder back.

    Returns
    -------
    dict
        ``summary``, ``posterior``, ``equity``, ``table`` (of ``summary.json``), ``arrays`` (of the
        predictive checks, or None), ``config`` and ``manifest`` (plain dicts).

    Raises
    ------
    InputError
        If the folder does not hold a complete run.
    """
    import pyarrow.parquet as pq
    import xarray as xr
    import yaml

    folder = Path(folder)
    needed = (
        "summary.parquet",
        "equity.nc",
        "customers.parquet",
        "summary.json",
        "config.yaml",
        "manifest.json",
    )
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} is not a complete run: {', '.join(missing)} missing; give the folder that 'fit' wrote."
        )
    table = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if table.get("schema") != tables.SCHEMA:
        raise InputError(
            f"{folder / 'summary.json'} has schema {table.get('schema')!r}, this version reads "
            f"{tables.SCHEMA}: run 'fit' again."
        )
    with xr.open_datatree(folder / "equity.nc", engine="h5netcdf") as tree:
        groups = {name: node.to_dataset().load() for name, node in tree.subtree_with_keys if node.has_data}
    parts = {role: groups[f"posterior/{role}"] for role in _ROLES}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return {
        "summary": Summary.load(folder / "summary.parquet"),
        "posterior": Posterior.from_datasets(parts),
        "equity": Equity(
            data=groups["equity"],
            customers=pq.read_table(folder / "customers.parquet"),
            future=groups.get("future"),
            acquisition=groups.get("acquisition"),
        ),
        "table": table,
        "arrays": groups.get("checks"),
        "config": yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")),
        "manifest": manifest,
    }


def to_datatree(posterior: Posterior, equity: Equity | None = None, arrays: Any = None) -> Any:
    """Draws as an xarray DataTree: ``posterior/purchases``, ``posterior/spend``, ``equity``, ``checks``."""
    import xarray as xr

    groups = {f"posterior/{role}": data for role, data in posterior.to_datasets().items()}
    if equity is not None:
        groups["equity"] = equity.data
        parts = {"future": equity.future, "acquisition": equity.acquisition}
        groups |= {name: part for name, part in parts.items() if part is not None}
    if arrays is not None:
        groups["checks"] = arrays
    return xr.DataTree.from_dict(groups)


def _save_draws(path: Path, posterior: Posterior, equity: Equity, arrays: Any) -> None:
    to_datatree(posterior, equity, arrays).to_netcdf(path, engine="h5netcdf")


def _save_customers(path: Path, equity: Equity, table: Mapping[str, Any]) -> None:
    """One row per customer; level, currency and fingerprints in the file's metadata."""
    import pyarrow.parquet as pq

    meta = {
        "schema": tables.SCHEMA,
        "level": next(iter(table["levels"])),
        "currency": table["currency"],
        "time_unit": table["assumptions"]["time_unit"],
        "valuation_date": table["assumptions"]["valuation_date"],
        "fingerprints": table["fingerprints"],
    }
    customers = equity.customers
    kept = {k: v for k, v in (customers.schema.metadata or {}).items() if k != b"clvmodels"}
    customers = customers.replace_schema_metadata(kept | {b"clvmodels": json.dumps(meta).encode()})
    pq.write_table(customers, path, compression="zstd")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Numbers in full (as in JSON), nothing where there is no number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    for row in rows:
        writer.writerow(["" if v is None else str(v).lower() if isinstance(v, bool) else v for v in row])
    path.write_text(buffer.getvalue(), encoding="utf-8")


def _draw(
    folder: Path,
    summary: Summary,
    posterior: Posterior,
    equity: Equity,
    table: Mapping[str, Any],
    arrays: Any,
) -> Path:
    """Figures as SVG and PNG, then the page that holds the SVG."""
    from clvmodels.report import effects, figures

    place = folder / "figures"
    place.mkdir(exist_ok=True)
    drawn: dict[str, tuple[str, str]] = {}
    every = figures.draw_all(summary, posterior, equity, table, arrays) | effects.draw_all(table)
    every |= future.figures(table) | acquisition.figures(table)
    for name, (figure, caption) in every.items():
        text = figures.svg(figure)
        (place / f"{name}.svg").write_text(text, encoding="utf-8")
        (place / f"{name}.png").write_bytes(figures.png(figure))
        drawn[name] = (text, caption)
    path = folder / "report.html"
    path.write_text(page.html(table, drawn), encoding="utf-8")
    return path

"""The commands. Each imports what it needs when it runs, so that ``--help`` answers in a blink."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clvmodels.errors import ClvError, InputError

if TYPE_CHECKING:
    from clvmodels.artifacts import Summary
    from clvmodels.data import Guess
    from clvmodels.models.family import Family

app = typer.Typer(
    help="What a customer base is worth, how sure that is, and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML config.", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Overrides the config's seed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no tables.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Overrides a key of the config, validated like it; repeatable."
    ),
]


def _out(text: str) -> Any:
    return typer.Option("--out", metavar="PATH", help=text, show_default=False)


def _version(wanted: bool) -> None:
    if wanted:
        from clvmodels import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def init(
    transactions: Annotated[
        str, typer.Argument(metavar="TRANSACTIONS", help="A CSV or Parquet log, or a glob.")
    ],
    out: Annotated[Path | None, _out("Config to write (default: the log's name with .yaml).")] = None,
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
        raise InputError(_EXISTS.format(path))
    with _session(quiet, as_json) as progress:
        if progress:
            progress("reading transactions", None)
        found = data.guess(Path(transactions))
    document, comments = _draft(found, path.parent)
    changes = _changes(overrides, seed)
    load(document, changes)
    for change in changes:
        document = override(document, change)
    head = (
        f"# Guessed from {found.source}: {found.rows:,} rows, {found.customers:,} customers, "
        f"{found.first_date} to {found.last_date}.\n"
        "# Look the guesses over and replace what is marked ASSUMPTION, then\n"
        f"#     python -m clvmodels check {path}\n\n"
    )
    _write_new(path, head + "\n".join(_commented(document, comments)))
    if as_json:
        _print_json({"config": str(path), "content": document, "reasons": dict(found.reasons)})
    elif not quiet:
        print(f"config: {path}")


@app.command()
def check(
    config: ConfigFile,
    out: Annotated[Path | None, _out("Parquet file for the summary, one row per customer.")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Validate a config and its data without fitting, and show the data ledger."""
    from clvmodels import run

    with _session(quiet, as_json) as progress:
        summary = run.check(config, out=out, seed=seed, overrides=overrides or (), progress=progress)
    if as_json:
        _print_json(_described(summary))
    elif not quiet:
        _print_ledger(summary)


@app.command()
def fit(
    config: ConfigFile,
    out: Annotated[Path | None, _out("Folder of the run (default: out/name of the config).")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
) -> None:
    """Fit, value and report: from a transaction log to customer equity."""
    from clvmodels.config import load

    settings = load(config, _changes(overrides, seed))
    folder = out or settings.out / settings.name

    from clvmodels import run

    with _session(quiet, as_json) as progress:
        result = run.fit(settings, out=folder, overwrite=overwrite, progress=progress)
    if as_json:
        _print_json({"path": str(folder), **result.summary})
    elif not quiet:
        _print_equity(result.summary)
        print(f"report: {folder / 'report.html'}")


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
    out: Annotated[Path | None, _out("Folder (default: out/name of the config with -bridge).")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
) -> None:
    """Why equity moved between two dates, line by line, and the return on it."""
    from clvmodels.config import load

    settings = load(config, _changes(overrides, seed))
    folder = out or settings.out / f"{settings.name}-bridge"

    from clvmodels import run

    with _session(quiet, as_json) as progress:
        result = run.bridge(
            settings, start, end, basis=basis, coupling=coupling, changes=changes or (),  # type: ignore[arg-type]
            acquisition_cost=acquisition_cost, out=folder, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    if as_json:
        _print_json({"path": str(folder), **result.summary})
    elif not quiet:
        _print_bridge(result.summary)
        print(f"report: {folder / 'bridge.html'}")


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
    out: Annotated[Path | None, _out("Folder of the comparison (default: compared, below runs).")] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")] = False,
) -> None:
    """Compare variants: leave-one-out scores, holdout scores, and the equity that each implies."""
    folder = out
    if folder is None and len(configs) == 1 and not configs[0].is_dir():
        from clvmodels.config import load

        settings = load(configs[0], _changes(overrides, seed))
        folder = settings.out / f"{settings.name}-compared"

    from clvmodels import run

    with _session(quiet, as_json) as progress:
        result = run.compare(
            configs,
            out=folder or Path("runs") / "compared",
            seed=seed,
            overrides=overrides or (),
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        _print_json({"path": str(result.path), **result.summary})
    elif not quiet:
        _print_comparison(result.summary)
        print(f"report: {result.path}/comparison.html")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    out: Annotated[
        Path | None, _out("Copy of the page; with --set or --seed, the folder of the new run.")
    ] = None,
    seed: Seed = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Set = None,
) -> None:
    """Render a run's report again, or value its posterior under other assumptions."""
    from clvmodels import run

    with _session(quiet, as_json) as progress:
        path = run.report(folder, out=out, seed=seed, overrides=overrides or (), progress=progress)
    if as_json:
        _print_json({"report": str(path)})
    elif not quiet:
        print(f"report: {path}")


@app.command()
def families(
    out: Annotated[Path | None, _out("File to write the listing to, as JSON.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", hidden=True)] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    overrides: Annotated[list[str] | None, typer.Option("--set", hidden=True)] = None,
) -> None:
    """List the models with their parameters, default priors and sources."""
    from clvmodels.models import registry

    listing = [_listed(family) for family in registry.families()]
    if out is not None:
        _write_new(out, json.dumps(listing, indent=2, ensure_ascii=False) + "\n")
    if as_json:
        _print_json(listing)
    elif not quiet:
        _print_families(listing)


def main() -> None:
    """Run a command; an error of the user's input is one sentence on stderr and an exit status."""
    try:
        app(prog_name="clvmodels")
    except ClvError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


Progress = Callable[[str, float | None], None]
"""Called with the stage that is under way and how much of it is done, 0 to 1 or None."""


@contextlib.contextmanager
def _session(quiet: bool, as_json: bool) -> Iterator[Progress | None]:
    """Progress on stderr where that is a terminal; stdout kept clean for the JSON document."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        console = Console(stderr=True)
        if quiet or not console.is_terminal:
            yield None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        bars = stack.enter_context(Bars(*columns, console=console))
        tasks: dict[str, Any] = {}

        def show(stage: str, done: float | None = None) -> None:
            if stage not in tasks:
                for task in tasks.values():
                    bars.update(task, total=1.0, completed=1.0)
                tasks[stage] = bars.add_task(stage, total=None)
            if done is not None:
                bars.update(tasks[stage], total=1.0, completed=done)

        yield show
        for task in tasks.values():
            bars.update(task, total=1.0, completed=1.0)


def _changes(overrides: list[str] | None, seed: int | None) -> list[str]:
    return [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])]


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


_EXISTS = "{} exists; name another file with --out, or remove it."


def _print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def _write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(_EXISTS.format(path)) from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None


def _print_table(
    title: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: int = 0
) -> None:
    """A plain table on stdout; the columns from 1 to ``right`` hold numbers."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    for j, name in enumerate(header):
        table.add_column(name, justify="right" if 1 <= j <= right else "left", no_wrap=1 <= j <= right)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _print_equity(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.text import show

    rows = []
    for level, contents in summary["levels"].items():
        key = f"equity.existing.{level}"
        interval = "none"
        if summary["equity"]["existing"][level]["interval_90"] is not None:
            interval = f"{show(summary, f'{key}.interval_90.0')} to {show(summary, f'{key}.interval_90.1')}"
        rows.append((level, show(summary, f"{key}.mean"), interval, contents))
    _print_table(
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


def _print_bridge(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.bridge import summary_lines
    from clvmodels.report.text import show

    _print_table(
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


def _print_comparison(summary: Mapping[str, Any]) -> None:
    from clvmodels.report.comparison import printed

    header, rows = printed(summary)
    _print_table(
        f"Variants for {summary['data']['customers']['value']:,} existing customers at "
        f"{summary['data']['valuation_date']}, {summary['currency']}",
        header,
        rows,
        right=len(header) - 1,
    )
    for sentence in summary["conclusions"]:
        print(f"- {sentence}")


def _print_ledger(summary: Summary) -> None:
    from clvmodels.data.ledger import KEYS
    from clvmodels.report.text import write

    rows = [
        (label, write(summary.ledger[key], "text" if kind == "date" else kind, size=0))
        for key, (label, kind) in KEYS.items()
        if summary.ledger.get(key)
    ]
    _print_table(repr(summary)[len("<Summary ") : -1], ("data ledger", ""), rows, right=1)
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
        _print_table(
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

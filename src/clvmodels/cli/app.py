"""The application, the options that commands share, and what they print with."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from clvmodels.errors import ClvError, DataWarning, InputError

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
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the folder if it exists.")]

EXISTS = "{} exists; name another file with --out, or remove it."

Progress = Callable[[str, float | None], None]
"""Called with the stage that is under way and how much of it is done, 0 to 1 or None."""


def out_option(text: str) -> Any:
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


def main() -> None:
    """Run a command; an error of the user's input is one sentence on stderr and an exit status."""
    try:
        app(prog_name="clvmodels")
    except ClvError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """What the data warn of, as one sentence on stderr."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, DataWarning):
                print(f"warning: {message}", file=sys.stderr)
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


@contextlib.contextmanager
def session(quiet: bool, as_json: bool) -> Iterator[Progress | None]:
    """Progress on stderr where that is a terminal; stdout kept clean for the JSON document."""
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    with contextlib.ExitStack() as stack:
        stack.enter_context(_plain_warnings())
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


def changes_of(overrides: list[str] | None, seed: int | None) -> list[str]:
    return [*(overrides or ()), *([] if seed is None else [f"seed={seed}"])]


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(EXISTS.format(path)) from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None


def print_table(title: str, header: tuple[str, ...], rows: Iterable[tuple[str, ...]], right: int = 0) -> None:
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

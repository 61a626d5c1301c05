"""Where transactions come from: every source becomes one Ibis table with fixed column names.

Files and tables in memory are read by an in-memory DuckDB of our own, which spills to the
temporary folder; an Ibis table stays in its own backend. The columns that the run uses are
renamed here to ``customer``, ``date``, ``amount``, ``margin`` and ``segment_0``, ``segment_1``
and so on, so that no text of the user becomes part of a query elsewhere.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import glob
import gzip
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clvmodels.data.bundled import LOGS, bundled_path
from clvmodels.errors import InputError

if TYPE_CHECKING:
    from clvmodels.config import DataConfig

Choose = Callable[[Sequence[str], str], Mapping[str, str]]
"""From the columns of a table and what messages call it: internal name → the user's."""
ENDINGS = {".csv": "csv", ".tsv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet"}
DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A log opened for reading.

    Attributes
    ----------
    table
        Ibis table with the internal column names, types as they came.
    backend
        The Ibis backend that runs every query of the run.
    names
        Internal column name → the user's.
    label
        What messages call the source.
    currency
        Of a bundled log; None elsewhere.
    parts
        Name and table of each part whose rows have an order, for finding a line; a table is
        made when it is called for.
    first_row
        What the first row is called: 2 where a header is line 1.
    files
        How many files are read.
    owned
        Whether the backend is our own DuckDB, in which tables may be kept.
    """

    table: Any
    backend: Any
    names: Mapping[str, str]
    label: str
    currency: str | None = None
    parts: tuple[tuple[str, Callable[[], Any]], ...] = ()
    first_row: int = 1
    files: int = 0
    owned: bool = True

    def fetch(self, expression: Any) -> Any:
        """Run an expression and return its rows as a pyarrow Table."""
        with self._faults():
            return self.backend.to_pyarrow(expression)

    def keep(self, expression: Any) -> Any:
        """The expression's rows as a temporary table of our own DuckDB; elsewhere unchanged."""
        if not self.owned:
            return expression
        import ibis

        with self._faults():
            return self.backend.create_table(ibis.util.gen_name("clvmodels"), expression, temp=True)

    def drop(self, kept: Any) -> None:
        """Give back the room of a table that :meth:`keep` made."""
        if self.owned:
            self.backend.raw_sql(f'DROP TABLE IF EXISTS "{kept.op().name}"')

    def column(self, internal: str) -> str:
        """How messages name a column."""
        return f"{self.label}: column {self.names[internal]!r}"

    @contextmanager
    def _faults(self) -> Iterator[None]:
        import duckdb
        import ibis

        try:
            yield
        except duckdb.Error as error:
            raise _explain(str(error), self.label) from error
        except ibis.common.exceptions.IbisError as error:
            raise InputError(
                f"{self.label} cannot be summarised by its engine, {self.backend.name} ({error}): pass its "
                "rows as an Arrow table instead."
            ) from error


@contextmanager
def opened(
    config: DataConfig,
    transactions: Any = None,
    margin_column: str | None = None,
    base: Path = Path("."),
    statistics: Sequence[str] = (),
) -> Iterator[Source]:
    """Open the source of a config, or the table that was passed, and close it afterwards.

    Parameters
    ----------
    config
        The ``data`` section.
    transactions
        pandas, Polars or Arrow table, anything with ``__arrow_c_stream__``, or an Ibis table.
    margin_column
        Column of margin ratios, where the run takes the margin from the log.
    base
        Folder to which a relative ``source`` refers.
    statistics
        Columns that the families declare; a table of summaries must have them.

    Raises
    ------
    InputError
        If there is no such file, it cannot be read, or a column is missing.
    """
    import ibis

    choose = partial(_wanted, config, margin_column, tuple(statistics))
    if transactions is not None and config.source is not None:
        raise InputError(
            f"data.source is {config.source!r} and a table of transactions is passed too: leave one out."
        )
    if transactions is None and config.source is None:
        raise InputError("no transactions: set data.source to a file, or pass a table.")
    _refuse_other_kind(config)
    if isinstance(transactions, ibis.Table):
        backend = transactions.get_backend()
        label = "the Ibis table"
        columns = list(transactions.columns)
        wanted = choose(columns, label)
        yield Source(
            table=_renamed(transactions, {name: name for name in columns}, wanted),
            backend=backend,
            names=wanted,
            label=label,
            owned=False,
        )
        return
    with scratch() as backend:
        if transactions is not None:
            yield _from_memory(transactions, backend, choose)
        else:
            assert config.source is not None
            yield _from_files(config, backend, choose, base)


@contextmanager
def scratch() -> Iterator[Any]:
    """An in-memory DuckDB that spills to a temporary folder and never touches the network."""
    import ibis

    with tempfile.TemporaryDirectory(prefix="clvmodels-") as folder:
        backend = ibis.duckdb.connect(
            temp_directory=folder, autoinstall_known_extensions=False, TimeZone="UTC"
        )
        try:
            yield backend
        finally:
            backend.disconnect()


def require(columns: Sequence[str], wanted: Any, label: str) -> None:
    """Raise an InputError that names the nearest column if one is missing."""
    lower = {name.lower().strip(): name for name in columns}
    for name in wanted:
        if name not in columns:
            close = difflib.get_close_matches(name.lower().strip(), lower, n=1)
            hint = f"; did you mean {lower[close[0]]!r}?" if close else "."
            raise InputError(f"{label} has no column {name!r}{hint} Its columns: {_listed(columns)}.")
        if list(columns).count(name) > 1:
            raise InputError(f"{label} has more than one column {name!r}: rename one of them.")


def find_files(source: str, base: Path) -> list[Path]:
    """The files that a path or glob names, in alphabetical order; none of them empty.

    Raises
    ------
    InputError
        If nothing matches, or a file is a folder or empty.
    """
    path = base / source
    if path.exists():
        files = [path]
    else:
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not files:
            what = "no file matches" if glob.has_magic(source) else "there is no file"
            known = f"; bundled data sets are {', '.join(LOGS)}" if len(Path(source).parts) == 1 else ""
            place = "" if Path(source).is_absolute() else f" in {str(base.resolve())!r}"
            raise InputError(f"data.source: {what} {source!r}{place}{known}.")
    for file in files:
        if file.is_dir():
            raise InputError(
                f"{file.name!r} is a folder: name its files, for instance {source + '/*.csv'!r}."
            )
        if file.stat().st_size == 0:
            raise InputError(f"{file.name!r} is empty.")
    return files


def file_format(files: Sequence[Path]) -> str:
    """``csv`` or ``parquet``, by the ending of the files."""
    found = set()
    for file in files:
        suffix = Path(file.stem).suffix if file.suffix.lower() == ".gz" else file.suffix
        if suffix.lower() not in ENDINGS:
            raise InputError(f"{file.name!r}: set data.format to csv or parquet; its ending tells neither.")
        found.add(ENDINGS[suffix.lower()])
    if len(found) > 1:
        raise InputError("data.source names both CSV and Parquet files: name one kind.")
    return found.pop()


def csv_header(file: Path, delimiter: str | None = None) -> tuple[str, list[str]]:
    """Delimiter and column names of a CSV file, from its first record.

    Without a delimiter the one of ``, ; tab |`` that gives the most columns is taken.

    Raises
    ------
    InputError
        If the text is not UTF-8 or has a single column.
    """
    if delimiter is not None and len(delimiter.replace("\\t", "\t")) != 1:
        raise InputError(f"data.delimiter is {delimiter!r}: it must be one character.")
    try:
        with _binary(file) as raw:
            first = raw.readline()
            while first.count(b'"') % 2 and (more := raw.readline()):
                first += more
    except OSError as error:
        raise InputError(f"{file.name!r} cannot be read: {error.strerror or error}.") from error
    try:
        head = first.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _not_utf8(file) from None
    found = {}
    for candidate in DELIMITERS:
        found[candidate] = next(csv.reader(head.splitlines(keepends=True), delimiter=candidate), [])
    best = max(DELIMITERS, key=lambda candidate: len(found[candidate]))
    chosen = best if delimiter is None else delimiter.replace("\\t", "\t")
    names = next(csv.reader(head.splitlines(keepends=True), delimiter=chosen), [])
    if len(names) == 1:
        if delimiter is not None and len(found[best]) > 1:
            fix = f"set data.delimiter to {best!r}"
        elif len(head.split()) > 1:
            fix = "columns set apart by runs of spaces must be separated by commas first"
        else:
            fix = "set data.delimiter to the character between the columns"
        tried = f"delimiter {chosen!r}" if delimiter else "each of the delimiters , ; | and tab"
        raise InputError(f"{file.name!r}: with {tried} a line is a single column, {short(names[0])}: {fix}.")
    if not names:
        raise InputError(f"{file.name!r}: the first line is blank; it must name the columns.")
    return chosen, names


def read_csv(backend: Any, files: Sequence[Path], names: Sequence[str], delimiter: str) -> Any:
    """CSV files of one header as text columns ``c0``, ``c1`` ...; empty fields are null."""
    import duckdb

    try:
        return backend.read_csv(
            [glob.escape(str(file)) for file in files],
            header=True,
            auto_detect=False,
            columns={f"c{i}": "VARCHAR" for i in range(len(names))},
            delim=delimiter,
            quote='"',
            escape='"',
        )
    except duckdb.Error as error:
        raise _explain(str(error), repr(files[0].name)) from error


def read_parquet(backend: Any, files: Sequence[Path]) -> Any:
    """Parquet files as one table, columns matched by name."""
    import duckdb

    try:
        paths = [glob.escape(str(file)) for file in files]
        return backend.read_parquet(paths, union_by_name=True, hive_partitioning=False)
    except duckdb.Error as error:
        raise _explain(str(error), repr(files[0].name)) from error


def _wanted(
    config: DataConfig,
    margin_column: str | None,
    statistics: Sequence[str],
    columns: Sequence[str],
    label: str,
) -> dict[str, str]:
    """Internal name → the user's, for the columns that the run uses; all of them are there."""
    wanted = _columns_of_table(config, columns) if config.kind == "summary" else _columns_of_log(config)
    if len(set(wanted.values())) < len(wanted):
        named = ", ".join(f"{role} {name!r}" for role, name in wanted.items())
        raise InputError(f"data.columns names one column twice: {named}.")
    if margin_column is not None:
        wanted["margin"] = margin_column
    wanted |= {f"segment_{i}": name for i, name in enumerate(config.segments)}
    require(columns, wanted.values(), label)
    if config.kind == "summary":
        for name in statistics:
            if name not in columns:
                raise InputError(
                    f"{label} has no column {name!r}, which this model needs and which a log of "
                    "transactions would give: add the column, or choose another family."
                )
            wanted[name] = name
    return wanted


def _columns_of_log(config: DataConfig) -> dict[str, str]:
    columns = config.columns or LOGS.get(config.source or "")
    if columns is None:
        raise InputError("data.columns is missing: name the columns of customer, date and amount.")
    return {role: getattr(columns, role) for role in ("customer", "date", "amount")}


def _columns_of_table(config: DataConfig, columns: Sequence[str]) -> dict[str, str]:
    """frequency, recency and T; the others where they are named or there under their own names."""
    given = config.columns
    wanted = {role: getattr(given, role, role) for role in ("frequency", "recency", "T")}
    for role in ("monetary_value", "weight", "customer"):
        named = getattr(given, role, None)
        if named or role in columns:
            wanted[role] = named or role
    return wanted


def _refuse_other_kind(config: DataConfig) -> None:
    """A bundled data set is of one kind, and one of summaries counts opportunities of one unit."""
    known = LOGS.get(config.source or "")
    if known is None:
        return
    needs: dict[str, str] = {"kind": known.kind}
    if known.time_unit is not None:
        needs |= {"clock": "discrete", "time_unit": known.time_unit}
    if wrong := [f"data.{key} to {value}" for key, value in needs.items() if getattr(config, key) != value]:
        raise InputError(f"data.source {config.source!r} is {known.title}: set {' and '.join(wrong)}.")


def _renamed(table: Any, places: Mapping[str, str], wanted: Mapping[str, str]) -> Any:
    return table.select(**{internal: table[places[name]] for internal, name in wanted.items()})


def _from_memory(transactions: Any, backend: Any, choose: Choose) -> Source:
    import ibis
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = type(transactions).__module__.partition(".")[0]
    if hasattr(transactions, "collect"):
        transactions = transactions.collect()
    if not hasattr(transactions, "__arrow_c_stream__"):
        raise InputError(
            f"transactions is a {type(transactions).__name__}: pass a pandas, Polars, Arrow or Ibis table."
        )
    label = f"the {kind} table"
    columns = getattr(transactions, "column_names", None)
    columns = getattr(transactions, "columns", None) if columns is None else columns
    try:
        if columns is None:
            transactions = pa.table(transactions)
            columns = transactions.column_names
        wanted = choose([str(name) for name in columns], label)
        used = list(dict.fromkeys(wanted.values()))
        some = transactions[used] if hasattr(transactions, "loc") else transactions.select(used)
        table = pa.table(some)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = str(error.args[0]).splitlines()[0]
        raise InputError(
            f"{label} has a column of mixed types ({reason}): give each column one type."
        ) from error
    if not table.num_rows:
        raise InputError(f"{label} has no rows.")
    table = table.select(used)
    for i, column in enumerate(table.columns):
        if pa.types.is_timestamp(column.type) and column.type.tz:
            table = table.set_column(i, used[i], pc.local_timestamp(column))
        elif pa.types.is_dictionary(column.type):
            table = table.set_column(i, used[i], column.cast(column.type.value_type))
    view = _renamed(ibis.memtable(table), {name: name for name in used}, wanted)
    return Source(table=view, backend=backend, names=wanted, label=label, parts=((label, lambda: view),))


def _from_files(config: DataConfig, backend: Any, choose: Choose, base: Path) -> Source:
    assert config.source is not None
    if config.source in LOGS:
        files, kind = [bundled_path(config.source)], "parquet"
    else:
        files = find_files(config.source, base)
        kind = config.format or file_format(files)
    label = repr(files[0].name) if len(files) == 1 else f"{len(files)} files {config.source!r},"
    currency = LOGS[config.source].currency if config.source in LOGS else None
    if kind == "parquet":
        table = read_parquet(backend, files)
        wanted = choose(table.columns, label)
        table = _renamed(table, {name: name for name in table.columns}, wanted)
        parts = ((label, lambda: table),) if len(files) == 1 else ()
        return Source(
            table=table,
            backend=backend,
            names=wanted,
            label=label,
            currency=currency,
            parts=parts,
            files=len(files),
        )
    headers = {}
    for file in files:
        delimiter, names = csv_header(file, config.delimiter)
        wanted = choose(names, repr(file.name))
        headers[file] = (delimiter, tuple(names))

    def table_of(some: Sequence[Path]) -> Any:
        delimiter, names = headers[some[0]]
        places = {name: f"c{i}" for i, name in enumerate(names)}
        return _renamed(read_csv(backend, some, names, delimiter), places, wanted)

    alike: dict[Any, list[Path]] = {}
    for file, header in headers.items():
        alike.setdefault(header, []).append(file)
    tables = [table_of(some) for some in alike.values()]
    by_file = tuple((file.name, partial(table_of, [file])) for file in files)
    table = tables[0].union(*tables[1:]) if tables[1:] else tables[0]
    return Source(
        table=table, backend=backend, names=wanted, label=label, parts=by_file, first_row=2, files=len(files)
    )


def _binary(file: Path) -> Any:
    return gzip.open(file) if file.suffix.lower() == ".gz" else file.open("rb")


def _not_utf8(file: Path) -> InputError:
    """The error that names the first byte of a file that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position, line = 0, 1
    with _binary(file) as raw:
        while chunk := raw.read(1 << 24):
            try:
                decoder.decode(chunk)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                position += len(chunk) - len(error.object) + error.start
                value = error.object[error.start]
                return InputError(
                    f"{file.name!r} is not UTF-8: byte 0x{value:02x} at position {position:,}, "
                    f"line {line:,}: convert it first, for instance "
                    "`iconv -f WINDOWS-1252 -t UTF-8`, or -f UTF-16."
                )
            line += chunk.count(b"\n")
            position += len(chunk)
    return InputError(f"{file.name!r} is not UTF-8: convert it first, for instance with `iconv -t UTF-8`.")


def _explain(message: str, label: str) -> InputError:
    """DuckDB's message about a source as one sentence."""
    if found := re.search(r"^\s*file = (.+)$", message, re.MULTILINE):
        file = Path(found[1])
        if "Invalid unicode" in message and file.exists():
            return _not_utf8(file)
        label = repr(file.name)
    if "Failed to parse format specifier" in message:
        reason = message.partition("format specifier")[2].strip().splitlines()[0]
        return InputError(f"data.date_format is not a strptime format: {reason}.")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if found := re.search(r"CSV Error on Line: (\d+)", lines[0]):
        reason = next((x for x in lines[1:] if x.startswith(("Expected", "Value", "Maximum"))), lines[-1])
        return InputError(f"{label}, line {int(found[1]):,} does not fit the header: {reason.rstrip('.')}.")
    return InputError(f"{label} cannot be read: {lines[0].rstrip('.')}.")


def _listed(columns: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(map(repr, columns[:most]))
    return shown + (f" and {len(columns) - most} more" if len(columns) > most else "")


def short(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[: most - 1] + "…")

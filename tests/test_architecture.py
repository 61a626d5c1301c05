"""The rules of the repository that import contracts, linter and type checker do not see."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clvmodels.models import registry

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "clvmodels"
HEAVY = [
    "numpy",
    "pandas",
    "scipy",
    "numba",
    "pymc",
    "pytensor",
    "arviz",
    "xarray",
    "ibis",
    "duckdb",
    "pyarrow",
    "matplotlib",
    "pydantic",
    "yaml",
]


def loaded(code: str) -> set[str]:
    """Top-level modules that a fresh process has imported after ``code``."""
    script = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_help_imports_nothing_heavy():
    code = "from clvmodels.cli import main\nimport sys\nsys.argv = ['clvmodels', '--help']\ntry: main()\n"
    found = loaded(code + "except SystemExit as end: assert not end.code\n")
    assert "typer" in found
    assert not found & set(HEAVY)


def test_importing_the_package_imports_nothing_heavy():
    assert not loaded("import clvmodels") & {*HEAVY, "typer", "rich"}


def test_valuing_needs_neither_sampler_nor_engine():
    found = loaded("import clvmodels.value, clvmodels.equity, clvmodels.models.registry as r\nr.families()")
    assert "numba" in found
    assert not found & {"pymc", "pytensor", "nutpie", "ibis", "duckdb"}


def test_fit_is_a_call_and_a_stage():
    code = (
        "import clvmodels as clv, clvmodels.fit as stage\n"
        "from clvmodels import fit\n"
        "assert clv.fit is stage is fit and callable(fit)"
    )
    assert "clvmodels" in loaded(code)


def test_no_file_outside_models_names_a_family():
    names = "|".join(registry.names())
    found = []
    for path in sorted(SOURCE.rglob("*")):
        if (
            path.is_dir()
            or path.suffix in (".pyc", ".nbi", ".nbc", ".parquet", ".gz")
            or "models" in path.parts
        ):
            continue
        text = path.read_text(encoding="utf-8")
        found += [(path.name, name) for name in re.findall(rf"\b({names})\b", text)]
    # The defaults of the config are the exception, once each.
    defaults = [("config.py", "bg_nbd"), ("config.py", "gamma_gamma")]
    assert found == defaults


def tracked() -> list[Path]:
    """Files that are in the repository, or would be with the next commit."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_tracked_files_are_small():
    large = {str(path): path.stat().st_size for path in tracked() if path.stat().st_size > 3_000_000}
    assert not large


def test_what_installs_names_no_address():
    """Where packages come from is the machine's business: no host, no option that leads to one."""
    for name in ("constraints.txt", "pyproject.toml", "Makefile", ".ci/run"):
        assert not re.search(r"://|--[a-z-]*(url|links)", (ROOT / name).read_text(encoding="utf-8")), name
    locks = {path.name for path in tracked() if path.name.endswith((".lock", "lock.json", "lock.yaml"))}
    assert not locks


def test_tracked_text_names_no_place_on_this_machine():
    forbidden = re.compile(r"(?<![\w.~])/(home|root|work|opt|Users|tmp)/\w|\.\./shared")
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if path != Path(__file__):
            found += [(path.name, line) for line in text.splitlines() if forbidden.search(line)]
    assert not found


def test_architecture_lists_every_module():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:src/clvmodels/)?([\w/<>]+\.py)`", text))
    families = {f"models/{name}.py" for name in registry.names()}
    modules = {p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py") if p.name != "__init__.py"}
    modules -= families
    assert modules - named == set(), "modules that ARCHITECTURE.md does not name"
    gone = {
        name
        for name in named
        if "<" not in name and not (SOURCE / name).exists() and not (ROOT / name).exists()
    }
    assert gone == set(), "modules that ARCHITECTURE.md names and that do not exist"


def test_bundled_data_and_templates_are_packaged():
    """The wheel takes the whole package folder; nothing that the package needs may be ignored by git."""
    command = ["git", "-C", str(ROOT), "ls-files", "--others", "--ignored", "--exclude-standard", "-z", "src"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    assert [name for name in done.stdout.split("\0") if name and "__pycache__" not in name] == []


@pytest.mark.parametrize("goal", ["demo", "test"])
def test_an_interpreter_that_is_too_old_is_refused_in_one_sentence(goal, tmp_path):
    command = ["make", "-C", str(ROOT), goal, "PYTHON=false", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    said = done.stderr.splitlines()[0]
    assert said.startswith("clvmodels needs Python 3.12 or newer")
    assert said.endswith(f"make {goal} PYTHON=/path/to/python3.13")
    assert not (tmp_path / "venv").exists()

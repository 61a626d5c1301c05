"""The environment of lifetimes, and what a table must say of machine and versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

from benchmarks import ROOT

PINS = ROOT / "benchmarks" / "lifetimes.txt"
_PACKAGES = ("clvmodels", "numpy", "scipy", "numba", "pymc", "pytensor", "nutpie", "duckdb", "pymc-marketing")


def lifetimes_python(folder: Path = ROOT / "benchmarks" / ".venv-lifetimes") -> str:
    """Interpreter of an environment of its own, made where it is missing; or a sentence why there is none."""
    python, done = folder / "bin" / "python", folder / ".installed"
    if done.exists() and done.read_text() == PINS.read_text():
        return str(python)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    try:
        for command in ([sys.executable, "-m", "venv", str(folder)], [*pip, "--requirement", str(PINS)]):
            subprocess.run(command, check=True, capture_output=True, text=True)
    except (subprocess.CalledProcessError, OSError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        return f"lifetimes could not be installed: {said[-1]}"
    done.write_text(PINS.read_text())
    return str(python)


def machine() -> str:
    """Processor, cores, memory and system, in one line."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()} {platform.release()}"


def versions() -> str:
    """Python and the packages that matter, in one line."""
    found = [f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    pins = dict(line.split("==") for line in PINS.read_text(encoding="utf-8").split())
    return ", ".join([*found, f"lifetimes {pins['lifetimes']} with numpy {pins['numpy']}"])


def revision() -> str:
    """Commit that was measured, with a plus where files differ from it; nothing outside of git."""
    command = ["git", "-C", str(ROOT)]
    done = subprocess.run([*command, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if done.returncode:
        return ""
    state = [*command, "status", "--porcelain", "--untracked-files=no", "--", "src", "benchmarks"]
    changed = subprocess.run(state, capture_output=True, text=True).stdout
    return done.stdout.strip() + ("+" if changed else "")

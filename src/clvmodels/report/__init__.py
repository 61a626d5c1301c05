"""From artefacts to a page, a table and files; knows nothing of PyMC or the warehouse."""

from clvmodels.report import tables
from clvmodels.report.files import load, render, write

__all__ = ["load", "render", "tables", "write"]

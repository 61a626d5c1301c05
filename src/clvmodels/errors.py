"""The two ways a run ends early, and their exit statuses; what it warns of."""

from __future__ import annotations


class ClvError(Exception):
    """Base of the errors that are printed as one sentence, without a traceback."""

    exit_status = 1


class InputError(ClvError):
    """Bad input: what is wrong, where, and what to do. Exit status 2; nothing is written."""

    exit_status = 2


class DataWarning(UserWarning):
    """The data can be used, but may not mean what the config says: one sentence for the user."""


class ConvergenceError(ClvError):
    """The draws did not pass the convergence gate. Exit status 3; no equity is written."""

    exit_status = 3

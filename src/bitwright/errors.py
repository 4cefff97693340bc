"""Every exception that Bitwright raises on purpose, in one tree.

::

    BitwrightError
    ├── InvalidInput (ValueError)      a parameter, a batch or a file that cannot be used
    │   ├── InvalidPolicy              bits out of range, unknown sites
    │   ├── PolicyMismatch             a policy, table or recipe made for another model
    │   ├── InvalidData                empty, NaN, wrong shape, targets outside the classes
    │   └── InvalidJob                 a job file with a wrong key or value
    ├── CaptureError                   torch.export cannot trace the model
    ├── ImpossibleBudget               no policy fits; says what the smallest possible is
    ├── ExportError                    the graph cannot be written for the runtime
    ├── StoreError                     the run store cannot be read or written
    └── MissingExtra (ImportError)     an optional package is not installed

    BitwrightWarning (UserWarning)     something to know, while the work goes on

Each message names the parameter, its value and the way out, on one line.
"""

from __future__ import annotations

import difflib
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path


class BitwrightError(Exception):
    """Root of the tree: catch this to catch everything that Bitwright raises on purpose."""


class BitwrightWarning(UserWarning):
    """Something that a user should know, while the work goes on; the command line prints it as a note."""


class InvalidInput(BitwrightError, ValueError):
    """A parameter, a batch or a file that cannot be used."""


class InvalidPolicy(InvalidInput):
    """Bits out of range, or sites that the graph does not have."""


class PolicyMismatch(InvalidInput):
    """A policy, table or recipe that was made for another model."""


class InvalidData(InvalidInput):
    """Data that is empty, holds NaN, has the wrong shape, or targets outside the classes."""


class InvalidJob(InvalidInput):
    """A job file with an unknown key or an unusable value."""


class CaptureError(BitwrightError):
    """The model cannot be captured as a graph."""


class ImpossibleBudget(BitwrightError):
    """No policy fits the budget under the constraints."""


class ExportError(BitwrightError):
    """The graph cannot be written for the runtime that was asked for."""


class StoreError(BitwrightError):
    """The run store cannot be read or written."""


class MissingExtra(BitwrightError, ImportError):
    """An optional package is not installed.

    Args:
        package: the package that failed to import, e.g. ``"onnxruntime"``.
        extra: Bitwright's extra that brings it, e.g. ``"onnx"``; empty where none does.
        purpose: what it was needed for, e.g. ``"to run exported models"``.
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        way_out = f"'bitwright[{extra}]'" if extra else package
        super().__init__(
            f"the package '{package}' is needed {purpose} and is not installed; install it with: pip install {way_out}"
        )
        self.package = package
        self.extra = extra


def told(error: BaseException) -> str:
    """An error of the user's own code on one line: its kind, its text, and the file and line it came from."""
    lines = str(error).strip().splitlines()
    here = Path(__file__).parent
    frames = [f for f in traceback.extract_tb(error.__traceback__) if here not in Path(f.filename).parents]
    own = [f for f in frames if "importlib" not in f.filename]
    own = [f for f in own if "site-packages" not in f.filename] or own
    where = f" ({own[-1].filename} line {own[-1].lineno})" if own else ""
    if isinstance(error, SyntaxError) and error.filename:
        where = f" ({error.filename} line {error.lineno})"
        lines = [error.msg]
    return f"{type(error).__name__}: {lines[0]}{where}" if lines else f"{type(error).__name__}{where}"


def by_users_code(error: BaseException) -> bool:
    """Whether an error was raised in the user's own code: neither in Bitwright's nor in an installed package's."""
    here = Path(__file__).parent
    installed = {Path(path) for path in sysconfig.get_paths().values()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if here in file.parents:
            return False
        if file.is_file() and "site-packages" not in file.parts and not installed.intersection(file.parents):
            return True
    return False


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something; its kind where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""

"""Models and data by name: ``package.module:factory``, a ``.pt2`` file, or a built-in data set."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.errors import BitwrightError, InvalidInput, nearest, told

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from bitwright.data import DataSets


def load_model(spec: str, weights: Path | None = None, trust: bool = False) -> nn.Module | ExportedProgram:
    """The model that a spec names.

    Args:
        spec: ``package.module:factory`` (a function or class without required arguments that gives a
            ``torch.nn.Module``, or a module itself), importable from the current folder too; or a ``.pt2`` file.
        weights: a file that is loaded into the model, which is then put into evaluation mode.
        trust: read a ``.pt2`` file even where that runs code that it holds.

    Raises:
        InvalidInput: there is no such module, attribute or file, or what it gives is not a model in
            evaluation mode.
    """
    if spec.endswith(".pt2"):
        if weights is not None:
            raise InvalidInput(
                f"weights cannot be loaded into the exported file '{spec}', which holds its own; leave out --weights"
            )
        from bitwright.graph.exported import load_exported

        return load_exported(Path(spec).expanduser(), trust)
    from torch import nn

    made = _make(spec, "model", nn.Module)
    if not isinstance(made, nn.Module):
        raise InvalidInput(f"the model '{spec}' must give a torch.nn.Module, got {type(made).__name__}")
    if weights is not None:
        from bitwright.zoo import load_weights

        return load_weights(made, weights)
    if made.training:
        raise InvalidInput(
            f"the model that '{spec}' gives is in training mode; return model.eval() there, or give its trained "
            "weights with --weights FILE"
        )
    return made


def load_data(spec: str) -> DataSets:
    """The calibration and evaluation data that a spec names.

    Args:
        spec: a built-in (see :mod:`bitwright.data.load`), or ``package.module:factory``: a function without
            required arguments that gives a pair ``(calibration, evaluation)``, or an object with these two.

    Raises:
        InvalidInput: there is no such data, or it is unusable.
    """
    from bitwright import data

    kind, colon, rest = spec.partition("?")[0].partition(":")
    is_factory = colon and kind not in data.DATA and _is_path_of_names(rest) and _is_path_of_names(kind)
    if not is_factory or (nearest(kind, data.DATA) and not _exists(kind)):
        return data.load_data(spec)
    return data.as_data(_make(spec, "data"))


def load_function(spec: str, what: str) -> Any:
    """The function ``package.module:function``, as it is."""
    found = _find(spec, what)
    if isinstance(found, type):
        raise InvalidInput(
            f"the {what} '{spec}' is a class; name a function (outputs, targets), or an object made of the class"
        )
    if not callable(found):
        raise InvalidInput(f"the {what} '{spec}' must be a function (outputs, targets), got {type(found).__name__}")
    return found


def load_task(spec: str) -> Any:
    """The task that a spec names.

    Args:
        spec: a name, with options as in ``"dense?ignore=255"``; or ``package.module:Class``, importable from the
            current folder too: a class of tasks, a task, or a function that gives one.
    """
    from bitwright.tasks import Task, named_task

    if ":" not in spec.partition("?")[0]:
        return named_task(spec, load_function)
    made = _make(spec, "task", Task)
    if not isinstance(made, Task):
        raise InvalidInput(f"the task '{spec}' must give a bitwright.tasks.Task, got {type(made).__name__}")
    return made


def _make(spec: str, what: str, ready: type | tuple[()] = ()) -> Any:
    """Import and call ``package.module:factory``; instances of ``ready`` are taken as they are."""
    found = _find(spec, what)
    if isinstance(found, ready):
        return found
    if not callable(found):
        if what == "data":
            return found
        raise InvalidInput(f"the {what} '{spec}' must be a function or class, got {type(found).__name__}")
    needed = _required_arguments(found)
    if needed:
        raise InvalidInput(
            f"the {what} factory '{spec}' needs arguments ({', '.join(needed)}); write a function without arguments "
            "that calls it"
        )
    try:
        return found()
    except BitwrightError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidInput(f"the {what} factory '{spec}' failed: {told(error)}") from error


def _find(spec: str, what: str) -> Any:
    module_name, colon, attribute = spec.partition(":")
    if not colon or not _is_path_of_names(module_name) or not _is_path_of_names(attribute):
        extra = " or FILE.pt2" if what == "model" else ""
        raise InvalidInput(f"a {what} must have the form package.module:factory{extra}, got '{spec}'")
    module = _import(module_name, spec, what)
    found: Any = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            public = [n for n in dir(found) if not n.startswith("_")]
            raise InvalidInput(f"'{module_name}' has no '{attribute}' (the {what} '{spec}'){nearest(name, public)}")
        found = getattr(found, name)
    return found


def _import(name: str, spec: str, what: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise InvalidInput(f"importing '{name}' (the {what} '{spec}') failed: {told(error)}") from error
        hint = nearest(name, [path.stem for path in Path(here).glob("*.py")])
        raise InvalidInput(
            f"there is no module '{error.name}' (the {what} '{spec}') in '{here}' or on the Python path{hint}"
        ) from None
    except BitwrightError:
        raise
    except (Exception, SystemExit) as error:
        raise InvalidInput(f"importing '{name}' (the {what} '{spec}') failed: {told(error)}") from error


def _required_arguments(factory: Any) -> list[str]:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in free]


def _is_path_of_names(text: str) -> bool:
    return bool(text) and all(part.isidentifier() for part in text.split("."))


def _exists(module: str) -> bool:
    """Whether a top-level module can be found, here or on the Python path."""
    root = module.partition(".")[0]
    here = Path.cwd()
    if (here / f"{root}.py").exists() or (here / root).is_dir():
        return True
    return importlib.util.find_spec(root) is not None

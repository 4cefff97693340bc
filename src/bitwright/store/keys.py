"""Keys by content: the same parts give the same key, in every process and on every machine."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import site
import sys
import types
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath
from typing import Any

from bitwright.errors import BitwrightWarning, InvalidInput
from bitwright.values import Policy


def content_key(**parts: Any) -> str:
    """Return 32 hexadecimal digits that identify ``parts`` by their content.

    The key does not depend on the order of keywords, of mappings or of sets, nor on the process's hash
    seed. A :class:`~bitwright.values.Policy` counts by its bits alone (not its name, nor the order of its
    sites); lists and tuples are the same; ``1`` and ``1.0`` and ``True`` are three different values.

    Args:
        **parts: plain data: None, bool, int, finite float, str, path, enum, list, tuple, set, mapping with
            string keys, dataclass, NumPy scalar. Tensors and arrays are refused: pass their fingerprint. A function
            counts by what it computes with, not by its name (see :class:`_Contents`); where that cannot be known,
            its key holds for this process only, with a warning.

    Raises:
        InvalidInput: a part has no stable content.
    """
    text = json.dumps(_plain(parts, ""), sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | bool | int) and not isinstance(value, Enum):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(f"a key cannot be made of {value!r} at '{where}'; pass a finite number")
        return float(value)
    if isinstance(value, Policy):
        return dict(value.bits)
    if isinstance(value, Enum):
        return _plain(value.value, where)
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        wrong = next((k for k in value if not isinstance(k, str)), None)
        if wrong is not None:
            raise InvalidInput(f"a key can only be made of mappings with string keys, got {wrong!r} at '{where}'")
        return {k: _plain(v, f"{where}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, set | frozenset):
        return sorted((_plain(v, where) for v in value), key=lambda v: json.dumps(v, sort_keys=True))
    if callable(value):
        return _content_of(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if getattr(value, "shape", None) == () and hasattr(value, "item") and hasattr(value, "dtype"):
        return _plain(value.item(), where)
    raise InvalidInput(
        f"a key cannot be made of a {type(value).__name__} at '{where}'; pass plain data, or a fingerprint of it"
    )


class _UnknownContent(Exception):
    """What a function computes with cannot be known."""


_own: dict[int, tuple[Any, str]] = {}
"""Functions whose content cannot be known, kept alive so that their number stays theirs, and a name for each."""


def _content_of(function: Callable[..., Any]) -> Any:
    try:
        return _Contents().of(function)
    except (_UnknownContent, RecursionError, ValueError) as reason:  # an empty cell of a closure is a ValueError
        if id(function) not in _own:
            _own[id(function)] = (function, uuid.uuid4().hex)
            name = getattr(function, "__qualname__", type(function).__qualname__)
            warnings.warn(
                f"measurements with '{name}' are not used again in later runs, since {reason}",
                BitwrightWarning,
                stacklevel=2,
            )
        return {"this process": _own[id(function)][1]}


class _Contents:
    """What functions compute with, as plain data.

    A function is its byte code and constants, defaults, closure, and everything global that its names stand for, each
    by content again. What belongs to Python or to an installed package is that package's name and version. Names are
    resolved statically: what is looked up by a computed name is not seen.
    """

    def __init__(self) -> None:
        self._within: list[int] = []
        self._known: dict[int, tuple[Any, str]] = {}

    def of(self, value: Any) -> Any:
        """The content of a value, as plain data."""
        if value is None or isinstance(value, str | bool | int) and not isinstance(value, Enum):
            return value
        if isinstance(value, float | complex | bytes) or value is Ellipsis:
            return repr(value)
        if id(value) in self._known:
            return self._known[id(value)][1]
        if id(value) in self._within:  # a function that calls itself
            return {"within": self._within.index(id(value))}
        self._within.append(id(value))
        content: Any = {type(value).__qualname__: self._parts(value)}
        self._within.pop()
        if isinstance(value, types.FunctionType | type):  # met often; kept alive, so that its id stays
            content = hashlib.sha256(json.dumps(content).encode()).hexdigest()
            self._known[id(value)] = (value, content)
        return content

    def _all(self, values: Iterable[Any]) -> list[Any]:
        return [self.of(value) for value in values]

    def _parts(self, value: Any) -> Any:
        if isinstance(value, types.CodeType):
            return [value.co_code.hex(), value.co_names, value.co_varnames, self._all(value.co_consts)]
        if isinstance(value, types.ModuleType):
            return _package(value.__name__) or value.__name__
        if isinstance(value, types.MethodType):
            return self._all([value.__func__, value.__self__])
        if isinstance(value, functools.partial):
            return self._all([value.func, value.args, value.keywords])
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return self._all([value.fget, value.fset, value.fdel])
        name = getattr(value, "__qualname__", None)
        package = _package(getattr(value, "__module__", None))
        if isinstance(name, str) and package is not None and "<" not in name:
            return [package, name]
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or ()]
            found = dict(_globals(value.__code__, value.__globals__))
            return self._all([value.__code__, value.__defaults__, value.__kwdefaults__, cells, found])
        if isinstance(value, types.BuiltinFunctionType):
            return [name, self.of(value.__self__)]
        if isinstance(value, type):
            members = {k: v for k, v in vars(value).items() if k not in _NOT_COMPUTED and not _is_slot(v)}
            return self._all([value.__bases__, members])
        return self._state(value)

    def _state(self, value: Any) -> Any:
        """The content of an object that is neither a function nor a class."""
        if isinstance(value, Mapping):
            return [self._all(pair) for pair in value.items()]
        if isinstance(value, list | tuple):
            return self._all(value)
        if isinstance(value, set | frozenset):
            return sorted(json.dumps(part) for part in self._all(value))
        if isinstance(value, Enum):
            return [type(value).__qualname__, self.of(value.value)]
        if isinstance(value, PurePath):
            return value.as_posix()
        if hasattr(value, "detach") and hasattr(value, "tolist"):  # a tensor
            return [str(value.dtype), list(value.shape), _digest(value.detach().cpu().tolist())]
        if hasattr(value, "tobytes") and hasattr(value, "dtype"):
            return [str(value.dtype), list(value.shape), _digest(value.tolist())]
        if type(value).__module__ == "torch":  # data types, devices, layouts
            return str(value)
        state = getattr(value, "__dict__", None)
        if not isinstance(state, dict):
            raise _UnknownContent(f"what a {type(value).__qualname__} holds cannot be known")
        return self._all([type(value), state])


_NOT_COMPUTED = frozenset(
    [
        *("__doc__", "__module__", "__firstlineno__", "__static_attributes__", "__annotations__", "__match_args__"),
        *("__annotate_func__", "__dataclass_fields__", "__dataclass_params__", "_abc_impl", "__parameters__"),
    ]
)
"""Attributes of classes that no result depends on."""


def _is_slot(value: Any) -> bool:
    return isinstance(value, types.GetSetDescriptorType | types.MemberDescriptorType)


def _digest(values: Any) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()


def _package(module: str | None) -> str | None:
    """Name and version of the installed package that a module belongs to; None for modules of the user's own."""
    root = (module or "__main__").partition(".")[0]
    if root == "__main__":
        return None
    if root == "builtins" or root in sys.stdlib_module_names:
        return f"{module} {sys.version}"
    file = getattr(sys.modules.get(root), "__file__", None)
    if file is None or not any(Path(file).is_relative_to(folder) for folder in _installed()):
        return None
    return f"{module} {getattr(sys.modules[root], '__version__', '')}"


@functools.cache
def _installed() -> tuple[Path, ...]:
    """Folders of installed packages; and Bitwright's own, whose version is part of the keys of every run."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])]
    return tuple(Path(folder) for folder in folders)


def _globals(code: types.CodeType, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the names in a function stand for, with what it takes from modules of the user's own."""
    for name in code.co_names:
        value = known.get(name)
        if isinstance(value, types.ModuleType) and _package(value.__name__) is None:
            inside = vars(value)
            yield from ((f"{name}.{inner}", inside[inner]) for inner in code.co_names if inner in inside)
        elif name in known:
            yield name, value
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant, known)

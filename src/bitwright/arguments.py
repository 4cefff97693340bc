"""Arguments of public functions, checked against their annotations before anything runs."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from bitwright.errors import InvalidInput, nearest

P = ParamSpec("P")
R = TypeVar("R")

WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    Path: "a path",
    type(None): "None",
    Callable: "a function",
    Iterable: "a list",
    Sequence: "a list",
    tuple: "a list",
    list: "a list",
    Mapping: "a dictionary",
    dict: "a dictionary",
}
_NUMBERS = {int: numbers.Integral, float: numbers.Real}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A function that refuses arguments of other kinds than its annotations say, in one line.

    Lists are looked into, iterators are not. A class can say how one gets an object of it (``made_by``), which the
    line then repeats.

    Raises:
        InvalidInput: when the function is called with such arguments, with too many or with too few.
    """
    signature = inspect.signature(function)

    @functools.cache
    def kinds() -> dict[str, Any]:
        return get_type_hints(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise InvalidInput(f"{function.__name__}: {error}{_way_out(signature, args, kwargs)}") from None
        for name, value in given.items():
            kind = kinds()[name]
            if signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD and not is_a(value, kind):
                free = {n: other for n, other in kinds().items() if n not in ("return", *given)}
                others = [n for n, other in free.items() if _is_made_for(other, value)]
                raise InvalidInput(f"{name} must be {told(kind)}, got {_shown(value)}{_hint(kind, others)}")
            if name == "seed" and isinstance(value, int) and value < 0:
                raise InvalidInput(f"seed must be at least 0, got {value}")
            _check_call(name, value, kind)
        with _unchanged():
            return function(*args, **kwargs)

    return call


@contextmanager
def _unchanged() -> Iterator[None]:
    """A block after which filters of warnings and environment are as before, whatever was imported in it."""
    filters, environment = list(warnings.filters), dict(os.environ)
    try:
        yield
    finally:
        if list(warnings.filters) != filters:
            warnings.resetwarnings()
            warnings.filters[:] = filters  # type: ignore[index]
        for name in set(os.environ) - set(environment):
            os.environ.pop(name, None)
        os.environ.update((n, value) for n, value in environment.items() if os.environ.get(n) != value)


def _check_call(name: str, value: Any, kind: Any) -> None:
    """Refuse a function that cannot be called with as many arguments as its annotation says."""
    wanted = [get_args(one) for one in _members(kind) if get_origin(one) is Callable]
    if not wanted or not callable(value) or isinstance(value, type):
        return
    counts = [len(parts[0]) for parts in wanted if parts and isinstance(parts[0], list)]
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return
    for count in counts:
        with suppress(TypeError):
            signature.bind(*[None] * count)
            return
    if counts:
        raise InvalidInput(
            f"{name} must be a function that takes {counts[0]} argument{'' if counts[0] == 1 else 's'}, got one with "
            f"the parameters {signature}"
        )


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation says; whatever cannot be told counts as such."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return any(is_a(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in _NUMBERS:
        return isinstance(value, _NUMBERS[origin])
    if origin is Any or not isinstance(origin, type) or (_is_protocol(origin) and not _is_protocol(origin, "runtime_")):
        return True
    lists = origin in (Iterable, Sequence, tuple, list)
    if not isinstance(value, (list, tuple) if origin in (list, tuple) else origin) or (
        lists and isinstance(value, str)
    ):
        return False
    if isinstance(value, Mapping) and len(inner) == 2:
        return all(is_a(key, inner[0]) and is_a(entry, inner[1]) for key, entry in value.items())
    if not (lists and inner and isinstance(value, Sized)):
        return True
    entries: Iterable[Any] = value  # type: ignore[assignment]
    return all(is_a(entry, inner[0]) for entry in entries)


def _is_protocol(kind: Any, which: str = "") -> bool:
    return bool(getattr(kind, f"_is_{which}protocol", False))


def _members(kind: Any) -> tuple[Any, ...]:
    """The parts of a union, or the one kind."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def told(kind: Any) -> str:
    """An annotation in words."""
    words = []
    for member in _members(kind):
        origin = get_origin(member) or member
        if origin is Literal:
            words += [repr(value) for value in get_args(member)]
        elif not _is_protocol(origin):
            words.append(WORDS.get(origin) or _one(origin))
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return f"the text '{value[:40]}'"
    if value is None or isinstance(value, (bool, numbers.Number)):
        return str(value)
    if isinstance(value, (list, tuple)):
        inside = sorted({type(entry).__name__ for entry in value})
        return f"a {type(value).__name__} of {', '.join(inside)}" if inside else f"an empty {type(value).__name__}"
    return f"the class {value.__name__}" if isinstance(value, type) else _one(type(value))


def _one(kind: type) -> str:
    """``"a Module"``, ``"an ExportedProgram"``."""
    return f"{'an' if kind.__name__[0] in 'AEIOUaeiou' else 'a'} {kind.__name__}"


def _hint(kind: Any, others: list[str]) -> str:
    if len(others) == 1:
        return f"; to give {others[0]}, write {others[0]}=..."
    made = [member.made_by for member in _members(kind) if isinstance(getattr(member, "made_by", None), str)]
    return f"; {made[0]} makes one" if made else ""


def _is_made_for(kind: Any, value: Any) -> bool:
    """Whether an annotation names a class of Bitwright or torch that a value is an object of."""
    plain = (*WORDS, object, Any)
    return isinstance(value, tuple(one for one in _members(kind) if isinstance(one, type) and one not in plain))


def _way_out(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """What can be given, after what could not."""
    unknown = [name for name in kwargs if name not in signature.parameters]
    if unknown:
        return nearest(unknown[0], signature.parameters) or f"; it takes {', '.join(signature.parameters)}"
    by_name = [n for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]
    return f"; by name it takes {', '.join(f'{n}=' for n in by_name)}" if by_name and args else ""

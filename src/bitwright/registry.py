"""Descriptors by name: what Bitwright brings, what other packages bring by entry points, and what a program adds.

A capability of a kind (a repair, a sensitivity method, a cost, ...) is one object that says what it does, needs and
costs and holds the function, registered beside its code::

    REPAIRS = Registry[Repair]("repair", "bitwright.repair")
    REPAIRS.register(Repair(name="shrink", does="Ranges lose a tenth.", ..., function=shrink))

Every list of names, on the command line or elsewhere, is read from its registry. A package of its own brings an
object by an entry point in the group ``bitwright.<kind>s``, in its ``pyproject.toml``::

    [project.entry-points."bitwright.repairs"]
    shrink = "my_package:SHRINK"

Nothing is imported before a name is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar

from bitwright.errors import BitwrightWarning, InvalidInput, nearest

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "cost": "bitwright.cost.model:COSTS",
        "data": "bitwright.data.source:DATA",
        "indicator": "bitwright.behavior.indicators:INDICATORS",
        "method": "bitwright.sensitivity.method:METHODS",
        "quantizer": "bitwright.graph.pt2e:PLACEMENTS",
        "repair": "bitwright.repair.descriptor:REPAIRS",
        "runtime": "bitwright.runtimes.runtime:RUNTIMES",
        "shift": "bitwright.behavior.shift:SHIFTS",
        "strategy": "bitwright.train.strategy:STRATEGIES",
        "task": "bitwright.tasks.base:TASKS",
    }
)
"""Setting -> where the registry is that says what it may be called; imported when it is first asked for."""


def registry_of(setting: str) -> Registry[Any]:
    """The registry behind a setting, one of :data:`KINDS`."""
    module, _, name = KINDS[setting].partition(":")
    found: Registry[Any] = getattr(importlib.import_module(module), name)
    return found


class PluginWarning(BitwrightWarning):
    """An entry point of another package cannot be used; everything else goes on without it."""


class Described(Protocol):
    """What can be registered: anything with a name and a sentence, a class as well as an object."""

    @property
    def name(self) -> str:
        """What users write."""

    @property
    def does(self) -> str:
        """What it does, in one sentence."""


D = TypeVar("D", bound=Described)


@dataclass(frozen=True, kw_only=True, eq=False)
class Descriptor:
    """A function with a name, and with what a user should know of it.

    Attributes:
        name: what users write.
        does: what it does, in one sentence.
        called: its name in a sentence, e.g. ``"bias correction"``, where that is not its ``name``.
        needs: what must be there.
        changes: what it changes, and what it leaves as it is.
        costs: its price, in float passes over the data where it is worth a figure.
        function: does it.
        given: parameters of the function that the program passes; the others are the user's options.
        order: where it stands in lists, smaller numbers first, then by name.
    """

    name: str
    does: str
    called: str = ""
    needs: str = "nothing"
    changes: str = "nothing"
    costs: str = "next to nothing"
    function: Callable[..., Any]
    given: tuple[str, ...] = ()
    order: int = 100

    def __post_init__(self) -> None:
        object.__setattr__(self, "called", self.called or self.name)

    @property
    def options(self) -> dict[str, Any]:
        """Name -> default of each option of the function."""
        return options_of(self.function, self.given)

    def check_options(self, kind: str, options: Iterable[str]) -> None:
        """Raise :class:`InvalidInput` for an option that the function does not have."""
        check_options(f"{kind} '{self.name}'", self.options, options)


def options_of(function: Callable[..., Any], given: Iterable[str]) -> dict[str, Any]:
    """Name -> default of each parameter of a function but those that are given, and free ones."""
    parameters = inspect.signature(function).parameters.values()
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {p.name: p.default for p in parameters if p.name not in given and p.kind not in free}


def parsed(text: str, load: Callable[[str, str], Any] | None = None) -> tuple[str, dict[str, Any]]:
    """A name and its options: ``"dense?ignore=255"`` is ``("dense", {"ignore": 255})``.

    Args:
        text: of the user.
        load: (``"module:function"``, name of the option) -> what it names.

    Raises:
        InvalidInput: an option without a value, or given twice.
    """
    name, options = split_options(text)
    return name, {key: load(value, key) if load and ":" in value else _plain(value) for key, value in options.items()}


def split_options(text: str) -> tuple[str, dict[str, str]]:
    """``"cifar10:DIR?limit=512"`` as ``("cifar10:DIR", {"limit": "512"})``; errors as for :func:`parsed`."""
    name, _, query = text.strip().partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if query else ():
        key, _, value = part.partition("=")
        if not value:
            raise InvalidInput(f"option '{key}' in '{text}' needs a value: {key}=VALUE")
        if key in options:
            raise InvalidInput(f"option '{key}' is given twice in '{text}'")
        options[key] = value
    return name, options


def _plain(value: str) -> Any:
    """``"255"``, ``"0.3"`` and ``"false"`` as what they are; the rest as text."""
    if value in ("true", "false"):
        return value == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


def check_options(owner: str, known: Mapping[str, Any], options: Iterable[str]) -> None:
    """Raise :class:`InvalidInput` for an option that is not known; ``owner`` is e.g. ``"repair 'cle'"``."""
    for option in options:
        if option not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise InvalidInput(f"{owner} has no option '{option}'{nearest(option, known)} ({has})")


class Registry(Mapping[str, D], Generic[D]):
    """Descriptors of one kind by name, those with a smaller ``order`` first.

    Args:
        kind: the noun for messages, e.g. ``"repair"``.
        room: the package whose modules register Bitwright's own when they are imported.
        group: of the entry points; None for ``bitwright.<kind>s``, with underscores for blanks.
        hint: what else a user can pass in place of a name, e.g. ``"or a PT2E Quantizer object"``.
    """

    def __init__(self, kind: str, room: str, *, group: str | None = None, hint: str = "") -> None:
        self.kind, self.room, self.hint = kind, room, hint
        self.group = group or f"bitwright.{kind.replace(' ', '_')}s"
        self._known: dict[str, D] = {}
        self._fixed: set[str] = set()  # names of Bitwright and of packages, which a program cannot take
        self._lock = threading.RLock()
        self._loaded = False
        self._loading = False

    def register(self, descriptor: D) -> D:
        """Add a descriptor, which is given back, so that this can decorate a class.

        A program can register a name of its own again; the names of Bitwright and of packages are theirs.

        Raises:
            InvalidInput: the name is unusable or taken.
        """
        name = descriptor.name
        if not isinstance(name, str) or not name or name != name.strip() or any(c in name for c in ",:=?"):
            raise InvalidInput(
                f"a {self.kind}'s name must be text without blanks around it and without ',:=?', got {name!r}"
            )
        caller = str(sys._getframe(1).f_globals.get("__name__", ""))
        if not self._loading and caller.partition(".")[0] != __name__.partition(".")[0]:
            self._load()
        if name in self._fixed or (self._loading and self._known.get(name, descriptor) is not descriptor):
            raise InvalidInput(f"the name '{name}' is taken by another {self.kind}; register yours under another one")
        self._known[name] = descriptor
        return descriptor

    def remove(self, name: str) -> None:
        """Take out a descriptor that the program has registered.

        Raises:
            InvalidInput: there is none, or it is of Bitwright or of a package.
        """
        if self[name].name in self._fixed:
            raise InvalidInput(f"the {self.kind} '{name}' was not registered by this program, so it cannot be removed")
        del self._known[name]

    def __getitem__(self, name: str) -> D:
        """The descriptor of a name.

        Raises:
            InvalidInput: there is none; the message lists the names and suggests the nearest.
        """
        self._load()
        if name not in self._known:
            hint = f" {self.hint}" if self.hint else ""
            raise InvalidInput(
                f"{self.kind} must be one of {', '.join(self)}{hint}, got '{name}'{nearest(str(name), self)}"
            )
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._known

    def get(self, name: str, default: Any = None) -> Any:
        """The descriptor of a name, or the default."""
        self._load()
        return self._known.get(name, default)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._known, key=lambda name: (getattr(self._known[name], "order", 100), name)))

    def __len__(self) -> int:
        self._load()
        return len(self._known)

    def _load(self) -> None:
        """Import the room, then what other packages bring, once."""
        if self._loaded:
            return
        with self._lock:
            if self._loaded or self._loading:
                return
            self._loading = True
            try:
                package = importlib.import_module(self.room)
                for module in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{self.room}."):
                    importlib.import_module(module.name)
                for entry in sorted(entry_points(group=self.group), key=lambda e: e.name):
                    self._add(entry)
                self._fixed.update(self._known)
                self._loaded = True
            finally:
                self._loading = False

    def _add(self, entry: EntryPoint) -> None:
        try:
            found = entry.load()
            for what in ("name", "does"):
                if not isinstance(getattr(found, what, None), str):
                    raise InvalidInput(f"'{entry.value}' has no {what}, so it is not a {self.kind}")
            self.register(found)
        except Exception as error:
            package = f"the package '{entry.dist.name}'" if entry.dist is not None else "an installed package"
            told = str(error).strip().splitlines()
            reason = told[0] if isinstance(error, InvalidInput) else ": ".join([type(error).__name__, *told[:1]])
            warnings.warn(
                f"the {self.kind} '{entry.name}' of {package} (entry point '{entry.value}') cannot be used: {reason}",
                PluginWarning,
                stacklevel=2,
            )

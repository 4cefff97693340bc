"""Recipes: bits, repairs and ranges, in the order in which they are applied; one file that can be read and kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import reprlib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Interval

from bitwright.errors import InvalidInput, nearest
from bitwright.files import read_bounded, write_atomically
from bitwright.settings import DEFAULTS, RANGES
from bitwright.values.fitted import MOST_BYTES as MOST_FITTED
from bitwright.values.fitted import Fitted
from bitwright.values.front import Finite
from bitwright.values.json import As, Value, lines, parsed
from bitwright.values.policy import MAX_BITS, MIN_BITS, Policy
from bitwright.values.site import SiteKind

ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "repair": "a repair on the whole network; options: name, and the repair's own",
        "ranges": "how ranges are set; options: method, percentile, kind (weight, activation), site",
        "limits": "the range of one activation; options: site, low, high",
        "bits": "another width at one site; options: site, bits (null: float)",
        "training": "quantization-aware training; what it learned is in the fitted values; options: its settings",
    }
)
"""What a recipe can do, with the options of each."""


@dataclass(frozen=True)
class _Ranges(Value):
    method: Literal[RANGES]  # type: ignore[valid-type]
    percentile: Annotated[float, Interval(gt=0, le=100)] | None = None
    kind: SiteKind | None = None
    site: str | None = None


@dataclass(frozen=True)
class _Limits(Value):
    site: str
    low: Finite
    high: Finite

    def __post_init__(self) -> None:
        if self.low >= self.high:
            raise InvalidInput(f"limits need low < high, got {self.low} and {self.high} for site '{self.site}'")


@dataclass(frozen=True)
class _Bits(Value):
    site: str
    bits: Annotated[int, Interval(ge=MIN_BITS, le=MAX_BITS)] | None


_OPTIONS: Mapping[str, type[Value]] = MappingProxyType({"ranges": _Ranges, "limits": _Limits, "bits": _Bits})
"""The options of the actions that have a fixed set of them."""


@dataclass(frozen=True)
class Action(Value):
    """One line of a recipe.

    Attributes:
        kind: one of :data:`ACTIONS`.
        options: plain data.

    Raises:
        InvalidInput: an unknown kind, or options that it does not have.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in ACTIONS:
            hint = nearest(str(self.kind), ACTIONS)
            raise InvalidInput(f"a recipe's action must be one of {', '.join(ACTIONS)}, got '{self.kind}'{hint}")
        try:
            options = dict[str, Any](self.options)
        except (TypeError, ValueError):
            raise InvalidInput(f"options must map names to values, got {self.options!r}") from None
        if self.kind in _OPTIONS:
            _OPTIONS[self.kind].from_dict(options, f"the recipe's action '{self.kind}'")
        object.__setattr__(self, "options", MappingProxyType(options))

    def _written(self) -> dict[str, Any]:
        return {"action": self.kind, **self.options}

    @classmethod
    def _read(cls, data: dict[str, Any]) -> dict[str, Any]:
        if "action" not in data:
            raise InvalidInput(f"a line of a recipe needs an 'action', one of {', '.join(ACTIONS)}")
        return {"kind": data.pop("action"), "options": data}

    def __hash__(self) -> int:
        return hash((self.kind, json.dumps(dict(self.options), sort_keys=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.kind, dict(self.options)))

    def __str__(self) -> str:
        options = dict(self.options)
        if self.kind == "repair":
            name = options.pop("name", "")
            return f"repair {name}{_listed(options)}"
        if self.kind == "training":
            return f"training{_listed(options)}"
        if self.kind == "limits":
            return f"range of {options['site']}: {options['low']:.4g} to {options['high']:.4g}"
        if self.kind == "bits":
            return f"{options['site']} at {'float' if options['bits'] is None else options['bits']} bits"
        kind = options.get("kind")
        where = options.get("site") or (f"every {kind}" if kind else "all")
        percentile = f" {options['percentile']:g}" if options.get("percentile") else ""
        return f"ranges of {where} by {options['method']}{percentile}"


def _listed(options: Mapping[str, Any]) -> str:
    return f" ({', '.join(f'{k}={v}' for k, v in options.items())})" if options else ""


@dataclass(frozen=True)
class Recipe(Value, kind="recipe"):
    """How a float network becomes a good quantized one.

    Attributes:
        target: the bits that were asked for.
        ranges: how every range is set before anything else is done.
        actions: repairs, ranges and bits, in their order.
        name: a word for tables.
        fitted: what all this came to, so that it need not be fitted again; None where that is not known. Recipes are
            equal whether or not they have it, and it goes when anything else is changed.
    """

    made_by: ClassVar[str] = "bw.Recipe(policy)"
    target: Policy
    ranges: str = DEFAULTS.ranges
    actions: tuple[Action, ...] = ()
    name: str = ""
    fitted: Annotated[Fitted | None, As(lambda fitted: fitted)] = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.target, Policy):
            raise InvalidInput(f"target must be a Policy, got {reprlib.repr(self.target)}; {Policy.made_by} makes one")
        if self.ranges not in RANGES:
            raise InvalidInput(f"ranges must be one of {', '.join(RANGES)}, got {reprlib.repr(self.ranges)}")
        if self.fitted is not None and self.fitted.recipe != self.digest:
            object.__setattr__(self, "fitted", None)

    @property
    def digest(self) -> str:
        """Identifies target, ranges and actions, 16 hexadecimal digits."""
        data = {key: value for key, value in self.to_dict().items() if key != "name"}
        data["target"] = data["target"]["bits"]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def with_fitted(self, fitted: Fitted | None) -> Recipe:
        """The same recipe with what it came to; None to have it fitted again when it is applied."""
        return replace(self, fitted=fitted)

    @property
    def policy(self) -> Policy:
        """The bits of the finished network: the target with the recipe's exceptions."""
        changes = {a.options["site"]: a.options["bits"] for a in self.actions if a.kind == "bits"}
        return self.target.replaced(changes, self.target.name + "+" if changes else self.target.name)

    def then(self, kind: str, /, **options: Any) -> Recipe:
        """The same recipe with one more action at its end; one of the same kind at the same site goes."""
        kept, site = self.actions, options.get("site")
        if site is not None:
            kept = tuple(a for a in kept if a.kind != kind or a.options.get("site") != site)
        return Recipe(self.target, self.ranges, (*kept, Action(kind, options)), self.name)

    def without(self, repairs: Collection[str]) -> Recipe:
        """The recipe without the repairs of these names; itself where it has none of them."""
        kept = tuple(a for a in self.actions if a.kind != "repair" or a.options.get("name") not in repairs)
        return self if kept == self.actions else Recipe(self.target, self.ranges, kept, self.name)

    def aimed_at(self, target: Policy) -> Recipe:
        """The same actions for another target."""
        return Recipe(target, self.ranges, self.actions, self.name)

    @property
    def repairs(self) -> tuple[str, ...]:
        """Names of its repairs, in their order."""
        return tuple(str(a.options.get("name")) for a in self.actions if a.kind == "repair")

    def repaired(self, name: str) -> bool:
        """Whether a repair is in it."""
        return any(a.kind == "repair" and a.options.get("name") == name for a in self.actions)

    def _written(self) -> dict[str, Any]:
        target = {"name": self.target.name, "bits": self.target.bits}
        head = {"name": self.name, "graph": self.target.graph_hash, "ranges": self.ranges}
        return {**head, "actions": self.actions, "target": target}

    @classmethod
    def _read(cls, data: dict[str, Any]) -> dict[str, Any]:
        graph = data.pop("graph", "")
        data.pop("fitted", None)  # names a file, see :meth:`load`
        if isinstance(data.get("target"), Mapping):
            data["target"] = {**data["target"], "graph": graph}
        return data

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file, with what was fitted from the file beside it that it names.

        Where that file is missing, or the recipe was edited after it was fitted, a warning says that applying the
        recipe will fit again.

        Raises:
            InvalidInput: a file that cannot be read, no recipe, or fitted values that are damaged.
            InvalidPolicy: bits out of range.
        """
        path = Path(path)
        source = f"the recipe file '{path}'"
        text = cls._text(path)
        data = parsed(text, source)
        recipe = cls.from_dict(data, source)
        if data.get("fitted") is None:
            return recipe
        beside, checksum = _named(data["fitted"], path)
        again = "applying it fits its repairs again, which takes as long as the first time and may give other figures"
        try:
            content = read_bounded(beside, MOST_FITTED)
        except FileNotFoundError:
            warnings.warn(f"{source} names '{beside.name}', which is not beside it: {again}", stacklevel=2)
            return recipe
        except OSError as error:
            raise InvalidInput(f"cannot read '{beside}', which {source} names: {error.strerror or error}") from None
        if hashlib.sha256(content).hexdigest() != checksum:
            raise InvalidInput(
                f"'{beside}' is damaged, or not the file that {source} was saved with (its SHA-256 differs); "
                "put the right file back, or delete it to have the repairs fitted again"
            )
        recipe = recipe.with_fitted(Fitted.from_bytes(content, f"'{beside}'"))
        if recipe.fitted is None:
            warnings.warn(f"{source} was edited after it was fitted: {again}", stacklevel=2)
        return recipe

    def save(self, path: str | Path) -> Path | None:
        """Write the recipe as readable JSON, and what was fitted to an ``.npz`` file beside it that the JSON names.

        Each file is there whole or not at all. The second one is named by its content, so a reader finds the old pair
        or the new one; the one that a recipe overwritten here has named goes.

        Returns:
            The path of the second file, None where nothing is known to be fitted.

        Raises:
            StoreError: the disk is full, or the folder cannot be written.
        """
        path, beside, reference = Path(path), None, None
        if self.fitted is not None:
            content = self.fitted.to_bytes()
            beside = path.with_name(f"{path.stem}-{self.fitted.checksum[:8]}.npz")
            write_atomically(beside, content)
            reference = {"file": beside.name, "sha256": hashlib.sha256(content).hexdigest()}
        before = _named_before(path)
        named = {} if reference is None else {"fitted": reference}
        write_atomically(path, lines({**self.to_dict(), **named}) + "\n")
        if before is not None and before != beside:
            with contextlib.suppress(OSError):
                before.unlink(missing_ok=True)
        return beside


def _named(entry: Any, path: Path) -> tuple[Path, str]:
    """The file beside a recipe that its entry 'fitted' names, and its checksum."""
    name = entry.get("file") if isinstance(entry, Mapping) else None
    checksum = entry.get("sha256") if isinstance(entry, Mapping) else None
    if (
        not isinstance(name, str)
        or not isinstance(checksum, str)
        or not name
        or Path(name).name != name
        or "\0" in name
    ):
        raise InvalidInput(
            f"'fitted' in the recipe file '{path}' must hold 'file', the name of a file beside it, and its 'sha256', "
            f"got {json.dumps(entry)}; take the entry out to have the repairs fitted again"
        )
    return path.with_name(name), str(checksum)


def _named_before(path: Path) -> Path | None:
    """The file that the recipe now at ``path`` names, if :meth:`Recipe.save` wrote both."""
    try:
        beside, _ = _named(json.loads(path.read_text(encoding="utf-8"))["fitted"], path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    ours = beside.name.startswith(f"{path.stem}-") and beside.suffix == ".npz"
    return beside if ours else None

"""Recipes: bits, repairs and ranges, in the order in which they are applied; one file that can be read and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bitwright.errors import InvalidInput, nearest
from bitwright.values.policy import Policy

RECIPE_VERSION = 1

ACTIONS: Mapping[str, str] = MappingProxyType(
    {
        "repair": "a repair on the whole network; options: name, and the repair's own",
        "ranges": "how ranges are set; options: method, percentile, kind (weight, activation), site",
        "limits": "the range of one activation; options: site, low, high",
        "bits": "another width at one site; options: site, bits (null: float)",
    }
)
"""What a recipe can do, with the options of each."""


FITTING = ("bias", "adaround", "blocks")
"""Repairs that fit biases and rounding to the grids that are there."""


@dataclass(frozen=True)
class Action:
    """One line of a recipe.

    Attributes:
        kind: one of :data:`ACTIONS`.
        options: plain data.

    Raises:
        InvalidInput: an unknown kind.
    """

    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ACTIONS:
            raise InvalidInput(
                f"a recipe's action must be one of {', '.join(ACTIONS)}, got '{self.kind}'{nearest(self.kind, ACTIONS)}"
            )
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    def __hash__(self) -> int:
        return hash((self.kind, json.dumps(dict(self.options), sort_keys=True)))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.kind, dict(self.options)))

    def __str__(self) -> str:
        options = dict(self.options)
        if self.kind == "repair":
            name = options.pop("name", "")
            return f"repair {name}{_listed(options)}"
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
class Recipe:
    """How a float network becomes a good quantized one.

    Attributes:
        target: the bits that were asked for.
        ranges: how every range is set before anything else is done.
        actions: repairs, ranges and bits, in their order.
        name: a word for tables.
    """

    target: Policy
    ranges: str = "mse"
    actions: tuple[Action, ...] = ()
    name: str = ""

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

    def without_fitting(self) -> tuple[Recipe, tuple[Action, ...]]:
        """The recipe without what was fitted to its grids, and those actions."""
        fitting = tuple(a for a in self.actions if a.kind == "repair" and a.options.get("name") in FITTING)
        kept = tuple(a for a in self.actions if a not in fitting)
        return Recipe(self.target, self.ranges, kept, self.name), fitting

    def aimed_at(self, target: Policy) -> Recipe:
        """The same actions for another target."""
        return Recipe(target, self.ranges, self.actions, self.name)

    def repaired(self, name: str) -> bool:
        """Whether a repair is in it."""
        return any(a.kind == "repair" and a.options.get("name") == name for a in self.actions)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "bitwright": "recipe",
            "version": RECIPE_VERSION,
            "name": self.name,
            "graph": self.target.graph_hash,
            "ranges": self.ranges,
            "actions": [{"action": a.kind, **a.options} for a in self.actions],
            "target": {"name": self.target.name, "bits": dict(self.target.bits)},
        }

    @classmethod
    def from_dict(cls, data: Any, source: str = "recipe") -> Recipe:
        """Inverse of :meth:`to_dict`.

        Raises:
            InvalidInput: not a recipe, a version from the future, or an unknown action.
            InvalidPolicy: bits out of range.
        """
        if not isinstance(data, Mapping) or data.get("bitwright") != "recipe" or "target" not in data:
            raise InvalidInput(f"{source} is not a recipe: it needs 'bitwright': 'recipe' and a 'target'")
        if data.get("version") != RECIPE_VERSION:
            raise InvalidInput(
                f"{source} has recipe version {data.get('version')}, this Bitwright reads version {RECIPE_VERSION}"
            )
        target = Policy(data["target"]["bits"], str(data.get("graph", "")), str(data["target"].get("name", "")))
        actions = tuple(
            Action(str(a.get("action")), {k: v for k, v in a.items() if k != "action"}) for a in data.get("actions", ())
        )
        return cls(target, str(data.get("ranges", "mse")), actions, str(data.get("name", "")))

    def to_json(self) -> str:
        """Readable JSON: one action a line, one site a line."""
        data = self.to_dict()
        target = data.pop("target")
        actions = data.pop("actions")
        lines = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in data.items()]
        listed = ",".join(f"\n    {json.dumps(a)}" for a in actions)
        lines.append(f'  "actions": [{listed}\n  ],' if actions else '  "actions": [],')
        bits = ",\n".join(f"      {json.dumps(site)}: {width}" for site, width in target["bits"].items())
        lines.append(f'  "target": {{\n    "name": {json.dumps(target["name"])},\n    "bits": {{\n{bits}\n    }}\n  }}')
        return "{\n" + "\n".join(lines) + "\n}\n"

    @classmethod
    def from_json(cls, text: str, source: str = "recipe") -> Recipe:
        """Read what :meth:`to_json` wrote; errors as in :meth:`from_dict`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidInput(f"{source} is not valid JSON: {error}") from None
        return cls.from_dict(data, source)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"cannot read the recipe file '{path}': {error.strerror}") from None
        return cls.from_json(text, f"the recipe file '{path}'")

    def save(self, path: str | Path) -> None:
        """Write the recipe as readable JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

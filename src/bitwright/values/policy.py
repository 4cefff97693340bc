"""Policies: which bit width each site gets. Made to be read, diffed and kept."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from bitwright.errors import InvalidPolicy, PolicyMismatch, nearest
from bitwright.values.json import As, Value
from bitwright.values.site import Site, Sites

MIN_BITS = 2
MAX_BITS = 16
_BITS = "an object that maps site names to bit widths"


def check_bits(bits: object, site: str) -> int:
    """Return ``bits`` as an int, or raise :class:`InvalidPolicy` naming the site and the value."""
    if isinstance(bits, bool) or not isinstance(bits, int) and not (hasattr(bits, "__index__")):
        raise InvalidPolicy(
            f"bits must be a whole number between {MIN_BITS} and {MAX_BITS}, got {bits!r} for site '{site}'"
        )
    value = int(bits)
    if not MIN_BITS <= value <= MAX_BITS:
        raise InvalidPolicy(
            f"bits must be between {MIN_BITS} and {MAX_BITS}, got {value} for site '{site}'; "
            "leave the site out of the policy to keep it in float"
        )
    return value


@dataclass(frozen=True, eq=False)
class Policy(Value, kind="policy", error=InvalidPolicy):
    """Bit widths by site name; a site that is not named stays in float. Two policies are equal when their bits are.

    Attributes:
        bits: site name -> bits, 2 to 16. ``None`` or ``"float"`` as a value means float and is dropped.
        graph_hash: the graph that it was made for, or "" for any graph that has these sites.
        name: a word for tables and plots, e.g. ``"W4A8"``.
        origin: how and on what data it was found, where that was noted.

    Raises:
        InvalidPolicy: bits outside 2 to 16.
    """

    made_by: ClassVar[str] = "bw.Policy.uniform(graph.sites, weights=4, activations=8)"
    bits: Annotated[Mapping[str, int], As(dict, _BITS)] = field(default_factory=dict)
    graph_hash: str = ""
    name: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        try:
            given = dict[str, Any](self.bits)
        except (TypeError, ValueError):
            raise InvalidPolicy(f"bits must be {_BITS}, got {reprlib.repr(self.bits)}") from None
        wrong = next((site for site in given if not isinstance(site, str)), None)
        if wrong is not None:
            raise InvalidPolicy(f"bits must be {_BITS}, got the name {wrong!r}, which is no text")
        kept = {
            site: check_bits(bits, site)
            for site, bits in given.items()
            if bits is not None and not (isinstance(bits, str) and bits == "float")
        }
        object.__setattr__(self, "bits", MappingProxyType(kept))

    def __eq__(self, other: object) -> bool:
        return self.bits == other.bits if isinstance(other, Policy) else NotImplemented

    def __hash__(self) -> int:
        return hash(frozenset(self.bits.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (dict(self.bits), self.graph_hash, self.name, self.origin))

    def __getitem__(self, site: str) -> int | None:
        return self.bits.get(site)

    def __iter__(self) -> Iterator[str]:
        return iter(self.bits)

    def __len__(self) -> int:
        return len(self.bits)

    @classmethod
    def uniform(
        cls, sites: Sites | Iterable[Site], weights: int | None = None, activations: int | None = None
    ) -> Policy:
        """The same bits at every weight and the same at every activation; None leaves them in float."""
        wanted = {"weight": weights, "activation": activations}
        for kind, bits in wanted.items():
            if bits is not None:
                check_bits(bits, f"every {kind}")
        chosen = {site.name: wanted[site.kind] for site in sites if wanted[site.kind] is not None}
        name = f"W{weights or 'float'}A{activations or 'float'}"
        return cls(chosen, sites.graph_hash if isinstance(sites, Sites) else "", name)  # type: ignore[arg-type]

    def replaced(self, changes: Mapping[str, int | None], name: str = "") -> Policy:
        """A new policy with some sites changed; None sends a site back to float."""
        return Policy({**self.bits, **changes}, self.graph_hash, name)  # type: ignore[dict-item]

    def check(self, sites: Sites) -> None:
        """Raise unless this policy fits these sites.

        Raises:
            PolicyMismatch: it was made for another graph.
            InvalidPolicy: it names a site that the graph does not have.
        """
        for name in self.bits:
            if name not in sites:
                raise InvalidPolicy(
                    f"the policy names site '{name}', which is not among the {len(sites)} sites of this graph"
                    f"{nearest(name, sites.names)}"
                )
        if self.graph_hash and sites.graph_hash and self.graph_hash != sites.graph_hash:
            raise PolicyMismatch(
                f"the policy was made for graph {self.graph_hash}, this graph is {sites.graph_hash}; "
                "capture the same model with the same placement, or remove 'graph' from the file to use it anyway"
            )

    def _written(self) -> dict[str, Any]:
        origin = {"origin": self.origin} if self.origin else {}
        return {"name": self.name, **origin, "graph": self.graph_hash, "bits": self.bits}

    @classmethod
    def _read(cls, data: dict[str, Any]) -> dict[str, Any]:
        if "bits" not in data:
            raise InvalidPolicy(f"bits must be {_BITS}, got nothing")
        return {"graph_hash" if key == "graph" else key: value for key, value in data.items()}


FLOAT = Policy({}, name="float")

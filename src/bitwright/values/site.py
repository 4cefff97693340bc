"""Sites: the named places of a graph where a tensor is quantized, and the operations between them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from annotated_types import Ge, Interval

from bitwright.errors import InvalidInput, nearest
from bitwright.values.coverage import Coverage, LeftOut
from bitwright.values.json import Value

_MANY_READS = 16  # of one weight, beyond which a loop over time steps is likelier than shared layers
SiteKind = Literal["weight", "activation"]
Count = Annotated[int, Interval(ge=0, lt=1 << 63)]
Granularity = Literal["tensor", "channel", "group"]


@dataclass(frozen=True)
class Scheme(Value):
    """How the tensor at a site is quantized, whatever its bit width.

    Attributes:
        symmetric: the zero point is fixed in the middle of the grid (weights), else it is free.
        signed: integers are -2^(b-1) .. 2^(b-1)-1, else 0 .. 2^b-1.
        granularity: one scale per ``"tensor"``, per ``"channel"``, or per ``"group"`` of
            ``group_size`` consecutive elements along the input dimension.
        axis: the channel axis for ``"channel"`` and ``"group"`` (the output channels), else None.
        group_size: elements that share a scale, for ``"group"`` only.
        narrow: leave out the lowest integer, so that the grid is symmetric (-127 .. 127).
        dynamic: the range is that of each tensor that passes, not one that calibration found.
        native_bits: the width that the placement asked for (8 for nearly all backends); the width
            at which the backend itself runs this site.
    """

    symmetric: bool = False
    signed: bool = False
    granularity: Granularity = "tensor"
    axis: int | None = None
    group_size: Annotated[int, Ge(1)] | None = None
    narrow: bool = False
    dynamic: bool = False
    native_bits: Annotated[int, Interval(ge=1, le=64)] = 8

    @property
    def words(self) -> str:
        """For people, e.g. ``symmetric, signed, scale per channel``."""
        each = {"tensor": "one scale", "channel": "scale per channel"}
        scales = each.get(self.granularity, f"scale per group of {self.group_size}")
        return f"{'symmetric' if self.symmetric else 'asymmetric'}, {'signed' if self.signed else 'unsigned'}, {scales}"

    def integer_range(self, bits: int) -> tuple[int, int]:
        """The smallest and the largest integer of the grid at this width."""
        if self.signed:
            low = -(1 << (bits - 1))
            return (low + 1 if self.narrow else low), (1 << (bits - 1)) - 1
        return 0, (1 << bits) - 1


@dataclass(frozen=True)
class Site(Value):
    """A named place where one tensor passes through its quantizer.

    Attributes:
        name: the user's name for it, e.g. ``layer1.0.conv1.weight`` or ``layer1.0.relu``.
        kind: ``"weight"`` or ``"activation"``.
        shape: the tensor's shape; for activations the first dimension is the batch, given as 1.
        scheme: how it is quantized.
        module: the module it belongs to, e.g. ``layer1.0.conv1``.
        operation: the operation whose weight it is or whose output it holds, e.g. ``conv2d``.
    """

    name: str
    kind: SiteKind
    shape: tuple[Count, ...]
    scheme: Scheme = field(default_factory=Scheme)
    module: str = ""
    operation: str = ""

    def __post_init__(self) -> None:
        axis, dims = self.scheme.axis, len(self.shape)
        if axis is not None and not -dims <= axis < dims:
            raise InvalidInput(f"the axis of site '{self.name}' must be one of its {dims} dimensions, got {axis}")

    @property
    def numel(self) -> int:
        """Number of elements (for activations: of one sample)."""
        return math.prod(self.shape)

    @property
    def scales(self) -> int:
        """Number of scales that the site needs."""
        scheme = self.scheme
        if scheme.granularity == "tensor" or scheme.axis is None:
            return 1
        channels = self.shape[scheme.axis]
        if scheme.granularity == "group" and scheme.group_size:
            return channels * math.ceil(self.numel / channels / scheme.group_size)
        return channels


@dataclass(frozen=True)
class Operation(Value):
    """One operation that multiplies two tensors, for cost models.

    Attributes:
        name: the user's name for it, e.g. ``layer1.0.conv1``.
        kind: ``conv1d``, ``conv2d``, ``conv_transpose2d``, ``linear``, ``matmul``, ...
        macs: multiply-accumulates for one sample.
        left: the site of the first operand (an activation), None when it is not quantized.
        right: the site of the second operand (a weight, or an activation for ``matmul``), or None.
    """

    name: str
    kind: str
    macs: Count
    left: str | None
    right: str | None


@dataclass(frozen=True)
class Sites(Value):
    """All sites of a graph in the order of execution, its operations, and what identifies it.

    Iterating gives the :class:`Site` objects; indexing takes a name or a position.

    Attributes:
        sites: in the order of execution.
        operations: in the order of execution.
        graph_hash: identifies structure and float weights; policies and tables carry it.
        other_parameters: number of parameters that no site covers (biases, norms), kept in float.
        left_out: the operations and parameters that have a tensor in float under every policy.
    """

    sites: tuple[Site, ...]
    operations: tuple[Operation, ...] = ()
    graph_hash: str = ""
    other_parameters: Count = 0
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        index = {site.name: i for i, site in enumerate(self.sites)}
        if len(index) != len(self.sites):
            names = [site.name for site in self.sites]
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidInput(f"site names must be unique, got '{twice}' twice")
        object.__setattr__(self, "_index", index)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __contains__(self, name: object) -> bool:
        return name in self._index  # type: ignore[attr-defined]

    def __getitem__(self, key: str | int) -> Site:
        if isinstance(key, int):
            return self.sites[key]
        index: dict[str, int] = self._index  # type: ignore[attr-defined]
        if key not in index:
            raise InvalidInput(f"site '{key}' is not in this graph of {len(self)} sites{nearest(key, index)}")
        return self.sites[index[key]]

    def matching(self, pattern: str) -> list[str]:
        """The names that a name, or a pattern with ``*`` and ``?``, stands for.

        Raises:
            InvalidInput: none.
        """
        if pattern in self:
            return [pattern]
        found = [name for name in self.names if fnmatchcase(name, pattern)] if set("*?") & set(pattern) else []
        if not found:
            raise InvalidInput(f"'{pattern}' matches none of the {len(self)} sites{nearest(pattern, self.names)}")
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the order of execution."""
        return tuple(site.name for site in self.sites)

    @property
    def weights(self) -> tuple[Site, ...]:
        """The weight sites, in the order of execution."""
        return tuple(site for site in self.sites if site.kind == "weight")

    @property
    def activations(self) -> tuple[Site, ...]:
        """The activation sites, in the order of execution."""
        return tuple(site for site in self.sites if site.kind == "activation")

    @property
    def coverage(self) -> Coverage:
        """How much of the network the sites reach."""
        covered = [op for op in self.operations if op.left is not None and op.right is not None]
        weights = sum(site.numel for site in self.weights)
        reads = Counter(op.right for op in self.operations if op.right is not None)
        return Coverage(
            sum(op.macs for op in covered),
            sum(op.macs for op in self.operations),
            weights,
            weights + sum(entry.weights for entry in self.left_out),
            self.left_out,
            tuple(
                (name, count) for name, count in reads.items() if count >= _MANY_READS and self[name].kind == "weight"
            ),
        )

    def with_scheme(self, name: str, scheme: Scheme) -> Sites:
        """The same sites with another scheme at one of them."""
        changed = tuple(replace(s, scheme=scheme) if s.name == name else s for s in self.sites)
        return replace(self, sites=changed)

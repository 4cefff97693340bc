"""Running many variants of a policy and computing only what each of them changes.

A variant differs from a base policy at a few sites. Everything before the first of these is the same as under the base
policy, so it is computed once: the walk goes through the graph in the order of execution, holds what is still needed at
the present place (what any forward pass holds there), and runs the rest of the graph once for each variant that starts
there. Results are those of running each variant as a whole, bit for bit: the same operations on the same tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from bitwright.graph.graph import Graph
from bitwright.graph.names import attribute_at
from bitwright.graph.places import quantizer_at
from bitwright.values import FLOAT, Policy

HELD_BYTES = 1 << 28  # values of all batches that walk together: 256 MiB

Values = dict[Node, Any]


@dataclass(frozen=True)
class Step:
    """One node: what to call, with which nodes' values, and which values nobody needs afterwards."""

    node: Node
    call: Callable[..., Any] | None
    done_with: tuple[Node, ...]


class Suffixes:
    """A graph in an order in which each site stands right before its first use, to be run in pieces.

    Args:
        graph: its weights must not be replaced while this is in use.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._codec = graph.module.graph
        order = _lazily_ordered(graph)
        last: dict[Node, int] = {}
        for i, node in enumerate(order):
            for source in node.all_input_nodes:
                last[source] = i
        ends: list[list[Node]] = [[] for _ in order]
        for node, i in last.items():
            ends[i].append(node)
        self._inputs = [node for node in order if node.op == "placeholder"]
        self._steps = [Step(node, self._call(node), tuple(done)) for node, done in zip(order, ends, strict=True)]
        self._starts: dict[str, int] = {}
        for i, node in enumerate(order):
            stands = quantizer_at(graph.module, node)
            if stands is not None:
                self._starts.setdefault(stands.site.name, i)
        # Where an operation overwrites its input, what was kept would not be what it was: nothing is shared then.
        self._shareable = not any(_overwrites(node) for node in order)

    def _call(self, node: Node) -> Callable[..., Any] | None:
        module = self.graph.module
        if node.op == "call_function":
            return node.target  # type: ignore[return-value]
        if node.op == "call_module":
            return module.get_submodule(str(node.target))
        if node.op == "call_method":
            name = str(node.target)
            return lambda first, *args, **kwargs: getattr(first, name)(*args, **kwargs)
        if node.op == "get_attr":
            value = attribute_at(module, str(node.target))
            return lambda: value
        return None

    def __len__(self) -> int:
        return len(self._steps)

    def start(self, sites: Iterable[str]) -> int:
        """The first step that a change at any of these sites can reach."""
        if not self._shareable:
            return 0
        return min((self._starts.get(site, len(self) - 1) for site in sites), default=len(self) - 1)

    def begin(self, inputs: tuple[Any, ...]) -> Values:
        """The values at the start: the inputs."""
        flat = self._codec.process_inputs(*inputs)
        return dict(zip(self._inputs, flat, strict=True))

    def run(self, values: Values, first: int, stop: int | None = None) -> Any:
        """Run the steps ``first`` to ``stop - 1`` (None: to the end) on values, which are updated in place.

        Returns:
            The graph's outputs when the end was reached, else None.
        """
        for step in self._steps[first:stop]:
            node = step.node
            if node.op == "output":
                return self._codec.process_outputs(map_arg(node.args[0], values.__getitem__))
            if step.call is not None:
                args = map_arg(node.args, values.__getitem__)
                kwargs = map_arg(node.kwargs, values.__getitem__) if node.kwargs else {}
                values[node] = step.call(*args, **kwargs)
            for source in step.done_with:
                values.pop(source, None)
        return None

    def held_bytes(self, inputs: tuple[Any, ...]) -> int:
        """Most bytes of activations that one forward pass on these inputs holds at once."""
        values, most = self.begin(inputs), 0
        with torch.no_grad():
            for i in range(len(self) - 1):
                self.run(values, i, i + 1)
                most = max(most, sum(_bytes(node, value) for node, value in values.items()))
        return most


def _bytes(node: Node, value: Any) -> int:
    return value.numel() * value.element_size() if node.op != "get_attr" and isinstance(value, Tensor) else 0


def _overwrites(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(getattr(schema, "is_mutable", False))


def _lazily_ordered(graph: Graph) -> list[Node]:
    """The nodes in the order of execution, those that depend on no input moved to right before their first use."""
    fixed: set[Node] = set()
    order: list[Node] = []
    seen: set[Node] = set()

    def emit(node: Node) -> None:
        for source in node.all_input_nodes:
            if source in fixed and source not in seen:
                emit(source)
        seen.add(node)
        order.append(node)

    nodes = list(graph.module.graph.nodes)
    for node in nodes:
        if node.op == "get_attr" or (
            node.op in ("call_function", "call_module", "call_method")
            and all(source in fixed for source in node.all_input_nodes)
        ):
            fixed.add(node)
    for node in nodes:
        if node not in fixed:
            emit(node)
    return order


@dataclass(frozen=True)
class Variant:
    """A policy that differs from the base policy at some sites.

    Attributes:
        sites: every site at which it may differ.
        policy: the whole policy.
    """

    sites: tuple[str, ...]
    policy: Policy


def run_variants(
    graph: Graph,
    inputs: Sequence[tuple[Any, ...]],
    variants: Sequence[Variant],
    base: Policy = FLOAT,
    with_base: bool = False,
) -> Iterator[tuple[int, int, Any]]:
    """Outputs of every variant on every batch.

    Args:
        graph: calibrated; its policy is left as it was.
        inputs: the inputs of each batch; they walk together, see :func:`groups`.
        variants: in any order.
        base: the policy that they differ from.
        with_base: at the end also the outputs of the base policy itself, as one more variant behind the others.

    Yields:
        (position of the variant, position of the batch, outputs), variants in the order of the graph.
    """
    suffixes = Suffixes(graph)
    starts = [suffixes.start(variant.sites) for variant in variants]
    here = 0
    with torch.no_grad(), graph.applied(base):
        walks = [suffixes.begin(batch) for batch in inputs]
        for position in sorted(range(len(variants)), key=starts.__getitem__):
            start = starts[position]
            if start > here:
                graph.apply(base)
                for values in walks:
                    suffixes.run(values, here, start)
                here = start
            graph.apply(variants[position].policy)
            for i, values in enumerate(walks):
                yield position, i, suffixes.run(dict(values), here)
        if with_base:
            graph.apply(base)
            for i, values in enumerate(walks):
                yield len(variants), i, suffixes.run(values, here)


def groups(graph: Graph, batches: Iterable[Any], held_bytes: int = HELD_BYTES) -> Iterator[list[Any]]:
    """Batches in groups whose walks hold no more than ``held_bytes`` together, at least one batch in each.

    Args:
        graph: in float.
        batches: (inputs, targets) each, inputs being a tuple.
        held_bytes: a group is closed before it would hold more.
    """
    per_sample: float | None = None
    group: list[Any] = []
    size = 0.0
    for batch in batches:
        count = batch[0][0].shape[0]
        if per_sample is None:
            with graph.applied(FLOAT):
                per_sample = Suffixes(graph).held_bytes(tuple(value[:1] for value in batch[0]))
        if group and size + per_sample * count > held_bytes:
            yield group
            group, size = [], 0.0
        group.append(batch)
        size += per_sample * count
    if group:
        yield group


def limited(batches: Iterable[Any], samples: int | None) -> Iterator[Any]:
    """The first ``samples`` inputs of batches (inputs, targets), the last batch cut where needed; None: all."""
    left = samples
    for inputs, targets in batches:
        count = inputs[0].shape[0]
        if left is None or left >= count:
            yield inputs, targets
        elif left > 0:
            cut = targets[:left] if isinstance(targets, Tensor) else targets
            yield tuple(value[:left] for value in inputs), cut
        if left is not None:
            left -= count
            if left <= 0:
                return

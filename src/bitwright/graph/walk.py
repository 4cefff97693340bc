"""The one way through a graph: node by node, in the order of execution.

Whatever looks at a network or changes it while it runs puts a **hook** at a node: the hook gets the call that is about
to be made, and what it returns is the node's value. So it can look at what comes in (calibration) or goes out (shapes),
put another value there (gradients that begin at a site), or make the call with other arguments (a weight that is being
learned).

A walk can stop anywhere and go on from there. Values are kept only as long as a node that is still to come needs them;
what depends on no input (weights, biases, what is computed from them alone) is made when it is first needed. So a
change at a quantizer takes effect for everything that runs after it, and the values at one place can be the common
beginning of several ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from bitwright.graph.places import bias_at, quantizer_at, site_calls


@dataclass(frozen=True)
class Call:
    """What a node is about to compute."""

    node: Node
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def __call__(self) -> Any:
        """Compute it."""
        return self.function(*self.args, **self.kwargs)


Hook = Callable[[Call], Any]
Hooks = Mapping[Node, Hook]


@dataclass(frozen=True)
class Step:
    """One node that depends on the inputs."""

    node: Node
    done_with: tuple[Node, ...]


class Values(dict[Node, Any]):
    """The values at one place of a walk, for one batch; those of constants appear when they are asked for.

    Attributes:
        hooks: of this batch.
        held: nodes whose values are kept until they are taken out.
    """

    def __init__(self, walk: Walk, known: Mapping[Node, Any], hooks: Hooks, held: Iterable[Node] = ()) -> None:
        super().__init__(known)
        self._walk = walk
        self.hooks = hooks
        self.held = held if isinstance(held, set) else set(held)

    def __missing__(self, node: Node) -> Any:
        if node not in self._walk.constants:
            raise KeyError(node)
        value = self[node] = self._walk.compute(node, self)
        return value

    def fork(self, hooks: Hooks | None = None) -> Values:
        """The same values, to go on from them another way (with other hooks)."""
        return Values(self._walk, self, self.hooks if hooks is None else hooks, self.held)


class Walk:
    """The nodes of a graph, ready to be run in pieces.

    What stands at the sites may change during a walk, nodes may not: make a new walk when they have.

    Attributes:
        steps: the nodes that depend on the inputs, in the order of execution; the last one is the output.
        constants: all other nodes.
    """

    def __init__(self, module: GraphModule) -> None:
        self.module = module
        nodes = list(module.graph.nodes)
        moving: dict[Node, None] = {}
        for node in nodes:
            if node.op in ("placeholder", "output") or any(source in moving for source in node.all_input_nodes):
                moving[node] = None
        self.constants = frozenset(node for node in nodes if node not in moving)
        self._positions = {node: i for i, node in enumerate(moving)}
        self._inputs = [node for node in nodes if node.op == "placeholder"]
        self._callables = {node: self._callable(node) for node in nodes}
        last: dict[Node, int] = {}
        for i, node in enumerate(moving):
            last.setdefault(node, i)  # nobody may need it
            for source in node.all_input_nodes:
                self._need(source, i, last)
        ends: list[list[Node]] = [[] for _ in moving]
        for node, i in last.items():
            ends[i].append(node)
        self.steps = [Step(node, tuple(done)) for node, done in zip(moving, ends, strict=True)]
        self._starts: dict[str, int] = {}
        for node, quantizer in site_calls(module).items():
            here = self._positions.get(node, len(moving) - 1)
            self._starts[quantizer.site.name] = min(here, self._starts.get(quantizer.site.name, here))
        # Where an operation overwrites its input, what was kept would not be what it was: nothing is shared then.
        self._shareable = not any(_overwrites(node) for node in nodes)

    def _need(self, node: Node, position: int, last: dict[Node, int]) -> None:
        """Note that a value is needed at a step, and the constants from which it is made when it is made there."""
        if node in self.constants and node not in self._positions:
            self._positions[node] = position
            for source in node.all_input_nodes:
                self._need(source, position, last)
        last[node] = position

    def _callable(self, node: Node) -> Callable[..., Any] | None:
        if node.op == "call_function":
            return node.target  # type: ignore[return-value]
        if node.op == "call_method":
            name = str(node.target)
            return lambda first, *args, **kwargs: getattr(first, name)(*args, **kwargs)
        if node.op in ("call_module", "get_attr"):
            # Looked up at each call: something else may stand there by then.
            path, _, name = str(node.target).rpartition(".")
            owner = self.module.get_submodule(path)
            if node.op == "get_attr":
                return lambda: getattr(owner, name)
            return lambda *args, **kwargs: getattr(owner, name)(*args, **kwargs)
        return None

    def __call__(self, inputs: Sequence[Any], hooks: Hooks | None = None) -> Any:
        """Run the whole graph on the inputs of one batch; its outputs, in the structure of the model's."""
        return self.run(self.begin(inputs, hooks))

    def begin(self, inputs: Sequence[Any], hooks: Hooks | None = None, held: Iterable[Node] = ()) -> Values:
        """The values at the start: the inputs, as the model takes them."""
        values = Values(self, {}, hooks or {}, held)
        for node, given in zip(self._inputs, self.module.graph.process_inputs(*inputs), strict=True):
            hook = values.hooks.get(node)
            values[node] = given if hook is None else hook(Call(node, lambda given=given: given, (), {}))
        return values

    def run(self, values: Values, first: int = 0, stop: int | None = None) -> Any:
        """Run the steps ``first`` to ``stop - 1`` (None: to the end) on values, which are updated in place.

        Returns:
            The graph's outputs when the end was reached, else None.
        """
        for step in self.steps[first:stop]:
            if step.node.op == "output":
                return self.module.graph.process_outputs(map_arg(step.node.args[0], values.__getitem__))
            if step.node.op != "placeholder":
                values[step.node] = self.compute(step.node, values)
            free(values, step)
        return None

    def compute(self, node: Node, values: Values) -> Any:
        """What a node (neither input nor output) gives for these values, hooks taken into account."""
        args = map_arg(node.args, values.__getitem__)
        kwargs = map_arg(node.kwargs, values.__getitem__) if node.kwargs else {}
        function = self._callables[node]
        assert function is not None
        hook = values.hooks.get(node)
        if hook is None:
            return function(*args, **kwargs)
        return hook(Call(node, function, args, kwargs))

    def alone(self, node: Node, given: Mapping[Node, Any] | None = None, hooks: Hooks | None = None) -> Any:
        """The present value of one node: of a constant, or of a node whose other inputs are given."""
        return self.compute(node, Values(self, given or {}, hooks or {}))

    def between(self, start: Node, end: Node, entering: Any, hooks: Hooks) -> Any:
        """The value of ``end`` in a stretch that only the value of ``start`` enters."""
        values = Values(self, {start: entering}, hooks, (end,))
        self.run(values, self._positions[start] + 1, self._positions[end] + 1)
        return values[end]

    def sources(self, node: Node) -> list[Node]:
        """The constants that a node's value is made from."""
        found: dict[Node, None] = {}
        queue = [node]
        while queue:
            for source in queue.pop().all_input_nodes:
                if source in self.constants and source not in found:
                    found[source] = None
                    queue.append(source)
        return list(found)

    def step(self, node: Node) -> Step:
        """The step of a node that depends on the inputs."""
        return self.steps[self._positions[node]]

    def __len__(self) -> int:
        return len(self.steps)

    def start(self, sites: Iterable[str]) -> int:
        """The first step that a change at any of these sites can reach; that of the output where none can."""
        if not self._shareable:
            return 0
        return min((self._starts.get(site, len(self) - 1) for site in sites), default=len(self) - 1)

    def held_bytes(self, inputs: Sequence[Any]) -> int:
        """Most bytes of activations that one forward pass on these inputs holds at once."""
        values, most = self.begin(inputs), 0
        with torch.no_grad():
            for i in range(len(self) - 1):
                self.run(values, i, i + 1)
                held = (value for node, value in values.items() if node not in self.constants)
                most = max(most, sum(value.nbytes for value in held if isinstance(value, Tensor)))
        return most


def free(values: Values, step: Step) -> None:
    """Forget the values that nobody needs after a step."""
    for node in step.done_with:
        if node not in values.held:
            values.pop(node, None)


def unrounded(module: GraphModule) -> Hooks:
    """Hooks with which the float network runs, whatever the current policy is."""
    return {node: let_through for node in module.graph.nodes if quantizer_at(module, node) or bias_at(module, node)}


def let_through(call: Call) -> Any:
    """The hook with which a site, or a bias's quantizer, rounds nothing."""
    return call.args[0]


def _overwrites(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(getattr(schema, "is_mutable", False))

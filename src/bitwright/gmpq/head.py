"""A new last layer: what a network needs to be searched on a proxy, data whose classes are others than its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.fx import Node

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import Checked, iterate
from bitwright.graph.calibration import calibrate
from bitwright.graph.graph import Graph
from bitwright.graph.layers import layers_of
from bitwright.graph.names import attribute_at
from bitwright.graph.walk import Call, Walk, unrounded

SAMPLES = 512
"""Of the proxy, on which ranges are set."""
DECAY = 1e-3
"""Weight of the squared norm of the new weights, so that classes that can be told apart exactly have finite ones."""


def with_head(graph: Graph, batches: Any) -> Graph:
    """A copy of a network whose last layer tells the classes of other data, with ranges set on that data.

    The layer is a logistic regression on the float network's features; all layers before it stay what they are, so that
    a policy for the copy is one for the network, and its name and hash are the same.

    Args:
        graph: whose outputs are those of its last linear layer, (N, classes).
        batches: (inputs, class numbers).

    Raises:
        InvalidInput: the network ends otherwise, or the inputs do not fit.
        InvalidData: targets that are no class numbers, or of one class only.
    """
    data = Checked(batches, purpose="a new last layer")
    layers = layers_of(graph)
    last = layers[-1] if layers else None
    if last is None or not last.linear or last.node not in _ends(graph):
        raise InvalidInput(
            "a proxy with other classes needs a network that ends with a linear layer, whose place a new one takes; "
            f"this one ends with {'no layer at all' if last is None else repr(last.name)}"
        )
    seen: list[Tensor] = []

    def keep(call: Call) -> Any:
        seen.append(call.args[0].detach())
        return call()

    walk, targets = Walk(graph.module), []
    with torch.no_grad():
        for inputs, given in iterate(data, graph, "a new last layer"):
            graph.check(inputs)
            walk(inputs, {**unrounded(graph.module), last.node: keep})
            targets.append(_classes(given, len(inputs[0])))
    weight, bias = regression(torch.cat(seen), torch.cat(targets))
    made = graph.copy()
    head = layers_of(made)[-1]
    _put(made, _source(head.node.args[head.role.weight]), weight.to(graph.weight(last.weight.site.name)))
    if head.bias_node is not None:
        _put(made, _source(head.bias_node), bias.to(weight).to(graph.weight(last.weight.site.name)))
    head.weight.observe(None)
    head.weight.hold(attribute_at(made.module, _source(head.node.args[head.role.weight])))
    return calibrate(made, Checked(data, SAMPLES))


def regression(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (classes, C) and biases (classes,) of a logistic regression on features (N, C), float64."""
    classes = int(targets.max()) + 1
    if classes < 2:
        raise InvalidData(f"a new last layer needs at least 2 classes, the proxy has {classes}")
    features = features.double()
    mean, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    scaled = (features - mean) / spread
    weight = features.new_zeros(classes, features.shape[1]).requires_grad_()
    bias = features.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(scaled @ weight.T + bias, targets) + DECAY * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = weight.detach() / spread
    return found, bias.detach() - found @ mean


def _classes(targets: Any, count: int) -> Tensor:
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.shape != (count,):
        raise InvalidData(
            "a proxy with other classes needs class numbers (N,) as targets, got "
            f"{f'shape {tuple(targets.shape)}' if isinstance(targets, Tensor) else type(targets).__name__}"
        )
    if int(targets.min()) < 0:
        raise InvalidData(f"the class numbers of a proxy must be 0 or more, got {int(targets.min())}")
    return targets.long()


def _ends(graph: Graph) -> set[Node]:
    """The node whose value a network returns as its only output, whatever rounds it there."""
    outputs = next(node for node in graph.module.graph.nodes if node.op == "output").all_input_nodes
    while len(outputs) == 1 and outputs[0].op == "call_module":
        outputs = outputs[0].all_input_nodes
    return set(outputs) if len(outputs) == 1 else set()


def _source(node: Any) -> str:
    """The path of the parameter behind what rounds it."""
    while node.op == "call_module":
        node = node.args[0]
    return str(node.target)


def _put(graph: Graph, path: str, values: Tensor) -> None:
    owner, _, name = path.rpartition(".")
    delattr(graph.module.get_submodule(owner), name)
    setattr(graph.module.get_submodule(owner), name, nn.Parameter(values, requires_grad=False))

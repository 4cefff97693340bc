"""Residual blocks rounded as a whole (BRECQ, Li et al., ICLR 2021): the layers of a block learn together what the block
must put out, so that one can make good what another loses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer
from bitwright.graph.operations import entry_of
from bitwright.graph.places import activation_at
from bitwright.graph.twins import Twins
from bitwright.graph.walk import Call, Hook, Hooks, Walk, let_through
from bitwright.numerics.affine import Affine
from bitwright.repair.rounding import OFFSET, STRETCH, Settings, regularizer_gradient, start_of
from bitwright.repair.steps import full_step

LARGEST = 8  # layers in a block; larger stretches without a bottleneck are done layer by layer
SAMPLES = 32  # in a mini-batch


@dataclass(frozen=True)
class Block:
    """A stretch of the network that one value enters and one value leaves, with several layers in between.

    Attributes:
        name: for people: its first and last layer.
        start: the node whose value enters.
        end: the node whose value leaves.
        nodes: what runs in between, in order, ``end`` included.
        layers: those of them that are layers.
    """

    name: str
    start: Node
    end: Node
    nodes: tuple[Node, ...]
    layers: tuple[Node, ...]


def blocks_of(graph: Graph, layers: dict[Node, Layer]) -> list[Block]:
    """The residual blocks of a network: stretches between bottlenecks that hold 2 to 8 layers."""
    order = [step.node for step in Walk(graph.module).steps[:-1]]
    positions = {node: i for i, node in enumerate(order)}
    last = [max((positions.get(user, len(order)) for user in node.users), default=i) for i, node in enumerate(order)]
    needed = [0, *itertools.accumulate(last, max)]  # how far the values before a node are needed
    cuts = [i for i in range(len(order)) if needed[i] <= i]
    blocks = []
    for first, second in zip(cuts, cuts[1:], strict=False):
        while second + 1 < len(order) and list(order[second].users) == [order[second + 1]]:
            if not entry_of(order[second + 1]).activation:
                break
            second += 1
        nodes = tuple(order[first + 1 : second + 1])
        inside = tuple(node for node in nodes if node in layers)
        if 2 <= len(inside) <= LARGEST:
            name = f"{layers[inside[0]].name} to {layers[inside[-1]].name}"
            blocks.append(Block(name, order[first], order[second], nodes, inside))
    return blocks


Weights = dict[Node, tuple[Tensor, Tensor | None]]
"""Layer -> the weight and bias to run it with."""


@dataclass(frozen=True)
class Present:
    """How a layer rounds before its block is learned."""

    layer: Layer
    grid: Affine
    state: dict[str, Any]
    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, layer: Layer, twins: Twins) -> Present:
        """At the current width."""
        bits, weight = layer.bits, layer.weight
        return cls(layer, weight.grid(bits), weight.state((bits,)), weight.rounded(bits), twins.bias(layer))

    def restore(self) -> None:
        """Make the weight round that way again."""
        if self.layer.weight.grid(self.layer.bits) is not self.grid:
            self.layer.weight.load(self.state)


class _Part:
    """The variables of one layer of a block."""

    def __init__(self, graph: Graph, layer: Layer, twins: Twins, learn_bias: bool) -> None:
        self.layer = layer
        self.affine = layer.weight.grid(layer.bits)
        self.low, self.high = layer.weight.site.scheme.integer_range(layer.bits)
        self.step = layer.from_matrix(full_step(layer, self.affine))
        self.floor, self.variables = start_of(layer.weight.weight.detach().float(), self.step)
        self.variables.requires_grad_()
        self.bias: Tensor | None = None
        self.shift: Tensor | None = None
        if layer.bias is not None and (bias := twins.bias(layer)) is not None:
            self.bias = bias.float()
            if learn_bias:
                self.shift = torch.zeros_like(self.bias).requires_grad_()
        self.spread = 1.0

    def upward(self) -> Tensor:
        return (self.variables.sigmoid() * STRETCH + OFFSET).clamp(0, 1)

    def weight(self) -> Tensor:
        return (self.floor + self.upward()).clamp(self.low, self.high) * self.step

    def shifted(self) -> Tensor | None:
        if self.bias is None or self.shift is None:
            return self.bias
        return self.bias + self.spread * self.shift

    def integers(self, nearest: bool) -> Tensor:
        if nearest:
            return (self.layer.weight.weight.detach() / self.step).round().clamp(self.low, self.high)
        return (self.floor + (self.upward() >= 0.5)).clamp(self.low, self.high).detach()


def learn_block(
    graph: Graph,
    twins: Twins,
    block: Block,
    before: list[Present],
    settings: Settings,
    generator: torch.Generator,
    round_inside: bool,
) -> tuple[float, float]:
    """Learn the rounding of all layers of a block, on the grids that they have, and apply it.

    Args:
        graph: under the policy in question.
        twins: stopped at the block's end, with the values at its start still there.
        block: from :func:`blocks_of`.
        before: how its layers rounded before the repair, in their order; they may have other grids by now.
        settings: as for one layer.
        generator: of the choice of samples.
        round_inside: let the activation sites inside the block round while it is fitted.

    Returns:
        Squared error of the block's output, summed over channels, before the repair and now.
    """
    parts = {one.layer.node: _Part(graph, one.layer, twins, settings.learn_bias) for one in before}
    last = before[-1].layer
    for node, part in parts.items():
        output = twins.float[node][0] if node in twins.float else None
        part.spread = float(output.std()) if isinstance(output, Tensor) else 1.0
    entering, target = torch.cat(twins.quantized[block.start]), torch.cat(twins.float[block.end])
    run = _runner(graph, twins, block, round_inside)
    plain: Weights = {node: (part.integers(True) * part.step, part.bias) for node, part in parts.items()}
    nearest = _whole(run, entering, target, plain, last)
    strength = settings.regularizer * nearest / sum(part.variables.numel() for part in parts.values())
    count = entering.shape[0]
    chosen = min(SAMPLES, count)
    values = [value for part in parts.values() for value in (part.variables, part.shift) if value is not None]
    rates = [settings.learning_rate, settings.bias_rate]
    groups = [
        {"params": [part.variables for part in parts.values()], "lr": rates[0]},
        {"params": [part.shift for part in parts.values() if part.shift is not None], "lr": rates[1]},
    ]
    optimizer = torch.optim.Adam([group for group in groups if group["params"]])
    with torch.enable_grad():
        for i in range(settings.iterations):
            index = torch.randint(count, (chosen,), generator=generator).to(entering.device)
            weights = {node: (part.weight(), part.shifted()) for node, part in parts.items()}
            error = _distance(run(entering[index], weights), target[index], last)
            gradients = torch.autograd.grad(error, values, allow_unused=True)
            for value, gradient in zip(values, gradients, strict=True):
                value.grad = torch.zeros_like(value) if gradient is None else gradient
            with torch.no_grad():
                for part in parts.values():
                    upward, sigmoid = part.upward(), part.variables.sigmoid()
                    free = (upward > 0) & (upward < 1)
                    slope = STRETCH * sigmoid * (1 - sigmoid) * free
                    assert part.variables.grad is not None
                    part.variables.grad += regularizer_gradient(upward, i, settings, strength) * slope
            optimizer.step()
    present: Weights = {one.layer.node: (one.weight, one.bias) for one in before}
    started = _whole(run, entering, target, present, last)
    learned: Weights = {
        node: (part.integers(False) * part.step, None if (bias := part.shifted()) is None else bias.detach())
        for node, part in parts.items()
    }
    after = _whole(run, entering, target, learned, last)
    if after < min(nearest, started):
        for node, part in parts.items():
            part.layer.weight.fix(part.layer.bits, part.affine, part.integers(False))
            if part.shift is not None and part.layer.bias is not None:
                part.layer.bias.correct(part.layer.bits, learned[node][1])
    elif started <= nearest:
        for one in before:
            one.restore()
    return started, min(started, nearest, after)


def _whole(run: Any, entering: Tensor, target: Tensor, weights: Any, last: Layer) -> float:
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(entering), SAMPLES):
            part = slice(start, start + SAMPLES)
            total += float(_distance(run(entering[part], weights), target[part], last)) * len(entering[part])
    return total / len(entering)


def _distance(output: Tensor, target: Tensor, last: Layer) -> Tensor:
    """Squared error summed over channels, mean over samples and positions."""
    channels = output.shape[-1] if last.linear else output.shape[1]
    return (output - target).square().sum() * (channels / output.numel())


def _runner(graph: Graph, twins: Twins, block: Block, round_inside: bool) -> Callable[[Tensor, Weights], Tensor]:
    """A function that runs the block with given weights and biases."""
    sites = () if round_inside else (node for node in block.nodes if activation_at(graph.module, node) is not None)
    passed: Hooks = dict.fromkeys(sites, let_through)

    def run(entering: Tensor, weights: Weights) -> Tensor:
        hooks = {**passed, **{node: _with_weight(*given) for node, given in weights.items()}}
        return twins.walk.between(block.start, block.end, entering, hooks)  # type: ignore[no-any-return]

    return run


def _with_weight(weight: Tensor, bias: Tensor | None) -> Hook:
    def hook(call: Call) -> Any:
        role = entry_of(call.node).layer
        assert role is not None
        args, kwargs = list(call.args), dict(call.kwargs)
        args[role.weight] = weight
        if bias is not None and role.bias is not None:
            if len(args) > role.bias:
                args[role.bias] = bias
            else:
                kwargs["bias"] = bias
        return call.function(*args, **kwargs)

    return hook

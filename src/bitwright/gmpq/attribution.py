"""Attribution: which places of an input a network's decision comes from, as gradients that can be learned from.

Grad-CAM (Selvaraju et al., ICCV 2017) at the last stage of a network: with z the score that is explained and F_c the
channels there, A = relu(sum_c w_c F_c), w_c the mean of dz/dF_c over the places. Written here rather than taken from a
library, because A is differentiated once more, for weights and for the shares of widths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.names import layer_name
from bitwright.graph.operations import entry_of
from bitwright.graph.walk import Hooks, Walk, unrounded

_TINY = 1e-12


@dataclass(frozen=True)
class Stage:
    """The last value of a network that has places: the one from which its decision is explained.

    Attributes:
        node: gives it.
        position: of the node among the steps of the walk.
        name: for people.
        channels: its axis of channels; all axes but this one and the first are places.
        tokens: whether its places are tokens, as those of a transformer, and not pixels.
    """

    node: Node
    position: int
    name: str
    channels: int
    tokens: bool

    def places(self, value: Tensor) -> Tensor:
        """A value there as (N, C, *places)."""
        return value.movedim(self.channels, 1)


def last_stage(graph: Graph, walk: Walk) -> Stage:
    """The last place of a network that everything passes as one tensor with more than one place.

    Behind the last convolutions of a classifier and in front of its pooling; in front of the heads of a detector; the
    tokens behind the last block of a transformer.

    Raises:
        InvalidInput: the network has no such place.
    """
    outputs = _outputs(walk)
    with torch.no_grad():
        values, found = walk.begin(graph.arranged(graph.example_inputs), unrounded(graph.module)), None
        for i, step in enumerate(walk.steps[:-1]):
            walk.run(values, i, i + 1)
            alive = [node for node in values if node not in walk.constants]
            if len(alive) != 1 or step.node.op == "placeholder" or alive[0] in outputs:
                continue
            mixer = _mixer(alive[0])
            value = values[alive[0]]
            if mixer is None or not isinstance(value, Tensor) or value.dim() < 3:
                continue
            tokens = entry_of(mixer).features_last
            channels = value.dim() - 1 if tokens else 1
            if value[0].numel() > value.shape[channels]:
                found = Stage(alive[0], i, _name(alive[0]), channels, tokens)
    if found is None:
        raise InvalidInput(
            "this network has no stage whose attribution could be compared: nowhere does everything pass as one tensor "
            "of several pixels or tokens; take method='loss', which searches by the loss alone"
        )
    return found


def _outputs(walk: Walk) -> set[Node]:
    """What the network puts out, and the same values before they were moved or rounded."""
    queue = list(walk.steps[-1].node.all_input_nodes)
    for node in queue:
        if node.op == "call_module" or entry_of(node).moves or entry_of(node).activation:
            queue.extend(node.all_input_nodes)
    return set(queue)


def _mixer(node: Node) -> Node | None:
    """The last layer that a value comes from."""
    queue: list[Node] = [node]
    for source in queue:
        if entry_of(source).layer is not None:
            return source
        queue.extend(each for each in source.all_input_nodes if each not in queue)
    return None


def _name(node: Node) -> str:
    """For people: of the value itself, not of what rounds it."""
    while node.op == "call_module" and node.args and isinstance(node.args[0], Node):
        node = node.args[0]
    return layer_name(node)


Score = Callable[[Any], Tensor]
"""Outputs of a network -> (N,) scores that are explained."""


@dataclass
class Explained:
    """What a network puts out, and why.

    Attributes:
        outputs: as the model returns them.
        map: (N, *places) attribution, at least 0.
    """

    outputs: Any
    map: Tensor


class Explainer:
    """Runs a network and says where its decisions come from.

    Args:
        graph: runs under its present policy.
    """

    def __init__(self, graph: Graph) -> None:
        self.walk = Walk(graph.module)
        self.stage = last_stage(graph, self.walk)
        self._float = unrounded(graph.module)

    def floating(self, inputs: tuple[Any, ...], score: Score) -> Explained:
        """The float network, without gradients."""
        return self.looked_at(inputs, score, self._float)

    def looked_at(self, inputs: tuple[Any, ...], score: Score, hooks: Hooks | None = None) -> Explained:
        """The network under its present policy, without gradients."""
        with torch.no_grad():
            values, features = self._up_to(inputs, hooks or {})
        with torch.enable_grad():
            features.requires_grad_()
            found = self._behind(values, features, score, learned=False)
        return Explained(_detached(found.outputs), found.map.detach())

    def __call__(self, inputs: tuple[Any, ...], score: Score) -> Explained:
        """The network under its present policy; the map has gradients, as the outputs have."""
        values, features = self._up_to(inputs, {})
        if not features.requires_grad:
            features.requires_grad_()
        return self._behind(values, features, score, learned=True)

    def _up_to(self, inputs: tuple[Any, ...], hooks: Hooks) -> tuple[Any, Tensor]:
        values = self.walk.begin(inputs, hooks)
        self.walk.run(values, 0, self.stage.position + 1)
        return values, values[self.stage.node]

    def _behind(self, values: Any, features: Tensor, score: Score, learned: bool) -> Explained:
        outputs = self.walk.run(values, self.stage.position + 1)
        (slopes,) = torch.autograd.grad(score(outputs).sum(), features, create_graph=learned, retain_graph=learned)
        return Explained(outputs, class_activation(self.stage.places(features), self.stage.places(slopes)))


def _detached(outputs: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, outputs)


def class_activation(features: Tensor, slopes: Tensor) -> Tensor:
    """(N, *places) Grad-CAM of features (N, C, *places), from the gradient of the score in the same shape."""
    weights = slopes.flatten(2).mean(2)
    return torch.einsum("nc,nc...->n...", weights, features).relu()


def normalized(maps: Tensor) -> Tensor:
    """Maps (N, *places) divided by their norm, each; a map that is 0 everywhere stays 0."""
    flat = maps.flatten(1)
    return (flat / flat.square().sum(1, keepdim=True).add(_TINY**2).sqrt()).reshape(maps.shape)


def entropy(maps: Tensor) -> Tensor:
    """(N,) -sum A log A in nats of maps (N, *places) that are divided by their sum; 0 for a map that is 0 everywhere.

    Attribution that lies at one place has 0, attribution that is the same everywhere the logarithm of the places.
    """
    flat = maps.flatten(1).double()
    shares = flat / flat.sum(1, keepdim=True).clamp_min(_TINY)
    found: Tensor = -torch.special.xlogy(shares, shares).sum(1)
    return found


def grouped(maps: Tensor, by: Tensor, spread: float) -> Tensor:
    """Every place takes the mean of its group: hierarchical partitioning, coarse to fine.

    The whole map is the first group. A group whose values differ is cut in the middle of each axis, and its parts are
    looked at likewise, down to single places: so even regions become large groups, and edges stay sharp.

    Args:
        maps: (N, *places) whose means are taken; with gradients where they have them.
        by: (N, *places) that decides the groups.
        spread: values differ where their standard deviation in the group is above this share of the map's largest.
    """
    dims = maps.dim() - 1
    limit = spread * by.flatten(1).amax(1).reshape(-1, *[1] * dims)
    size = 1 << max(side - 1 for side in maps.shape[1:]).bit_length()
    result, settled = torch.zeros_like(maps), torch.zeros_like(by, dtype=torch.bool)
    while size >= 1:
        mean = _means(by, size)
        variance = _means(by.square(), size) - mean.square()
        here = ~settled & (variance.clamp_min(0).sqrt() <= limit) if size > 1 else ~settled
        result = torch.where(here, _means(maps, size), result)
        settled, size = settled | here, size // 2
    return result


def _means(maps: Tensor, size: int) -> Tensor:
    """Each place's mean over its block of a side length."""
    sides = [min(size, side) for side in maps.shape[1:]]
    pool: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(sides) - 1]
    found: Tensor = pool(maps.unsqueeze(1), sides, ceil_mode=True, count_include_pad=False).squeeze(1)
    for axis, side in enumerate(sides, start=1):
        found = found.repeat_interleave(side, axis).narrow(axis, 0, maps.shape[axis])
    return found


def imitation_distance(own: Tensor, floats: Tensor, power: Tensor | float, top: float) -> Tensor:
    """(N,) mean squared difference of two attributions, over the places where float's is largest.

    Both are divided by their norm; float's is raised to a power before: a power above 1 concentrates it on its largest
    values, as much as a network of less capacity can still imitate.

    Args:
        own: (N, *places), with gradients.
        floats: (N, *places) of the float network.
        power: a number, or (N,) one for each sample.
        top: share of the places that count, above 0 and at most 1.
    """
    scaled = floats.flatten(1)
    scaled = scaled / scaled.amax(1, keepdim=True).clamp_min(_TINY)
    if isinstance(power, Tensor):
        power = power.reshape(-1, 1)
    wanted = normalized(scaled.pow(power))
    count = max(1, round(top * scaled.shape[1]))
    places = scaled.topk(count, dim=1).indices
    return (normalized(own.flatten(1)) - wanted).gather(1, places).square().mean(1)

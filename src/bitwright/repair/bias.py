"""Bias correction: quantization shifts the mean of a layer's outputs, and its bias can take the shift back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, layers_of
from bitwright.graph.operations import entry_of
from bitwright.graph.places import activation_at
from bitwright.graph.twins import Twins
from bitwright.repair.checks import checked_inputs, checked_policy
from bitwright.repair.descriptor import registered
from bitwright.repair.missing import ensure_biases
from bitwright.repair.report import Change, RepairReport
from bitwright.repair.tails import tail_of
from bitwright.settings import DEFAULTS
from bitwright.values import Policy

METHODS = ("empirical", "analytic")


@registered(
    name="bias",
    order=90,
    does="Bias correction: biases make up for the shift of mean outputs that quantization causes.",
    needs="calibration data and a policy",
    changes="biases at the policy's widths; the float network stays the same",
    costs="five to ten float passes",
    called="bias correction",
    leaves="bias correction",
    fits=1,
    mends={"weights": {}},
)
def bias_correction(
    graph: Graph,
    batches: Any,
    policy: Policy | None = None,
    *,
    method: str = "empirical",
    samples: int = DEFAULTS.calibration_samples,
) -> RepairReport:
    """Give each layer the bias that makes the mean of its outputs what it is in the float network.

    ``"empirical"`` (Nagel et al., ICCV 2019, appendix D): layer by layer in the order of execution, each with inputs
    from the network as it is quantized and corrected so far, b - mean(y_quantized - y_float) for each output channel,
    taken before the activation function.
    ``"analytic"`` (section 4.2): from the weights' rounding errors alone, b - (W_quantized - W) E[x]. For an input that
    comes from a ReLU or ReLU6, E[x] is the mean of a clipped normal whose mean and deviation are those of the values in
    front of the activation function. The paper takes them from the batch norm there; batch norms are folded at
    capture, so they are estimated from the calibration data, which takes few samples. Errors of the activations
    aren't seen.

    The corrected bias is used whenever the layer's weight has the width that it was measured for. With the weight in
    float the original bias is, so the float network doesn't change.

    Args:
        graph: calibrated; its policy is left as it was. A layer without a bias gets one.
        batches: calibration data; targets aren't looked at.
        policy: the widths; None for the current policy.
        method: ``"empirical"`` or ``"analytic"``.
        samples: calibration samples used, at most.

    Returns:
        For each layer the root mean square over channels of the mean output error, before and after.

    Raises:
        InvalidInput: unknown method, no data, no widths, or ranges that aren't set.
    """
    if method not in METHODS:
        raise InvalidInput(f"method must be one of {', '.join(METHODS)}, got '{method}'")
    chosen = checked_policy(graph, "bias", policy)
    inputs = checked_inputs(graph, "bias", batches, samples)
    notes = ensure_biases(graph, [layer for layer in layers_of(graph) if layer.weight.site.name in chosen])
    changes: list[Change] = []
    with graph.applied(chosen):
        layers = {
            layer.node: layer for layer in layers_of(graph) if layer.weight.bits is not None and layer.bias is not None
        }
        statistics = _Statistics(graph, layers) if method == "analytic" else None
        twins = Twins(graph, inputs)
        stops: dict[Node, Any] = dict(layers)
        if statistics is not None:
            stops.update(dict.fromkeys(statistics.watched))
        for node in twins.stops(stops):
            if statistics is not None and node in statistics.watched:
                statistics.note(node, twins.float[node])
            if node in layers:
                changes.append(_correct(twins, layers[node], statistics))
        graph.apply(chosen)
    count = sum(len(values[0]) for values in inputs)
    needs = f"{count} calibration samples, widths {chosen.name or 'of the policy'}"
    return RepairReport(needs, tuple(changes), tuple(notes), count)


def _correct(twins: Twins, layer: Layer, statistics: _Statistics | None) -> Change:
    bits, bias = layer.bits, twins.bias(layer)
    assert layer.bias is not None
    assert bias is not None
    before = _mean_error(twins, layer)
    shift = before if statistics is None else statistics.shift(layer)
    layer.bias.correct(bits, bias - shift.to(bias.dtype))
    after = _mean_error(twins, layer)
    largest = {"largest shift": float(shift.abs().max())}
    return Change(layer.name, "shift of the mean output", _rms(before), _rms(after), largest)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _mean_error(twins: Twins, layer: Layer) -> Tensor:
    """(channels,) mean over samples and positions of quantized minus float output, float64.

    Where a shortcut is added to the output, of the sum: the layer then also makes good what the shortcut brings along.
    """
    twins.redo([layer.node])
    operands = tail_of(twins.graph, layer, twins.shape).operands
    return sum((_mean_difference(twins, layer, node) for node in operands), _mean_difference(twins, layer, layer.node))


def _mean_difference(twins: Twins, layer: Layer, node: Node) -> Tensor:
    total, count = torch.zeros(layer.outputs, dtype=torch.float64), 0
    sides = [
        twins.products(lane, layer) if node is layer.node else lane[node] for lane in (twins.quantized, twins.float)
    ]
    for quantized, exact in zip(*sides, strict=True):
        error = _channels_last(layer, quantized.double() - exact.double())
        total += error.sum(0).cpu()
        count += len(error)
    return (total / count).to(layer.weight.weight.device)


def _channels_last(layer: Layer, value: Tensor) -> Tensor:
    """(rows, channels)."""
    return value.flatten(0, -2) if layer.linear else value.movedim(1, -1).flatten(0, -2)


class _Statistics:
    """Means and deviations of the values that layers' inputs are made from, channel by channel."""

    def __init__(self, graph: Graph, layers: dict[Node, Layer]) -> None:
        self.graph = graph
        self.sources = {node: self._source(layer) for node, layer in layers.items()}
        self.watched = {self.sources[node][0]: -1 if layer.linear else 1 for node, layer in layers.items()}
        self.moments: dict[Node, tuple[Tensor, Tensor]] = {}

    def _source(self, layer: Layer) -> tuple[Node, float, float]:
        """The node in front of the activation function, and the limits between which that clamps."""
        start = layer.node if layer.recurrent else layer.node.args[0]
        assert isinstance(start, Node)
        node = start
        while activation_at(self.graph.module, node) is not None and isinstance(node.args[0], Node):
            node = node.args[0]
        limits = entry_of(node).limits
        if limits is not None and isinstance(node.args[0], Node):
            return node.args[0], *limits(node)
        return start, -math.inf, math.inf

    def note(self, node: Node, values: list[Tensor]) -> None:
        rows = torch.cat([value.movedim(self.watched[node], -1).flatten(0, -2).double() for value in values])
        self.moments[node] = rows.mean(0), rows.std(0, unbiased=False)

    def shift(self, layer: Layer) -> Tensor:
        """(channels,) expected (W_quantized - W) x."""
        node, low, high = self.sources[layer.node]
        mean, deviation = self.moments[node]
        expected = clipped_mean(mean, deviation, low, high)
        error = layer.weight.rounded(layer.bits) - layer.weight.weight.detach()
        error = layer.matrix(error).double()  # (G, R, inputs x kernel)
        by_input = error.reshape(*error.shape[:2], expected.numel() // layer.groups, -1).sum(3)
        return torch.bmm(by_input, expected.reshape(layer.groups, -1, 1).to(error.device)).flatten()


def clipped_mean(mean: Tensor, deviation: Tensor, low: float, high: float) -> Tensor:
    """Mean of a normal variable clamped to [low, high] (Nagel et al. 2019, eq. 19 and appendix C)."""
    deviation = deviation.clamp_min(1e-12)

    def density(value: Tensor) -> Tensor:
        return torch.exp(-0.5 * value.square()) / math.sqrt(2 * math.pi)

    result = torch.zeros_like(mean)
    below = above = torch.zeros_like(mean)
    at_low = at_high = torch.zeros_like(mean)
    if low > -math.inf:
        bottom = (low - mean) / deviation
        below, at_low = torch.special.ndtr(bottom), density(bottom)
        result = result + low * below
    if high < math.inf:
        top = (high - mean) / deviation
        above, at_high = torch.special.ndtr(-top), density(top)
        result = result + high * above
    return result + mean * (1 - below - above) + deviation * (at_low - at_high)

"""Cross-layer equalization: channels of neighbouring layers are scaled so that one step fits all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import bias_tensor
from bitwright.graph.operations import aten, cap_of, entry_of
from bitwright.graph.walk import Call, Walk
from bitwright.repair.chains import (
    Pair,
    input_reach,
    output_reach,
    pairs_of,
    response_to_constant,
    scale_inputs,
    scale_outputs,
)
from bitwright.repair.checks import checked_inputs
from bitwright.repair.descriptor import registered
from bitwright.repair.missing import ensure_biases
from bitwright.repair.observe import forget_ranges, refresh
from bitwright.repair.report import Change, RepairReport
from bitwright.settings import DEFAULTS
from bitwright.values import FLOAT

SPARE = 1.0  # absorbed are values that lie below the smallest one seen by this much of its distance from the mean
PRECISION = "channel precision"
"""What changes: the mean over channels of the share of their ranges that a pair uses, eq. 9."""
RELU6 = ("auto", "replace", "bound", "cap", "keep")
ROUNDS = 40
SETTLED = 1e-3  # largest change of a scale, relative, at which the rounds end


@registered(
    name="cle",
    order=20,
    does="Cross-layer equalization: neighbouring layers are rescaled so that one step fits all channels.",
    needs="calibration data for the new ranges",
    changes="weights and biases of pairs of layers; the float function stays the same",
    costs="five to ten float passes",
    called="cross-layer equalization",
    lasting=True,
    moves=("scales",),
    mends={"weights": {}, "activations": {"activations": True}},
)
def equalize(
    graph: Graph,
    batches: Any = None,
    *,
    activations: bool = False,
    absorb: bool = True,
    relu6: str = "auto",
    samples: int = DEFAULTS.calibration_samples,
) -> RepairReport:
    """Cross-layer equalization with high-bias absorption (Nagel et al., ICCV 2019, section 4.1).

    For each pair of layers with nothing but ReLU, leaky ReLU, PReLU, pooling and the like in between, output channel
    i of the first is divided by s_i = sqrt(r1_i / r2_i) and input channel i of the second multiplied by it, r being
    the largest absolute weights: both then have the same range (eq. 11). Pairs are gone over until nothing moves.
    Convolutions, depthwise and transposed ones, and linear layers take part. The float function stays what it is.

    Where a ReLU leaves a whole channel untouched (all its values lie far above c > 0 on the calibration data), c moves
    from the first bias into the second (section 4.1.3, but with c twice as far below the mean as the smallest value
    seen, so that nothing changes on other data either). Not in front of padded convolutions, where it wouldn't be
    exact.

    ReLU6 doesn't scale along: see ``relu6``.

    Args:
        graph: its weights are changed in place; the model that was captured isn't touched.
        batches: calibration data: ranges are then set anew by the methods that sites have. Without it ranges of changed
            activations are forgotten, and no bias is absorbed.
        activations: take the ranges of the activations in between into account: s_i = sqrt(r1_i^(1-a) x_i^a / r2_i)
            up to a common factor, x_i the largest absolute activation of channel i, a = 1/2, or 1 where the first
            weight has a step for each channel already.
        absorb: absorb high biases.
        relu6: ``"replace"``: by ReLU, as the paper does, which changes the function where values were cut off;
            ``"bound"``: it stays, channels that it cuts off on the calibration data keep their scale, and the others
            are enlarged no further than up to it, which is exact on that data, and integer runtimes still run layer
            and ReLU6 as one; ``"cap"``: by ReLU and a cap of its own for each channel, which is exact and leaves all
            scales free, but integer runtimes run layer, ReLU and cap in float, several times as slowly; ``"keep"``:
            leave pairs around a ReLU6 alone; ``"auto"``: replace where the calibration data is never cut off, else
            bound; without data cap.
        samples: calibration samples used, at most.

    Returns:
        For each pair the mean over channels of (r1_i / max r1) (r2_i / max r2), eq. 9: 1 where all have the full range.

    Raises:
        InvalidInput: unknown options, or a repair before this one that it would undo.
    """
    if relu6 not in RELU6:
        raise InvalidInput(f"relu6 must be one of {', '.join(RELU6)}, got '{relu6}'")
    if relu6 == "bound" and batches is None:
        raise InvalidInput("relu6='bound' needs calibration data; pass batches, an iterable of (inputs, targets)")
    if activations and batches is None:
        raise InvalidInput("activations=True needs calibration data; pass batches, an iterable of (inputs, targets)")
    inputs = None if batches is None else checked_inputs(graph, "cle", batches, samples)
    policy = graph.policy
    graph.apply(FLOAT)
    pairs = [pair for pair in pairs_of(graph) if relu6 != "keep" or not pair.clamps]
    notes: list[str] = [] if pairs else ["no pair of layers to equalize"]
    before = _outputs(graph, inputs[:1]) if inputs else []
    seen = _Channels(graph, inputs, [pair.first.node for pair in pairs]) if inputs else None
    starts = {pair.name: precision(pair) for pair in pairs}
    bounds = {pair.name: bound for pair in pairs if (bound := _bound(pair, relu6, seen)) is not None}
    scales = _equalize(graph, pairs, seen if activations else None, bounds)
    notes += _replace_clamps(graph, [pair for pair in pairs if pair.name not in bounds], scales, relu6, seen)
    notes += _said(bounds)
    if absorb and inputs and pairs:
        notes += _absorb(graph, pairs, inputs)
    forgotten = forget_ranges(graph, {node for pair in pairs for node in pair.between})
    changed = {id(layer.weight): layer.weight for pair in pairs for layer in (pair.first, pair.second)}
    if not forgotten and inputs is None:
        refresh(graph, None, changed.values())
        graph.apply(policy)
    elif inputs is None:
        refresh(graph, None, changed.values())
        notes.append("ranges of changed activations are forgotten and the graph is in float: call bw.calibrate")
    else:
        moved = _moved(before, _outputs(graph, inputs[:1]))
        notes.append(f"float outputs moved by {moved:.1e} of their largest, on calibration data")
        refresh(graph, inputs, changed.values())
        graph.apply(policy)
    changes = tuple(Change(p.name, PRECISION, starts[p.name], precision(p), _spread(scales[p.name])) for p in pairs)
    count = sum(len(values[0]) for values in inputs or ())
    return RepairReport(f"{count} calibration samples" if inputs else "no data", changes, tuple(notes), count)


def precision(pair: Pair) -> float:
    """Mean over channels of the product of both layers' relative ranges (eq. 9), from 0 to 1."""
    first, second = output_reach(pair.first), input_reach(pair.second, pair.repeats)
    product = first / first.max().clamp_min(1e-30) * (second / second.max().clamp_min(1e-30))
    return float(product.mean())


def _spread(scales: Tensor) -> dict[str, float]:
    return {"smallest scale": float(scales.min()), "largest scale": float(scales.max())}


@dataclass(frozen=True)
class _Bound:
    """What a ReLU6 that stays lets happen to the channels in front of it.

    Attributes:
        cut: (channels,) whether it cuts a channel off: such a channel keeps its scale.
        least: (channels,) smallest scale, in all, at which no other channel comes to be cut off.
    """

    cut: Tensor
    least: Tensor

    def held(self, step: Tensor, so_far: Tensor) -> Tensor:
        """The step as near as possible to the one wanted, both up to a common factor."""
        if bool(self.cut.any()):
            step = step / step[self.cut].log().mean().exp()
        step = torch.where(self.cut, torch.ones_like(step), step)
        return torch.maximum(step, self.least.to(step) / so_far)


def _bound(pair: Pair, relu6: str, seen: _Channels | None) -> _Bound | None:
    """The bound on a pair's scales; None where there is no ReLU6, or where it doesn't stay."""
    if not pair.clamps or seen is None or relu6 not in ("auto", "bound"):
        return None
    cap = min(height for clamp in pair.clamps if (height := cap_of(clamp)) is not None)
    high = seen.high[pair.first.node]
    cut = high > cap
    if relu6 == "auto" and not bool(cut.any()):
        return None
    return _Bound(cut, torch.where(cut, 1.0, (high / cap).clamp_min(0)))


def _said(bounds: dict[str, _Bound]) -> list[str]:
    if not bounds:
        return []
    cut, count = (
        sum(numbers) for numbers in zip(*((int(b.cut.sum()), b.cut.numel()) for b in bounds.values()), strict=True)
    )
    return [
        f"{len(bounds)} ReLU6 stay: {cut} of the {count} channels in front of them are cut off and keep their scale "
        "(relu6='cap' scales them as well, but runs in float)"
    ]


def _equalize(graph: Graph, pairs: list[Pair], seen: _Channels | None, bounds: dict[str, _Bound]) -> dict[str, Tensor]:
    """Scale all pairs until nothing moves; what each channel was divided by in all."""
    scales = {pair.name: torch.ones_like(output_reach(pair.first)) for pair in pairs}
    for _ in range(ROUNDS):
        moved = 0.0
        for pair in pairs:
            reach = None if seen is None else seen.reach[pair.first.node] / scales[pair.name]
            step = _scale(pair, reach)
            if pair.name in bounds:
                step = bounds[pair.name].held(step, scales[pair.name])
            moved = max(moved, float(step.log().abs().max()))
            scale_outputs(pair.first, 1 / step, bias_tensor(graph, pair.first))
            scale_inputs(pair.second, step, pair.repeats)
            scales[pair.name] *= step
        if moved < SETTLED:
            break
    return scales


def _scale(pair: Pair, reach: Tensor | None) -> Tensor:
    first, second = output_reach(pair.first).double(), input_reach(pair.second, pair.repeats).double()
    usable = (first > 0) & (second > 0)
    target = first
    if reach is not None:
        share = 1.0 if pair.first.weight.site.scheme.granularity != "tensor" else 0.5
        usable &= reach.to(first) > 0
        target = first ** (1 - share) * reach.to(first) ** share
    scale = torch.where(usable, (target / second).sqrt(), 1.0)
    if reach is not None and bool(usable.any()):
        plain = (first / second).sqrt()[usable].log().mean()
        scale = torch.where(usable, scale / (scale[usable].log().mean() - plain).exp(), 1.0)
    return scale.to(output_reach(pair.first).dtype)


class _Channels:
    """Largest absolute, smallest and largest value, mean and deviation of each channel at some nodes."""

    def __init__(self, graph: Graph, inputs: Iterable[tuple[Any, ...]], nodes: Iterable[Node]) -> None:
        self._parts: dict[Node, list[tuple[Tensor, ...]]] = {node: [] for node in nodes}
        walk = Walk(graph.module)
        with torch.no_grad():
            for values in inputs:
                walk(values, dict.fromkeys(self._parts, self._look))
        self.low: dict[Node, Tensor] = {}
        self.high: dict[Node, Tensor] = {}
        self.mean: dict[Node, Tensor] = {}
        self.deviation: dict[Node, Tensor] = {}
        for node, parts in self._parts.items():
            low, high, total, squares, count = zip(*parts, strict=True)
            self.low[node], self.high[node] = torch.stack(low).amin(0), torch.stack(high).amax(0)
            number = sum(count)
            self.mean[node] = sum(total) / number
            variance = sum(squares) / number - self.mean[node].square()
            self.deviation[node] = variance.clamp_min(0).sqrt()
        self.reach = {node: torch.maximum(self.low[node].abs(), self.high[node].abs()) for node in self.low}

    def _look(self, call: Call) -> Any:
        result = call()
        linear = entry_of(call.node).kind == "linear"
        rows = result.movedim(-1 if linear else 1, -1).flatten(0, -2).double()
        count = torch.tensor(float(len(rows)))
        self._parts[call.node].append((rows.amin(0), rows.amax(0), rows.sum(0), rows.square().sum(0), count))
        return result


def _replace_clamps(
    graph: Graph, pairs: list[Pair], scales: dict[str, Tensor], relu6: str, seen: _Channels | None
) -> list[str]:
    """Put ReLU, and a cap for each channel where it is needed, in place of each ReLU6; a note."""
    replaced = capped = 0
    nodes = graph.module.graph
    for pair in pairs:
        for clamp in pair.clamps:
            cap = cap_of(clamp)
            assert cap is not None
            never = seen is not None and bool((seen.high[pair.first.node] <= cap).all())
            source = clamp.args[0]
            assert isinstance(source, Node)
            with nodes.inserting_before(clamp):
                result = nodes.call_function(aten.relu.default, (source,))
                result.meta = dict(clamp.meta)
                if relu6 == "cap" or (relu6 == "auto" and not never):
                    name = f"cap_{clamp.name}"
                    graph.module.register_buffer(name, _shaped(cap / scales[pair.name], pair))
                    limit = nodes.get_attr(name)
                    result = nodes.call_function(aten.minimum.default, (result, limit))
                    result.meta = dict(clamp.meta)
                    capped += 1
                else:
                    replaced += 1
            clamp.replace_all_uses_with(result)
            nodes.erase_node(clamp)
    if replaced or capped:
        nodes.lint()
        graph.module.recompile()
        return [f"{replaced} ReLU6 replaced by ReLU, {capped} by ReLU with a cap for each channel"]
    return []


def _shaped(caps: Tensor, pair: Pair) -> Tensor:
    if pair.first.linear:
        return caps
    return caps.reshape(-1, *([1] * (pair.first.weight.weight.dim() - 2)))


def _absorb(graph: Graph, pairs: list[Pair], inputs: list[tuple[Any, ...]]) -> list[str]:
    """Move what never reaches zero from the first bias of a pair into the second."""
    fresh = {pair.name: pair for pair in pairs_of(graph)}
    mine = [fresh[pair.name] for pair in pairs if pair.name in fresh and _absorbs(fresh[pair.name])]
    if not mine:
        return []
    seen = _Channels(graph, inputs, [pair.first.node for pair in mine])
    amounts = {}
    for pair in mine:
        node = pair.first.node
        reached = torch.minimum(seen.mean[node] - 3 * seen.deviation[node], seen.low[node])
        least = reached - SPARE * (seen.mean[node] - reached)
        if bool((least > 0).any()):
            amounts[pair.name] = least.clamp_min(0)
    if not amounts:
        return []
    ensure_biases(graph, [layer for pair in mine if pair.name in amounts for layer in (pair.first, pair.second)])
    count = 0
    for pair in pairs_of(graph):
        if pair.name not in amounts:
            continue
        first, second = bias_tensor(graph, pair.first), bias_tensor(graph, pair.second)
        if first is None or second is None:
            continue
        amount = amounts[pair.name].to(first)
        with torch.no_grad():
            first.sub_(amount)
            second.add_(response_to_constant(pair.second, amount, pair.repeats).to(second))
        count += int((amount > 0).sum())
    return [f"absorbed the high biases of {count} channels"] if count else []


def _absorbs(pair: Pair) -> bool:
    if not pair.direct or pair.second.transposed:
        return False
    if pair.second.linear:
        return True
    _, front, behind, _ = pair.second.geometry()
    return not any(front) and not any(behind)


def _outputs(graph: Graph, inputs: list[tuple[Any, ...]]) -> list[Tensor]:
    with torch.no_grad():
        found = [graph(*values) for values in inputs]
    return [value for value in found if isinstance(value, Tensor)]


def _moved(before: list[Tensor], after: list[Tensor]) -> float:
    """Largest change over all outputs, relative to the largest output."""
    largest = max((float(value.abs().max()) for value in before), default=1.0) or 1.0
    return max((float((a - b).abs().max()) for a, b in zip(before, after, strict=True)), default=0.0) / largest

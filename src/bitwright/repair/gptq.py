"""Sequential rounding of a whole network: each layer is fitted to the float network's outputs in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, Positions, layers_of
from bitwright.graph.twins import Twins
from bitwright.repair.checks import checked_inputs, checked_policy
from bitwright.repair.descriptor import registered
from bitwright.repair.missing import ensure_biases
from bitwright.repair.report import Change, RepairReport
from bitwright.repair.roundable import roundable
from bitwright.repair.steps import Feedback, about_the_mean, cholesky, fitted_affine, full_step, sequential_rounding
from bitwright.repair.tails import tail_of
from bitwright.settings import DEFAULTS
from bitwright.values import Policy


@registered(
    name="gptq",
    order=70,
    does="GPTQ: weights are rounded one after the other, each error made good in those still to come.",
    needs="calibration data and a policy",
    changes="integers and biases of weights at the policy's widths; the float network stays the same",
    costs="about ten float passes",
    called="GPTQ",
    moves=("rounding",),
    leaves="found rounding",
    fits=2,
    mends={"weights": {}},
)
def gptq(
    graph: Graph,
    batches: Any,
    policy: Policy | None = None,
    *,
    refit: bool = True,
    learn_bias: bool = True,
    damping: float = 0.01,
    rows: int = 16384,
    samples: int = DEFAULTS.calibration_samples,
    seed: int = DEFAULTS.seed,
) -> RepairReport:
    """Round weights one after the other, each error made good in those still to come (GPTQ, Frantar et al., ICLR 2023).

    Layer by layer in the order of execution, with inputs x from the network as it is quantized so far, three things are
    found in closed form:

    - the weights that bring the layer's output nearest to the float network's, W + E[r x^T] (E[x x^T] + d I)^-1, where
      r is what the layer lacks with its float weights: what earlier layers lost is made good, and so is what a shortcut
      brings along (without it this is plain GPTQ, which takes the weights as they are; Li et al., ICML 2025, GPTAQ, do
      it for transformers);
    - each channel's step, with the smallest output error under sequential rounding, and the integers;
    - the bias, so that the mean output is the float network's.

    A layer that would end up worse on these inputs than it is now is left as it is. Integers and biases are kept for
    their width until the float weight changes; the float network itself stays what it is.

    Args:
        graph: calibrated; its policy is left as it was. A layer without a bias gets one.
        batches: calibration data; targets aren't looked at.
        policy: the widths; None for the current policy.
        refit: fit the weights to the float network's outputs first; False for plain GPTQ.
        learn_bias: also set the bias that the layer has at this width.
        damping: d, as a share of the mean of E[x x^T]'s diagonal.
        rows: of each layer's input, from all samples together; a layer with K inputs times kernel should have some K.
        samples: calibration samples used, at most.
        seed: of the choice of positions.

    Returns:
        For each layer the mean squared output error, summed over channels, before and after.

    Raises:
        InvalidInput: unknown options, no data, or no widths.
    """
    for parameter, number in (("rows", rows), ("samples", samples)):
        if number < 1:
            raise InvalidInput(f"{parameter} must be at least 1, got {number}")
    if not damping > 0:
        raise InvalidInput(f"damping must be above 0, got {damping}; 0.01 is usual")
    chosen = checked_policy(graph, "gptq", policy)
    inputs = checked_inputs(graph, "gptq", batches, samples)
    count = sum(len(values[0]) for values in inputs)
    every = [layer for layer in layers_of(graph) if layer.weight.site.name in chosen]
    notes = ensure_biases(graph, every) if learn_bias else []
    changes = []
    with graph.applied(chosen):
        layers, left = roundable(graph)
        notes += left
        generator = torch.Generator().manual_seed(seed)
        twins = Twins(graph, inputs)
        for node in twins.stops(layers):
            layer = layers[node]
            moments = _gathered(twins, layer, max(1, rows // count), generator)
            changes.append(_fit(layer, moments, refit, learn_bias, damping, twins))
        graph.apply(chosen)
    needs = f"{count} calibration samples, widths {chosen.name or 'of the policy'}"
    return RepairReport(needs, tuple(changes), tuple(notes), count)


@dataclass(frozen=True)
class _Moments:
    """Means over rows of a layer's inputs x and of what it lacks, r = (float output) - W x - b; all float64.

    Attributes:
        inputs: (G, K) E[x].
        gram: (G, K, K) E[x x^T].
        lacking: (G, R) E[r].
        cross: (G, R, K) E[r x^T].
        squared: (G, R) E[r^2].
    """

    inputs: Tensor
    gram: Tensor
    lacking: Tensor
    cross: Tensor
    squared: Tensor

    def about_the_mean(self) -> tuple[Tensor, Tensor]:
        """Gram and cross moments when a bias takes up mean errors."""
        mean = self.inputs
        return (
            about_the_mean(self.gram, mean),
            self.cross - self.lacking[:, :, None] * mean[:, None, :],
        )

    def shift(self, change: Tensor) -> Tensor:
        """(G, R) mean output that is missing after a (G, R, K) change of the weights."""
        return self.lacking - torch.bmm(change, self.inputs[:, :, None])[:, :, 0]

    def error(self, change: Tensor, shift: Tensor | None) -> float:
        """Mean squared output error, summed over channels, after a change of weights and (G, R) bias."""
        result = self.squared + ((torch.bmm(change, self.gram) - 2 * self.cross) * change).sum(2)
        if shift is not None:
            result = result - 2 * shift * self.shift(change) + shift.square()
        return max(float(result.sum()), 0.0)


def _gathered(twins: Twins, layer: Layer, each: int, generator: torch.Generator) -> _Moments:
    weight = layer.matrix(layer.weight.weight.detach()).float().transpose(1, 2)
    bias = twins.bias(layer)
    operands = tail_of(twins.graph, layer, twins.shape).operands
    sums: list[Tensor] = []
    count = 0
    pairs = zip(twins.products(twins.float, layer), twins.entering(layer), strict=True)
    for i, (output, source) in enumerate(pairs):
        positions = Positions(layer, output, each, generator)
        x = positions.inputs(source).float()
        wanted = positions.outputs(output)
        for node in operands:
            wanted = wanted + positions.outputs(twins.float[node][i]) - positions.outputs(twins.quantized[node][i])
        wanted = (wanted if bias is None else wanted - bias).float()
        lacking = wanted.reshape(len(wanted), len(weight), -1).transpose(0, 1) - torch.bmm(x, weight)  # (G, P, R)
        turned = x.transpose(1, 2)
        parts = x.sum(1), turned @ x, lacking.sum(1), torch.bmm(lacking.transpose(1, 2), x), lacking.square().sum(1)
        sums = [part.double() for part in parts] if not sums else [a.add_(b) for a, b in zip(sums, parts, strict=True)]
        count += x.shape[1]
    return _Moments(*(total / count for total in sums))


def _fit(layer: Layer, moments: _Moments, refit: bool, learn_bias: bool, damping: float, twins: Twins) -> Change:
    bits, quantizer = layer.bits, layer.weight
    learn_bias = learn_bias and layer.bias is not None
    weight = layer.matrix(quantizer.weight.detach()).double()
    gram, cross = moments.about_the_mean() if learn_bias else (moments.gram, moments.cross)
    wanted = weight + least_squares(gram, cross, damping) if refit else weight
    matrix, feedback = wanted.float().contiguous(), Feedback.of(gram.float(), damping)
    affine = fitted_affine(layer, bits, gram.float(), matrix=matrix, feedback=feedback)
    affine = twins.graph.suited(quantizer.site.name, affine)
    step = full_step(layer, affine)
    integers = sequential_rounding(matrix, feedback, step, affine.low, affine.high)
    change = (integers * step).double() - weight
    shift = moments.shift(change) if learn_bias else None
    before = moments.error(_present(layer) - weight, None)
    after = moments.error(change, shift)
    if after < before:
        quantizer.fix(bits, affine, layer.from_matrix(integers))
        if shift is not None and layer.bias is not None:
            bias = twins.bias(layer)
            assert bias is not None
            layer.bias.correct(bits, bias + shift.flatten().to(bias.dtype))
    nearest = (weight / step).round().clamp(affine.low, affine.high)
    moved = float((integers != nearest).double().mean()) if after < before else 0.0
    return Change(quantizer.site.name, "output error", before, min(after, before), {"moved": moved})


def least_squares(gram: Tensor, cross: Tensor, damping: float) -> Tensor:
    """(G, R, K) change of the weights that takes up what is lacking, E[r x^T] (E[x x^T] + d I)^-1.

    Args:
        gram: (G, K, K) second moments of the inputs.
        cross: (G, R, K) moments of what is lacking with the inputs.
        damping: d, as a share of the mean of the gram matrix's diagonal.
    """
    return torch.cholesky_solve(cross.transpose(1, 2), cholesky(gram, damping)).transpose(1, 2)


def _present(layer: Layer) -> Tensor:
    """(G, R, K) the weights as they are rounded now, to nearest or by a repair."""
    integers, grid = layer.weight.integers(layer.bits), layer.weight.grid(layer.bits)
    return (layer.matrix(integers) * full_step(layer, grid)).double()

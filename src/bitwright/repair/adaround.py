"""Adaptive rounding of a whole network, layer by layer in the order of execution, or block by block."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, Positions
from bitwright.graph.twins import Twins
from bitwright.numerics.affine import Affine
from bitwright.repair.blocks import Block, Present, blocks_of, learn_block
from bitwright.repair.checks import checked_inputs, checked_policy
from bitwright.repair.descriptor import registered
from bitwright.repair.report import Change, RepairReport
from bitwright.repair.roundable import roundable
from bitwright.repair.rounding import Problem, Settings, learn_rounding
from bitwright.repair.steps import Feedback, fitted_affine, full_step, gram_of
from bitwright.repair.tails import Tail, tail_of
from bitwright.settings import DEFAULTS
from bitwright.values import Policy

ROWS = 32768  # of each layer's input, from all samples together
ELEMENTS = 1 << 25  # of them held at once, at most: 128 MiB


@registered(
    name="adaround",
    order=80,
    does="AdaRound: learns, layer by layer, which weights to round up and which to round down.",
    needs="calibration data and a policy",
    changes="integers and biases of weights at the policy's widths; the float network stays the same",
    costs="tens to hundreds of float passes, in proportion to the iterations",
    called="AdaRound",
    leaves="learned rounding",
    fits=3,
    mends={"weights": {}},
)
def adaround(
    graph: Graph,
    batches: Any,
    policy: Policy | None = None,
    *,
    iterations: int = 1000,
    unit: str = "layer",
    steps: str = "output",
    learn_bias: bool = True,
    round_inside: bool = False,
    samples: int = DEFAULTS.calibration_samples,
    learning_rate: float = 0.03,
    regularizer: float = 100.0,
    warm_start: float = 0.2,
    seed: int = DEFAULTS.seed,
) -> RepairReport:
    """Learn which weights are rounded up and which down (Nagel et al. 2020), for the widths of a policy.

    Each layer is fitted to the float network's values behind its activation function (and behind the addition in
    front of that, where a shortcut is added), with inputs taken from the network as it is quantized so far: what
    earlier layers lost is made up for as far as possible. The integers are kept for their width until the float weight
    changes; the float network itself stays what it is.

    Args:
        graph: calibrated; its policy is left as it was, its weights get the learned rounding at the policy's widths.
        batches: calibration data; targets aren't looked at.
        policy: the widths; None for the current policy.
        iterations: steps of the optimizer for each layer or block.
        unit: ``"layer"``, or ``"block"`` to fit residual blocks as a whole (BRECQ, Li et al., ICLR 2021).
        steps: ``"output"``: first choose each channel's step by the output error under sequential rounding (where a
            layer ends up worse than it is now, its present grid is used after all); ``"keep"``: stay on the grid that
            is there.
        learn_bias: also learn the bias that the layer has at this width.
        round_inside: let the activation sites between a layer and its target round while it is fitted.
        samples: calibration samples used, at most.
        learning_rate: of the rounding variables.
        regularizer: weight of the term that drives them to 0 or 1, in units of the output error per weight.
        warm_start: share of the iterations before that term begins.
        seed: of the choice of positions.

    Returns:
        For each layer or block the squared output error before and after.

    Raises:
        InvalidInput: unknown options, no data, or no widths.
    """
    for parameter, value, known in (("unit", unit, ("layer", "block")), ("steps", steps, ("output", "keep"))):
        if value not in known:
            raise InvalidInput(f"{parameter} must be {' or '.join(known)}, got '{value}'")
    for parameter, number in (("iterations", iterations), ("samples", samples)):
        if number < 1:
            raise InvalidInput(f"{parameter} must be at least 1, got {number}")
    chosen = checked_policy(graph, "adaround", policy)
    inputs = checked_inputs(graph, "adaround", batches, samples)
    settings = Settings(
        iterations=iterations,
        learning_rate=learning_rate,
        regularizer=regularizer,
        warm_start=warm_start,
        learn_bias=learn_bias,
    )
    with graph.applied(chosen):
        work = _Work(graph, inputs, settings, steps, round_inside, seed)
        work.run(unit)
        graph.apply(chosen)
    return RepairReport(
        f"{work.samples} calibration samples, widths {chosen.name or 'of the policy'}",
        tuple(work.changes),
        tuple(work.notes),
        work.samples,
    )


@registered(
    name="blocks",
    order=85,
    does="BRECQ: as adaround, with each residual block fitted as a whole.",
    needs="calibration data and a policy",
    changes="integers and biases of weights at the policy's widths; the float network stays the same",
    costs="more than adaround",
    called="AdaRound by blocks",
    given=("graph", "batches", "unit"),
    leaves="learned rounding",
    fits=4,
)
@functools.wraps(adaround.function)
def blocks(graph: Graph, batches: Any, policy: Policy | None = None, **options: Any) -> RepairReport:
    """:func:`adaround` with ``unit="block"``: residual blocks are reconstructed whole."""
    return adaround.function(graph, batches, policy, **options, unit="block")


class _Work:
    """One run over the network."""

    def __init__(
        self, graph: Graph, inputs: list[tuple[Any, ...]], settings: Settings, steps: str, round_inside: bool, seed: int
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.samples = sum(len(values[0]) for values in inputs)
        self.settings = settings
        self.steps = steps
        self.round_inside = round_inside
        self.generator = torch.Generator().manual_seed(seed)
        self.present: dict[Node, Present] = {}
        self.changes: list[Change] = []
        self.notes: list[str] = []

    def run(self, unit: str) -> None:
        layers, left = roundable(self.graph)
        self.notes += left
        blocks = blocks_of(self.graph, layers) if unit == "block" else []
        inside = {node: block for block in blocks for node in block.layers}
        ends = {block.end: block for block in blocks}
        twins = Twins(self.graph, self.inputs, {block.start for block in blocks})
        for node in twins.stops({*layers, *ends}):
            if node in inside:
                self._prepare(twins, layers[node])
            elif node in layers:
                self._layer(twins, layers[node])
            if node in ends:
                self._block(twins, ends[node])

    def _layer(self, twins: Twins, layer: Layer) -> None:
        bits = layer.bits
        before, affine = self._start(twins, layer)
        learn = self.settings.learn_bias and layer.bias is not None
        settings = self.settings if learn else Settings(**{**self.settings.__dict__, "learn_bias": False})
        plain = before.error(layer.matrix(layer.weight.integers(bits)), before.bias)
        found = None
        if self.steps == "output":
            fitted = _fitted(layer, bits, gram_of(before.inputs, learn))
            fitted = self.graph.suited(layer.weight.site.name, fitted)
            found = learn_rounding(Problem(**{**before.__dict__, "step": full_step(layer, fitted)}), settings)
            if found.error < plain:
                affine = fitted
            else:  # a step chosen under sequential rounding need not suit: the one that is there may
                found = None
        if found is None:
            found = learn_rounding(before, settings)
        if found.error <= plain:
            layer.weight.fix(bits, affine, layer.from_matrix(found.integers))
            if learn and layer.bias is not None:
                layer.bias.correct(bits, found.bias)
        self.changes.append(
            Change(
                layer.weight.site.name,
                "output error",
                plain,
                min(found.error, plain),
                {"moved": found.moved, "undecided": found.undecided, "rows": float(len(before.targets))},
            )
        )

    def _start(self, twins: Twins, layer: Layer) -> tuple[Problem, Any]:
        """The layer as rows, on its present grid and with its present bias."""
        bits = layer.bits
        affine = layer.weight.grid(bits)
        tail = tail_of(self.graph, layer, twins.shape)
        rows = self._rows(twins, layer, tail)
        weight = layer.matrix(layer.weight.weight.detach()).float().contiguous()
        low, high = layer.weight.site.scheme.integer_range(bits)
        bias = twins.bias(layer)
        bias = rows[1].new_zeros(layer.outputs) if bias is None else bias.float()
        function = tail.function(self.graph, layer, twins.float.constant, self.round_inside)
        return Problem(weight, full_step(layer, affine), low, high, bias, *rows, function), affine

    def _rows(self, twins: Twins, layer: Layer, tail: Tail) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Inputs, float outputs, operands and targets at random positions, in random order."""
        matrix = layer.matrix(layer.weight.weight)
        limit = max(min(ROWS, ELEMENTS // (matrix.shape[0] * matrix.shape[2])), 256)
        each = max(1, round(limit / self.samples))
        function = tail.function(self.graph, layer, twins.float.constant, False)
        inputs, outputs, targets = [], [], []
        operands: list[list[Tensor]] = [[] for _ in tail.operands]
        pairs = zip(twins.products(twins.float, layer), twins.entering(layer), strict=True)
        for i, (output, source) in enumerate(pairs):
            positions = Positions(layer, output, each, self.generator)
            inputs.append(positions.inputs(source))
            outputs.append(positions.outputs(output))
            targets.append(function(outputs[-1], [positions.outputs(twins.float[node][i]) for node in tail.operands]))
            for part, node in zip(operands, tail.operands, strict=True):
                part.append(positions.outputs(twins.quantized[node][i]))
        order = torch.randperm(sum(len(part) for part in targets), generator=self.generator).to(targets[0].device)
        return (
            torch.cat(inputs, 1)[:, order],
            torch.cat(outputs)[order],
            [torch.cat(part)[order] for part in operands],
            torch.cat(targets)[order],
        )

    def _prepare(self, twins: Twins, layer: Layer) -> None:
        """Inside a block: choose the grid now, learn the rounding at the block's end."""
        bits = layer.bits
        self.present[layer.node] = Present.of(layer, twins)
        before, _ = self._start(twins, layer)
        if self.steps == "output":
            fitted = _fitted(layer, bits, gram_of(before.inputs, self.settings.learn_bias))
            layer.weight.fix(bits, self.graph.suited(layer.weight.site.name, fitted))

    def _block(self, twins: Twins, block: Block) -> None:
        mine = [self.present.pop(node) for node in block.layers]
        before, after = learn_block(self.graph, twins, block, mine, self.settings, self.generator, self.round_inside)
        self.changes.append(Change(block.name, "output error", before, after))
        inner = block.nodes[:-1]
        freed = [node for node in inner if node not in twins.quantized]
        twins.redo(inner)
        twins.release(freed)
        twins.let_go(block.start, block.end)


def _fitted(layer: Layer, bits: int, gram: Tensor) -> Affine:
    """The grid with the smallest output error under sequential rounding."""
    return fitted_affine(layer, bits, gram, feedback=Feedback.of(gram))

"""Sweeps: each quantizer alone on, or alone off, and what that does to the output; only what it reaches is computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import as_batches, check_target_shape, check_targets, iterate, limited
from bitwright.graph.graph import Graph
from bitwright.graph.variants import HELD_BYTES, Variant, groups, run_variants
from bitwright.values import FLOAT, Policy, Sites, check_bits
from bitwright.values.sweep import Sweep, SweepRow

Loss = Callable[[Any, Any], Tensor]
Progress = Callable[[int, int | None], None]
Blocks = Mapping[str, Sequence[str]]


def sweep(
    graph: Graph,
    batches: Any,
    bits: Sequence[int | None] | Policy = (4,),
    *,
    base: Policy = FLOAT,
    sites: Iterable[str] | Blocks | None = None,
    loss: Loss | None = None,
    samples: int | None = None,
    held_bytes: int = HELD_BYTES,
    progress: Progress | None = None,
) -> Sweep:
    """Switch one site (or one block of sites) at a time and measure the model against float.

    From float, ``bits=(4,)`` puts each quantizer alone on. From a policy, ``base=policy, bits=(None,)`` puts each alone
    off, and ``bits=(8,)`` each alone at 8 bits. Rank by KL (nats): accuracy is saturated on images that the network was
    trained on, and coarse on a few hundred others.

    Args:
        graph: calibrated; its policy is left as it was.
        batches: iterable of (inputs, targets); without targets there is no accuracy and no loss.
        bits: widths, each for every site, None meaning float; or a policy that gives each site its own.
        base: what the other sites have.
        sites: names to sweep one by one, or label -> names that are switched together (:func:`blocks`); None: all.
        loss: (outputs, targets) -> (N,) losses; None for cross-entropy.
        samples: stop after so many inputs; None uses all.
        held_bytes: most bytes of activations that are kept while the sweep walks through the graph (one batch is
            kept in any case: what a forward pass on it holds).
        progress: called with (samples done, samples asked for or None), a sample being done when all variants are.

    Returns:
        One row for each site or block at each width, worst first.

    Raises:
        InvalidInput: unknown sites, nothing to sweep, not calibrated, or outputs that are not logits.
        InvalidData: no data, or targets that do not fit.
    """
    started = time.perf_counter()
    chosen = _variants(graph, bits, base, sites)
    variants = [variant for _, variant in chosen]
    tallies = [Tally() for _ in range(len(chosen) + 1)]
    reference = Tally()
    data = limited(iterate(as_batches(batches), graph.device, "a sweep"), samples)
    for group in groups(graph, data, held_bytes):
        before, finished = reference.samples, 0
        inputs = [batch for batch, _ in group]
        expected = [Expected(graph, batch, targets, loss) for batch, targets in group]
        for one in expected:
            reference.add(one, one.logits)
            if not base.bits:
                tallies[-1].add(one, one.logits)
        for position, i, outputs in run_variants(graph, inputs, variants, base, bool(base.bits)):
            tallies[position].add(expected[i], outputs)
            if progress is not None and i + 1 == len(inputs) and position < len(chosen):
                finished += 1
                progress(before + (reference.samples - before) * finished // len(chosen), samples)
    rows = [tally.row(label, v) for (label, v), tally in zip(chosen, tallies, strict=False)]
    sign = 1 if base.bits else -1
    note = "ranked by KL to float: accuracy is saturated on images that the network was trained on"
    return Sweep(
        tuple(sorted(rows, key=lambda row: sign * row.kl)),
        dict(base.bits),
        tallies[-1].row(base.name or "base", Variant(tuple(base.bits), base)),
        tuple(dict.fromkeys(label for label, _ in chosen)),
        reference.samples,
        reference.accuracy,
        reference.loss,
        graph.graph_hash,
        time.perf_counter() - started,
        (note,),
    )


def blocks(sites: Sites, depth: int = 2) -> dict[str, tuple[str, ...]]:
    """Sites grouped by the first ``depth`` parts of their names: label -> names, e.g. ``layer1.0`` -> its sites."""
    if depth < 1:
        raise InvalidInput(f"depth must be at least 1, got {depth}")
    found: dict[str, list[str]] = {}
    for site in sites:
        parts = site.name.removesuffix(".weight").split(".")
        found.setdefault(".".join(parts[:depth]), []).append(site.name)
    return {label: tuple(names) for label, names in found.items()}


def _variants(
    graph: Graph, bits: Sequence[int | None] | Policy, base: Policy, sites: Iterable[str] | Blocks | None
) -> list[tuple[str, Variant]]:
    base.check(graph.sites)
    if isinstance(sites, str):
        raise InvalidInput(f"sites must be a list of names or a mapping of blocks, got the text '{sites}'")
    if sites is None:
        named: Blocks = {name: (name,) for name in graph.sites.names}
    elif isinstance(sites, Mapping):
        named = sites
    else:
        named = {name: (name,) for name in sites}
    found: list[tuple[str, Variant]] = []
    for label, names in named.items():
        for name in names:
            graph.sites[name]  # raises for an unknown one
        if isinstance(bits, Policy):
            bits.check(graph.sites)
            changes = [{name: bits[name] for name in names}]
        else:
            widths = dict.fromkeys(None if b is None else check_bits(b, label) for b in bits)
            changes = [dict.fromkeys(names, width) for width in widths]
        for change in changes:
            policy = base.replaced(change)
            if dict(policy.bits) != dict(base.bits):
                found.append((label, Variant(tuple(names), policy)))
    if not found:
        raise InvalidInput("there is nothing to sweep: no site would have other bits than in the base policy")
    return found


class Expected:
    """The float model on one batch."""

    def __init__(self, graph: Graph, inputs: tuple[Any, ...], targets: Any, loss: Loss | None) -> None:
        with graph.applied(FLOAT), torch.no_grad():
            outputs = graph(*inputs)
        if not isinstance(outputs, Tensor) or outputs.dim() < 2 or outputs.shape[1] < 2:
            shape = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
            raise InvalidInput(
                f"a sweep needs logits of shape (batch, classes, ...) with at least 2 classes, got {shape}; "
                "wrap the model so that it returns its logits"
            )
        if targets is not None:
            check_target_shape(outputs, targets)
            check_targets(targets, outputs.shape[1])
        self.logits = outputs
        self.targets = targets
        self.loss = loss
        self.log_probabilities = outputs.double().log_softmax(1)
        self.predicted = outputs.argmax(1)
        self.signal = float(outputs.double().square().sum())
        if targets is not None:
            self.correct = _means(self.predicted == targets)
            self.losses = self.losses_of(outputs, self.log_probabilities)

    def losses_of(self, outputs: Tensor, log_probabilities: Tensor) -> Tensor:
        """(N,) losses, float64."""
        if self.loss is None:
            return _means(-log_probabilities.gather(1, self.targets.unsqueeze(1).long()).squeeze(1))
        values = torch.as_tensor(self.loss(outputs, self.targets))
        if values.dim() == 0 or values.shape[0] != len(outputs):
            raise InvalidInput(
                f"loss must return one number per sample, shape ({len(outputs)},), got shape {tuple(values.shape)}; "
                "use reduction='none'"
            )
        return _means(values)


def _means(values: Tensor) -> Tensor:
    """(N,) means over everything but the batch, float64."""
    values = values.double()
    return values.flatten(1).mean(1) if values.dim() > 1 else values


class Tally:
    """Sums over the samples of one variant."""

    def __init__(self) -> None:
        self.samples = 0
        self._kl = self._kl_squares = self._agree = self._signal = self._noise = 0.0
        self._labelled = False
        self._correct = self._correct_change = self._correct_squares = 0.0
        self._loss = self._loss_change = self._loss_squares = 0.0

    def add(self, expected: Expected, outputs: Tensor) -> None:
        """Take in one batch.

        Raises:
            InvalidData: outputs that are not finite.
        """
        q, p = outputs.double().log_softmax(1), expected.log_probabilities
        kl = _means((p.exp() * (p - q)).sum(1))
        total = float(kl.sum())
        if not math.isfinite(total):
            raise InvalidData("the model's outputs hold NaN or infinite values; check weights and inputs")
        self.samples += len(outputs)
        self._kl += total
        self._kl_squares += float(kl.square().sum())
        predicted = outputs.argmax(1)
        self._agree += float(_means(predicted == expected.predicted).sum())
        self._signal += expected.signal
        self._noise += float((outputs.double() - expected.logits.double()).square_().sum())
        if expected.targets is None:
            return
        self._labelled = True
        correct, losses = _means(predicted == expected.targets), expected.losses_of(outputs, q)
        self._correct += float(correct.sum())
        self._correct_change += float((correct - expected.correct).sum())
        self._correct_squares += float((correct - expected.correct).square().sum())
        self._loss += float(losses.sum())
        self._loss_change += float((losses - expected.losses).sum())
        self._loss_squares += float((losses - expected.losses).square().sum())

    @property
    def kl(self) -> float:
        """Mean KL to float, nats; rounding can make a divergence of nothing come out a little below zero."""
        return max(0.0, self._kl / self.samples)

    @property
    def accuracy(self) -> float | None:
        """Share of correct predictions."""
        return self._correct / self.samples if self._labelled else None

    @property
    def loss(self) -> float | None:
        """Mean loss."""
        return self._loss / self.samples if self._labelled else None

    def _error(self, total: float, squares: float) -> float:
        if self.samples < 2:
            return 0.0
        variance = (squares - total * total / self.samples) / (self.samples - 1)
        return math.sqrt(max(variance, 0.0) / self.samples)

    def row(self, label: str, variant: Variant) -> SweepRow:
        """The figures."""
        noise = self._noise if self._noise > 0 else 0.0
        return SweepRow(
            label,
            variant.sites,
            tuple(variant.policy[site] for site in variant.sites),
            self.kl,
            self._error(self._kl, self._kl_squares),
            self._agree / self.samples,
            10 * math.log10(self._signal / noise) if noise and self._signal else math.inf,
            self.accuracy,
            self._error(self._correct_change, self._correct_squares) if self._labelled else None,
            self.loss,
            self._error(self._loss_change, self._loss_squares) if self._labelled else None,
        )

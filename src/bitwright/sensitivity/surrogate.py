"""The logit-additive surrogate: how each site alone moves the logits, added up to predict whole policies.

For each site s and width b the graph runs once with only s quantized, and the change of the logits U[s, b] is kept.
A policy's logits are predicted as z + sum_s U[s, c(s)]; agreement, KL, accuracy and loss follow without running it.
The further a policy is from float, the less the changes add up: rank candidates with it, then measure the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput, PolicyMismatch, nearest
from bitwright.graph.batches import as_batches, iterate, limited
from bitwright.graph.graph import Graph
from bitwright.graph.variants import Variant, groups, run_variants
from bitwright.sensitivity.noise import checked_widths
from bitwright.settings import DEFAULTS
from bitwright.tasks.classification import check_classes
from bitwright.values import FLOAT, Policy

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int | None], None]

KEPT_BYTES = 1 << 30  # logit changes kept: 1 GiB


@dataclass(frozen=True)
class Prediction:
    """What the surrogate says about a policy.

    Attributes:
        agreement: share of inputs on which the predicted class stays float's.
        kl: mean Kullback-Leibler divergence from float, nats.
        accuracy: share of correct predictions; None without targets.
        loss: mean cross-entropy, nats; None without targets.
    """

    agreement: float
    kl: float
    accuracy: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class LogitSurrogate:
    """Logit changes of every site at every width on the same inputs.

    Takes 4 x S x B x N x K bytes: 61 MB for 50 sites, 6 widths, 512 inputs and 100 classes.

    Attributes:
        sites: (S,) names, in the order of execution.
        bits: (B,) widths, ascending.
        logits: (N, K) of the float model, float32.
        changes: (S, B, N, K) change of the logits with one site quantized, float32.
        targets: (N,) class indices, or None.
        graph_hash: the graph it was made for.
    """

    sites: tuple[str, ...]
    bits: tuple[int, ...]
    logits: Floats
    changes: Floats
    targets: npt.NDArray[np.int64] | None = None
    graph_hash: str = ""

    def predicted_logits(self, policy: Policy) -> npt.NDArray[np.float64]:
        """(N, K) float logits plus the changes of the policy's sites.

        Raises:
            InvalidInput: a site or width that it does not have.
            PolicyMismatch: a policy of another graph.
        """
        if policy.graph_hash and self.graph_hash and policy.graph_hash != self.graph_hash:
            raise PolicyMismatch(
                f"the policy was made for graph {policy.graph_hash}, the surrogate for {self.graph_hash}"
            )
        total = self.logits.astype(np.float64)
        for site, width in policy.bits.items():
            if site not in self.sites:
                raise InvalidInput(f"the surrogate has no site '{site}'{nearest(site, self.sites)}")
            if width not in self.bits:
                raise InvalidInput(f"the surrogate has bits {self.bits}, not {width} for site '{site}'")
            total += self.changes[self.sites.index(site), self.bits.index(width)]
        return total

    def predict(self, policy: Policy) -> Prediction:
        """Predicted figures of a whole policy; errors as in :meth:`predicted_logits`."""
        p, q = _log_softmax(self.logits.astype(np.float64)), _log_softmax(self.predicted_logits(policy))
        chosen = q.argmax(1)
        kl = float((np.exp(p) * (p - q)).sum(1).mean())
        agreement = float((chosen == p.argmax(1)).mean())
        if self.targets is None:
            return Prediction(agreement, max(0.0, kl))
        loss = -q[np.arange(len(q)), self.targets].mean()
        return Prediction(agreement, max(0.0, kl), float((chosen == self.targets).mean()), float(loss))


def _log_softmax(z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    z = z - z.max(1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(1, keepdims=True)))


def logit_surrogate(
    graph: Graph,
    batches: Any,
    bits: Sequence[int] = DEFAULTS.bits,
    *,
    samples: int | None = None,
    kept_bytes: int = KEPT_BYTES,
    progress: Progress | None = None,
) -> LogitSurrogate:
    """Measure how each site at each width alone changes the logits; only what a site reaches is computed.

    Args:
        graph: calibrated; its policy is left as it was.
        batches: iterable of (inputs, targets); targets may be missing.
        bits: widths.
        samples: stop after so many inputs; None uses all.
        kept_bytes: refuse to keep more than this.
        progress: called with (samples done, samples asked for or None).

    Raises:
        InvalidInput: outputs that are not logits of shape (N, K), or more to keep than ``kept_bytes``.
        InvalidData: no data, or targets that do not fit.
    """
    widths = checked_widths(bits)
    names = graph.sites.names
    variants = [Variant((name,), Policy({name: width})) for name in names for width in widths]
    logits: list[Tensor] = []
    changes: list[list[Tensor]] = [[] for _ in variants]
    targets: list[Any] = []
    done = 0
    data = limited(iterate(as_batches(batches), graph.device, "the surrogate"), samples)
    for group in groups(graph, data):
        inputs = [batch for batch, _ in group]
        with graph.applied(FLOAT), torch.no_grad():
            expected = [graph(*batch) for batch in inputs]
        for outputs, (_, wanted) in zip(expected, group, strict=True):
            _check(outputs, wanted)
            done += len(outputs)
            need = 4 * len(variants) * done * outputs.shape[1]
            if need > kept_bytes:
                fitting = kept_bytes // (4 * len(variants) * outputs.shape[1])
                raise InvalidInput(
                    f"the surrogate would keep more than {kept_bytes / 1e6:,.0f} MB; ask for samples={fitting} or "
                    "fewer widths, or raise kept_bytes"
                )
            logits.append(outputs.float().cpu())
            targets.append(wanted)
        for position, i, outputs in run_variants(graph, inputs, variants):
            changes[position].append((outputs - expected[i]).float().cpu())
        if progress is not None:
            progress(done, samples)
    z = torch.cat(logits)
    stacked = torch.stack([torch.cat(parts) for parts in changes]) if variants else z.new_empty(0)
    if not math.isfinite(float(stacked.sum())):
        raise InvalidData("the model's outputs hold NaN or infinite values; check weights and inputs")
    known = None if any(t is None for t in targets) else torch.cat([t.cpu() for t in targets]).long().numpy()
    shape = (len(names), len(widths), *z.shape)
    return LogitSurrogate(names, widths, z.numpy(), stacked.reshape(shape).numpy(), known, graph.graph_hash)


def _check(outputs: Any, targets: Any) -> None:
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape[1] < 2:
        shape = f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(f"the surrogate needs logits of shape (batch, classes) with at least 2 classes, got {shape}")
    check_classes(outputs, targets)

"""The Hessian's trace at each site, by Hutchinson's estimator: what HAWQ-V2 ranks layers by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from bitwright.errors import InvalidInput, first_line
from bitwright.graph.graph import Graph
from bitwright.graph.places import site_calls
from bitwright.graph.walk import Call, Hook, Walk
from bitwright.sensitivity.evidence import MINIMUM, Evidence, micro_batches, settled, standard_error
from bitwright.sensitivity.fit import losses
from bitwright.sensitivity.method import METHODS, Array, Method, Scores
from bitwright.values import FLOAT

VECTORS = 4
"""Random vectors for each batch."""
_NOT_POSITIVE = "the Hessian's trace is not positive"


def hessian_trace(evidence: Evidence) -> Scores:
    """HAWQ-V2 (Dong et al., NeurIPS 2020): harm[s, b] = Tr(H_s) E[d_{s,b}^2], which is Tr(H_s) / n_s ||Q(t) - t||^2.

    H_s is the mean, over the samples, of the second derivative of a sample's loss by the tensor at the site; for an
    activation this is the sample's own tensor. Hutchinson's estimator of all traces at once: E[v . H v] over vectors v
    of random signs, of which each site's part is an estimate of its own trace. Estimates below zero, which a network
    that is not at a minimum can have, count as no harm, and such sites are doubted.
    """
    found: list[Array] = []
    done = 0
    with evidence.graph.applied(FLOAT):
        generator = torch.Generator().manual_seed(0)
        for inputs, targets in micro_batches(evidence.graph, evidence.batches, evidence.samples):
            count = len(inputs[0])
            loss = partial(losses, evidence.task, targets=targets, count=count)
            found += list(trace_estimates(evidence.graph, inputs, loss, VECTORS, generator))
            done += count
            if evidence.progress is not None:
                evidence.progress(done, evidence.samples)
            enough = evidence.tolerance is not None and done >= MINIMUM
            if enough and settled({"": [np.stack(found)]}, evidence.tolerance or 0.0):
                break
    estimates = np.stack(found)
    trace, error = estimates.mean(0), standard_error(estimates)
    names = evidence.graph.sites.names
    return Scores(
        np.maximum(trace, 0.0)[:, None] * evidence.noise,
        error[:, None] * evidence.noise,
        done,
        parts={"trace": trace, "trace_standard_error": error},
        notes=evidence.notes,
        doubts={name: _NOT_POSITIVE for name, value in zip(names, trace, strict=True) if value <= 0.0},
    )


def trace_estimates(
    graph: Graph,
    inputs: tuple[Any, ...],
    loss: Callable[[Any], Tensor],
    vectors: int,
    generator: torch.Generator,
) -> Iterator[Array]:
    """Estimates (S,) of the traces of one batch's mean Hessian at the sites of the float graph, one for each vector.

    Args:
        graph: its policy must be float.
        inputs: one batch.
        loss: outputs -> (N,) losses.
        vectors: how many.
        generator: draws their signs.

    Raises:
        InvalidInput: an operation has no second derivative.
    """
    leaves: dict[str, list[Tensor]] = {name: [] for name in graph.sites.names}

    def added(site: str, shared: bool, call: Call) -> Any:
        """The value plus zeros, by which is differentiated; uses of one weight share theirs."""
        value = call.args[0]
        if not shared or not leaves[site]:
            leaves[site].append(torch.zeros_like(value, requires_grad=True))
        return value + leaves[site][-1]

    hooks: dict[Node, Hook] = {
        node: partial(added, stands.site.name, stands.site.kind == "weight")
        for node, stands in site_calls(graph.module).items()
    }
    # Fused attention has a first derivative only.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        mean = loss(Walk(graph.module)(inputs, hooks)).mean()
        places = [(row, leaf) for row, name in enumerate(graph.sites.names) for leaf in leaves[name]]
        flat = [leaf for _, leaf in places]
        try:
            gradients = torch.autograd.grad(mean, flat, create_graph=True, materialize_grads=True)
            for left in reversed(range(vectors)):
                signs = [
                    (torch.randint(2, leaf.shape, generator=generator) * 2 - 1).to(leaf.device, leaf.dtype)
                    for leaf in flat
                ]
                product = torch.stack([(g * v).sum() for g, v in zip(gradients, signs, strict=True)]).sum()
                second = torch.autograd.grad(product, flat, retain_graph=left > 0, materialize_grads=True)
                estimate = np.zeros(len(graph.sites))
                for (row, _), v, changed in zip(places, signs, second, strict=True):
                    # Of an activation, each sample's own tensor counts: the mean's Hessian has 1 / N of its second
                    # derivative, and the N samples' traces add up to their mean.
                    estimate[row] += float((v * changed).sum(dtype=torch.float64))
                yield estimate
        except RuntimeError as error:
            why = first_line(error)
            raise InvalidInput(
                f"hessian-trace needs a network that can be differentiated twice ({why}); use method='fit'"
            ) from error


METHODS.register(
    Method(
        name="hessian-trace",
        order=35,
        called="the Hessian's trace",
        does="The trace of the Hessian times the rounding error (HAWQ-V2), a baseline.",
        needs="targets, unless the task needs none; operations that can be differentiated twice",
        costs="some thirty float passes",
        unit="change of the loss, twice",
        function=hessian_trace,
    )
)

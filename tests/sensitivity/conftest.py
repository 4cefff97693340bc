from __future__ import annotations

import pytest
import torch

from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer


def _single_sample_gradients(graph, inputs, score):
    """For each sample: site -> list of gradients, from one backward pass of that sample alone."""
    found = []
    weights = [(name, q.weight) for name, q in graph.quantizers.items() if isinstance(q, WeightQuantizer)]
    for n in range(len(inputs[0])):
        probes, hooks = [], []
        for name, quantizer in graph.quantizers.items():
            if isinstance(quantizer, ActivationQuantizer):

                def add_zero(module, arguments, result, name=name, probes=probes):
                    zero = torch.zeros_like(result, requires_grad=True)
                    probes.append((name, zero, result.detach()))
                    return result + zero

                hooks.append(quantizer.register_forward_hook(add_zero))
        for _, weight in weights:
            weight.requires_grad_(True)
        try:
            total = score(graph.module(*(value[n : n + 1] for value in inputs)), n)
            leaves = [(name, leaf, value) for name, leaf, value in probes]
            leaves += [(name, weight, weight.detach()) for name, weight in weights]
            gradients = torch.autograd.grad(total, [leaf for _, leaf, _ in leaves], allow_unused=True)
        finally:
            for _, weight in weights:
                weight.requires_grad_(False)
            for hook in hooks:
                hook.remove()
        sample: dict[str, list] = {name: [] for name in graph.sites.names}
        for (name, _, value), gradient in zip(leaves, gradients, strict=True):
            if gradient is not None:
                sample[name].append((gradient, value))
        found.append(sample)
    return found


@pytest.fixture
def brute_norms():
    """(N, S) squared gradient norms by a loop of single-sample backward passes."""

    def brute(graph, inputs, score):
        samples = _single_sample_gradients(graph, inputs, score)
        return torch.tensor(
            [[sum(float(g.double().square().sum()) for g, _ in parts) for parts in s.values()] for s in samples],
            dtype=torch.float64,
        )

    return brute


@pytest.fixture
def brute_products():
    """(N, S, B) inner products of single-sample gradients with rounding errors."""
    from bitwright.numerics.affine import fake_quantize

    def brute(graph, inputs, score, bits):
        rows = []
        for sample in _single_sample_gradients(graph, inputs, score):
            rows.append([])
            for name, parts in sample.items():
                grids = [graph.quantizers[name].grid(b) for b in bits]
                rows[-1].append(
                    [sum(float((g * (fake_quantize(v, a) - v)).double().sum()) for g, v in parts) for a in grids]
                )
        return torch.tensor(rows, dtype=torch.float64)

    return brute

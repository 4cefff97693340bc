"""The graph with its sites: applying policies and running them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from bitwright.errors import InvalidInput
from bitwright.graph.additions import TieFreeSteps
from bitwright.graph.pt2e import quiet
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.quantizers.uniform import ActivationQuantizer, WeightQuantizer
from bitwright.values import FLOAT, Policy, Sites


class Graph:
    """A captured network in which every tensor that can be quantized passes through its quantizer.

    Calling it runs the network under the policy that was applied last; without one it computes what the
    original model computes.

    Attributes:
        module: the underlying ``torch.fx.GraphModule``.
        sites: the sites, in the order of execution.
        quantizers: site name -> the module that stands there.
        example_inputs: a small batch of inputs, for shapes and export.
        repairs: names of the repairs that were applied, in their order.
    """

    def __init__(
        self, module: GraphModule, sites: Sites, quantizers: Mapping[str, Quantizer], example_inputs: tuple[Any, ...]
    ) -> None:
        self.module = module
        self.sites = sites
        self.quantizers = dict(quantizers)
        self.example_inputs = example_inputs
        self.repairs: list[str] = []
        self._lasting: set[str] = set()
        self._tie_free_steps = TieFreeSteps(module)
        self._policy = FLOAT

    def __call__(self, *inputs: Any) -> Any:
        """Run the network under the present policy; inputs as the model takes them."""
        if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
            inputs = tuple(inputs[0])
        self.check(inputs)
        return self.module(*inputs)

    def copy(self) -> Graph:
        """A graph of its own, with its own weights, ranges and repairs."""
        with quiet():
            return copy.deepcopy(self)

    def check(self, inputs: tuple[Any, ...]) -> None:
        """Raise :class:`InvalidInput` unless the inputs have the number and shapes that the graph was captured with."""
        if len(inputs) != len(self.example_inputs):
            raise InvalidInput(f"the graph takes {len(self.example_inputs)} inputs, got {len(inputs)}")
        for value, example in zip(inputs, self.example_inputs, strict=True):
            if isinstance(value, Tensor) and value.shape[1:] != example.shape[1:]:
                wanted = ", ".join(str(n) for n in example.shape[1:])
                raise InvalidInput(
                    f"inputs must have shape (batch, {wanted}), got {tuple(value.shape)}; "
                    "capture the model again with example_inputs of the shape that you use"
                )

    @property
    def policy(self) -> Policy:
        """The policy in force."""
        return self._policy

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self.module.parameters()), torch.empty(0)).device

    @property
    def graph_hash(self) -> str:
        """Identifies structure and float weights at capture."""
        return self.sites.graph_hash

    def apply(self, policy: Policy) -> Graph:
        """Put a policy in force; ``bw.FLOAT`` undoes it, and the outputs are bit for bit those of before.

        Args:
            policy: sites that it doesn't name go to float.

        Returns:
            The graph itself.

        Raises:
            InvalidPolicy: it names unknown sites.
            PolicyMismatch: it was made for another graph.
            InvalidInput: an activation has no range yet (see :func:`calibrate`).
        """
        policy.check(self.sites)
        bits = policy.bits
        for name, width in bits.items():
            quantizer = self.quantizers[name]
            if isinstance(quantizer, ActivationQuantizer):
                quantizer.check_range(width)
        for name, quantizer in self.quantizers.items():
            quantizer.bits = bits.get(name)
        self._tie_free_steps.settle(self.quantizers)
        self._policy = policy
        return self

    @contextlib.contextmanager
    def applied(self, policy: Policy) -> Iterator[Graph]:
        """Put a policy in force within a ``with`` block, then the one of before again."""
        before = self._policy
        try:
            yield self.apply(policy)
        finally:
            self.apply(before)

    def to(self, device: str | torch.device) -> Graph:
        """Move weights and grids to a device; returns the graph itself."""
        self.module.to(device)
        self.example_inputs = tuple(value.to(device) for value in self.example_inputs)
        for quantizer in self.quantizers.values():
            if isinstance(quantizer, (ActivationQuantizer, WeightQuantizer)):
                quantizer.reset()
        return self.apply(self._policy)

    def weight(self, site: str) -> Tensor:
        """The float weight at a weight site."""
        quantizer = self.quantizers[self.sites[site].name]
        if not isinstance(quantizer, WeightQuantizer):
            raise InvalidInput(f"site '{site}' is an activation; it has no weight")
        return quantizer.weight

    def forget_fitted(self) -> None:
        """Take back the biases that repairs fitted to the present ranges; rescaled weights and granularities stay.

        :func:`calibrate` calls it: with new ranges, learned rounding and corrections no longer fit.
        """
        for module in self.module.modules():
            if isinstance(module, BiasQuantizer):
                for bits in list(module.corrections):
                    module.correct(bits, None)
        self.repairs = [name for name in self.repairs if name in self._lasting]

    def note_repair(self, name: str, lasting: bool) -> None:
        """Keep in mind that a repair was applied; a lasting one changed the network, not what was fitted to ranges."""
        self.repairs.append(name)
        if lasting:
            self._lasting.add(name)

    def biases(self) -> dict[str, BiasQuantizer]:
        """Biases that are rounded along with their operation, by the parameter's name."""
        return {m.name: m for m in self.module.modules() if isinstance(m, BiasQuantizer)}

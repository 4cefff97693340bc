"""The graph with its sites: applying policies and running them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from bitwright.errors import InvalidInput
from bitwright.graph.additions import TieFreeSteps
from bitwright.graph.calling import Calling, named_inputs
from bitwright.graph.factors import Factors
from bitwright.graph.names import attribute_at
from bitwright.graph.places import BIASES, SITES, own_biases, weight_at
from bitwright.graph.pt2e import quiet
from bitwright.numerics.affine import Affine
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.values import FLOAT, Coverage, Policy, Scheme, Sites


class Graph:
    """A captured network in which every tensor that can be quantized passes through its quantizer.

    Calling it runs the network under the policy that was applied last; without one it computes what the
    original model computes.

    Attributes:
        module: the underlying ``torch.fx.GraphModule``.
        sites: the sites, in the order of execution.
        quantizers: site name -> the module that stands there; :meth:`put` changes it.
        example_inputs: a small batch of inputs, for shapes and export.
        calling: how the model is called, and the names of its inputs.
        repairs: names of the repairs that were applied, in their order.
    """

    made_by: ClassVar[str] = "bw.capture(model, example_inputs)"

    def __init__(
        self,
        module: GraphModule,
        sites: Sites,
        quantizers: dict[str, Quantizer],
        example_inputs: tuple[Any, ...],
        calling: Calling,
    ) -> None:
        self.module = module
        self.sites = sites
        self.quantizers = quantizers  # the very table in which the biases look their grids up
        self.example_inputs = example_inputs
        self.calling = calling
        self.repairs: list[str] = []
        self._lasting: set[str] = set()
        self._tie_free_steps = TieFreeSteps(module)
        self._factors = Factors(module, frozenset().union(*self._tie_free_steps.groups))
        self._own_biases = own_biases(module)
        self._policy = FLOAT

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the network under the present policy; inputs as the model takes them."""
        if len(inputs) == 1 and isinstance(inputs[0], (tuple, list)):
            inputs = tuple(inputs[0])
        if named or (len(inputs) == 1 and isinstance(inputs[0], Mapping)):
            inputs = self.calling.arranged(named_inputs(named or inputs[0]))
        self.check(inputs)
        return self.module(*inputs)

    def copy(self) -> Graph:
        """A graph of its own, with its own weights, ranges and repairs."""
        with quiet():
            return copy.deepcopy(self)

    def arranged(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """The inputs of a batch in the graph's order, on its device."""
        device = self.device
        return tuple(value.to(device) for value in self.calling.arranged(inputs))

    def check(self, inputs: tuple[Any, ...]) -> None:
        """Raise :class:`InvalidInput` unless the inputs have the number and shapes that the graph was captured with."""
        if len(inputs) != len(self.example_inputs):
            raise InvalidInput(f"the graph takes {len(self.example_inputs)} inputs, got {len(inputs)}")
        free = self.calling.free or ((),) * len(inputs)
        for value, example, axes in zip(inputs, self.example_inputs, free, strict=True):
            if not isinstance(value, Tensor):
                continue
            wanted = ["any" if axis in axes else str(size) for axis, size in enumerate(example.shape)]
            given = ["any" if axis in axes else str(size) for axis, size in enumerate(value.shape)]
            if wanted[1:] != given[1:]:
                raise InvalidInput(
                    f"inputs must have shape (batch, {', '.join(wanted[1:])}), got {tuple(value.shape)}; "
                    "capture the model again with example_inputs of the shape that you use, or with others= of several"
                )

    @property
    def policy(self) -> Policy:
        """The current policy."""
        return self._policy

    @property
    def coverage(self) -> Coverage:
        """How much of the network the sites reach, and what stays in float whatever the policy."""
        return self.sites.coverage

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(chain(self.module.parameters(), self.module.buffers()), torch.empty(0)).device

    @property
    def graph_hash(self) -> str:
        """Identifies structure and float weights at capture."""
        return self.sites.graph_hash

    def apply(self, policy: Policy) -> Graph:
        """Make a policy the current one; ``bw.FLOAT`` undoes it, and the outputs are bit for bit those of before.

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
            self.quantizers[name].check_range(width)
        for name, quantizer in self.quantizers.items():
            quantizer.bits = bits.get(name)
            quantizer.settle(None)
        self._tie_free_steps.settle(self.quantizers)
        self._factors.settle(self.quantizers)
        for label, path in self._own_biases.items():
            stands: BiasQuantizer = self.module.get_submodule(label)  # type: ignore[assignment]
            stands.settle(attribute_at(self.module, path))
        self._policy = policy
        return self

    @contextlib.contextmanager
    def applied(self, policy: Policy) -> Iterator[Graph]:
        """Make a policy the current one within a ``with`` block, then the one before it again."""
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
            quantizer.reset()
        for name, weight in self._weights().items():
            self.quantizers[name].hold(weight)
        return self.apply(self._policy)

    def suited(self, name: str, grid: Affine) -> Affine:
        """A grid for a weight whose integers are going to be fixed, for the present widths of its neighbours.

        Its steps are the next larger ones with which a runtime's kernels round as the simulation does; see
        :mod:`bitwright.graph.factors`.
        """
        return self._factors.suited(name, grid, self.quantizers)

    def put(self, site: str, quantizer: Quantizer) -> Quantizer:
        """Put a quantizer at a site; it is under the present policy at once.

        Args:
            site: name of the site.
            quantizer: of one's own or one of Bitwright's, made for a site of the same kind. The site's name and scheme
                and, at a weight site, the float weight become its own.

        Returns:
            The one that stood there, to be put back.

        Raises:
            InvalidInput: an unknown site or one of the other kind, or a range that the current policy needs is
                missing; the graph is then as it was.
        """
        before = self.quantizers[self.sites[site].name]
        if quantizer.site.kind != before.site.kind:
            raise InvalidInput(
                f"site '{site}' needs a quantizer made for the kind '{before.site.kind}', got a "
                f"{type(quantizer).__name__} made for '{quantizer.site.kind}'"
            )
        bits = self._policy[site]
        if bits is not None:
            quantizer.check_range(bits)
        if quantizer.site != before.site:
            quantizer.site = before.site
            quantizer.refit()
        if before.site.kind == "weight":
            quantizer.hold(self._weights()[site])
        holder = self.module.get_submodule(SITES)
        setattr(holder, next(label for label, stands in holder.named_children() if stands is before), quantizer)
        self.quantizers[site] = quantizer
        self.apply(self._policy)
        return before

    def weight(self, site: str) -> Tensor:
        """The float weight at a weight site."""
        if self.sites[site].kind != "weight":
            raise InvalidInput(f"site '{site}' is an activation; it has no weight")
        return self.quantizers[site].weight

    def _weights(self) -> dict[str, Tensor]:
        """Weight site -> the tensor that the network has there now."""
        found: dict[str, Tensor] = {}
        for node in self.module.graph.nodes:
            stands = weight_at(self.module, node)
            if stands is not None:
                found.setdefault(stands.site.name, attribute_at(self.module, str(node.args[0].target)))
        return found

    def set_scheme(self, site: str, scheme: Scheme) -> None:
        """Quantize a site by another scheme; grids and roundings that were fixed there are forgotten."""
        quantizer = self.quantizers[site]
        quantizer.site = replace(quantizer.site, scheme=scheme)
        self.sites = self.sites.with_scheme(site, scheme)
        quantizer.refit()

    def forget_fitted(self) -> None:
        """Take back the biases that repairs fitted to the present ranges; rescaled weights and granularities stay.

        :func:`calibrate` calls it: with new ranges, learned rounding and corrections no longer fit.
        """
        for quantizer in self.biases().values():
            for bits in list(quantizer.corrections):
                quantizer.correct(bits, None)
        self.repairs = [name for name in self.repairs if name in self._lasting]

    def note_repair(self, name: str, lasting: bool) -> None:
        """Keep in mind that a repair was applied; a lasting one changed the network, not what was fitted to ranges."""
        self.repairs.append(name)
        if lasting:
            self._lasting.add(name)

    def linked(self, site: str) -> tuple[str, ...]:
        """The site and those whose steps depend on its own (:mod:`bitwright.graph.additions`, and ``factors``)."""
        together = next((group for group in self._tie_free_steps.groups if site in group), (site,))
        return tuple(dict.fromkeys((*together, *(name for one in together for name in self._factors.depending(one)))))

    def biases(self) -> dict[str, BiasQuantizer]:
        """Biases that are rounded along with their operation, by the label under which they stand in the graph."""
        return dict(self.module.get_submodule(BIASES).named_children())  # type: ignore[arg-type]

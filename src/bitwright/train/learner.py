"""What quantization-aware training learns: steps, weights and biases, all of them in what stands at the sites."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import bias_tensor, layers_of
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.quantizers.learned_step import LearnedStep


class Learner:
    """Puts learned steps at the sites of a policy, and what they learned into the quantizers that stood there.

    The float weights of the graph stay what they are: moves of the weights stand in the quantizers, those of the
    biases in their corrections.

    Args:
        graph: calibrated, perhaps repaired; its policy is the one that is trained.

    Raises:
        InvalidInput: a quantizer that takes no grids stands at one of the sites.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.policy = graph, graph.policy
        self._before: dict[str, Quantizer] = {}
        for name in self.policy.bits:
            stands = graph.quantizers[name]
            if not stands.takes_grids:
                raise InvalidInput(
                    f"the {type(stands).__name__} at site '{name}' takes no grid from training; put a uniform one there"
                )
            self._before[name] = stands
        self.learned = {name: _learned(self._before[name], bits) for name, bits in self.policy.bits.items()}
        rounded = [(bias, own, self.policy[bias.weight_site]) for bias, own in _biases(graph)]
        self.biases = [LearnedBias(bias, own, bits, self.learned) for bias, own, bits in rounded if bits is not None]
        self.put(self.learned)

    def put(self, quantizers: Any) -> None:
        """Put a quantizer at each of the sites, under the policy."""
        for name, quantizer in quantizers.items():
            self.graph.put(name, quantizer)

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Parameters for an optimizer whose steps do not depend on the scale of gradients, such as Adam.

        Args:
            rate: of weights, in steps of their grids; activations' steps and biases follow from it.
        """
        moves = [each.moves for each in self.learned.values() if each.moves is not None]
        steps = [each.log_step for each in self.learned.values()]
        return [
            {"params": moves, "lr": rate},
            {"params": [bias.move for bias in self.biases], "lr": rate},
            {"params": steps, "lr": rate / 4},
        ]

    def refresh(self) -> None:
        """Give the biases their present values."""
        for bias in self.biases:
            bias.put()

    def shorten(self) -> None:
        """Take steps that runtimes represent exactly, from now on as they are; weights and biases are learned on."""
        for quantizer in self.learned.values():
            quantizer.shorten()
        self.graph.apply(self.policy)

    def state(self) -> dict[str, Tensor]:
        """Everything that is learned."""
        found = {}
        for name, quantizer in self.learned.items():
            found.update({f"{name}/{key}": value.detach().clone() for key, value in quantizer.state_dict().items()})
        for bias in self.biases:
            found[f"{bias.name}/move"] = bias.move.detach().clone()
        return found

    def load(self, state: dict[str, Tensor], short: bool) -> None:
        """Go back to what :meth:`state` gave, with steps that were short or not."""
        if short:
            self.shorten()
        with torch.no_grad():
            for name, quantizer in self.learned.items():
                for key, value in quantizer.state_dict().items():
                    value.copy_(state[f"{name}/{key}"])
                quantizer.reset()
            for bias in self.biases:
                bias.move.copy_(state[f"{bias.name}/move"])
        self.graph.apply(self.policy)

    def integers(self) -> dict[str, Tensor]:
        """Weight site -> its present integers, int8 or int16."""
        found = {}
        for name, quantizer in self.learned.items():
            if quantizer.moves is not None:
                kind = torch.int8 if quantizer.width <= 8 else torch.int16
                found[name] = quantizer.integers(quantizer.width).to(kind)
        return found

    def finish(self) -> None:
        """Give what was learned to the quantizers that stood at the sites before, and put them there again."""
        for name, bits in self.policy.bits.items():
            quantizer, before = self.learned[name], self._before[name]
            rounded = None if quantizer.moves is None else quantizer.integers(bits)
            self.graph.put(name, before)
            before.fix(bits, quantizer.own_grid(bits), rounded)
        for bias in self.biases:
            bias.keep()
        self.graph.apply(self.policy)

    def undo(self) -> None:
        """Leave the graph as it was before."""
        self.put(self._before)
        for bias in self.biases:
            bias.undo()
        self.graph.apply(self.policy)


def _learned(before: Quantizer, bits: int) -> LearnedStep:
    weight = before.weight if before.site.kind == "weight" else None
    made = LearnedStep(before.site, bits, before.own_grid(bits), weight, before.settling)
    if weight is not None and before.learned(bits):
        made.to(weight.device)
        made.fix(bits, before.grid(bits), before.integers(bits))
    return made


def _biases(graph: Graph) -> Iterable[tuple[BiasQuantizer, Tensor]]:
    """The biases that are rounded, each with its float values."""
    seen = set()
    for layer in layers_of(graph):
        own = bias_tensor(graph, layer)
        if layer.bias is not None and own is not None and id(layer.bias) not in seen:
            seen.add(id(layer.bias))
            yield layer.bias, own


class LearnedBias:
    """A bias whose moves are learned, in units of the noise that rounding adds to the layer's output.

    Args:
        bias: follows it.
        own: its float values, (channels,).
        bits: the width of the layer's weight.
        learned: site -> learned step, for the unit.
    """

    def __init__(self, bias: BiasQuantizer, own: Tensor, bits: int, learned: dict[str, LearnedStep]) -> None:
        self.bias, self.bits, self.name = bias, bits, bias.name
        self._before = bias.corrections.get(bits)
        self.start = (own if self._before is None else self._before).detach().clone()
        self.move = nn.Parameter(torch.zeros_like(self.start))
        weight = learned[bias.weight_site]
        inputs = learned.get(bias.input_site or "")
        terms = weight.weight.numel() / max(self.start.numel(), 1)
        # Uniform rounding errors have a variance of step^2 / 12; inputs lie about a quarter of their range from zero.
        size = 1.0 if inputs is None else float(inputs.first.mean()) * 2.0**inputs.width / 4
        step = weight.first.flatten()
        step = step if step.numel() == self.start.numel() else step.mean()
        self.unit = (step * math.sqrt(terms / 12) * size).to(self.start).expand_as(self.start)

    def value(self) -> Tensor:
        """(channels,) the present bias, with the gradient of the moves."""
        return self.start + self.unit * self.move

    def put(self) -> None:
        """Have the network use the present bias."""
        self.bias.corrections[self.bits] = self.value()

    def keep(self) -> None:
        """Make the present bias a correction like any other."""
        self.bias.correct(self.bits, self.value())

    def undo(self) -> None:
        """Go back to the correction that was there, or to none."""
        self.bias.correct(self.bits, self._before)


def moved_share(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Share of the weights whose integers differ."""
    return _share([one[name] != other[name] for name in one])


def returned_share(now: dict[str, Tensor], last: dict[str, Tensor], before: dict[str, Tensor]) -> float:
    """Share of the weights whose integers left a value and came back to it: those that oscillate."""
    return _share([(now[name] == before[name]) & (now[name] != last[name]) for name in now])


def _share(marked: list[Tensor]) -> float:
    return sum(int(mask.sum()) for mask in marked) / max(sum(mask.numel() for mask in marked), 1)

"""What quantization-aware training learns: steps, weights and biases, all of them in what stands at the sites."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import InvalidInput
from bitwright.graph.graph import Graph
from bitwright.graph.layers import Layer, bias_tensor, layers_of
from bitwright.graph.walk import Walk
from bitwright.quantizers.base import Quantizer
from bitwright.quantizers.learned_step import LearnedStep
from bitwright.train.biases import LearnedBias
from bitwright.train.norms import LiveNorm, Statistics
from bitwright.train.workers import Workers


class Learner:
    """Puts learned steps at the sites of a policy, and what they learned into the quantizers that stood there.

    The float weights of the graph stay what they are: moves of the weights stand in the quantizers, those of the
    biases in their corrections.

    Args:
        graph: calibrated, perhaps repaired; its policy is the one that is trained.
        live: whether convolutions get a live batch norm, see :mod:`bitwright.train.norms`.
        workers: who shares the batches.

    Attributes:
        settled: whether steps and norms are as they stay, see :meth:`settle`.

    Raises:
        InvalidInput: a quantizer that takes no grids stands at one of the sites.
    """

    def __init__(self, graph: Graph, live: bool = False, workers: Workers | None = None) -> None:
        self.graph, self.policy = graph, graph.policy
        self._workers = workers or Workers()
        self._before: dict[str, Quantizer] = {}
        for name in self.policy.bits:
            stands = graph.quantizers[name]
            if not stands.takes_grids:
                raise InvalidInput(
                    f"the {type(stands).__name__} at site '{name}' takes no grid from training; put a uniform one there"
                )
            self._before[name] = stands
        self.learned = {name: _learned(self._before[name], bits) for name, bits in self.policy.bits.items()}
        self.settled = False
        self.biases: list[LearnedBias] = []
        self.norms: list[LiveNorm] = []
        used = Counter(layer.weight.site.name for layer in layers_of(graph))
        for layer, own in _biased(graph):
            name = layer.weight.site.name
            if name not in self.learned or layer.bias is None:
                continue
            self.biases.append(LearnedBias(layer.bias, own, self.learned[name].width, self.learned))
            if live and used[name] == 1 and LiveNorm.fits(layer, self.learned[name]):
                self.norms.append(LiveNorm(layer.node, self.learned[name], self.biases[-1], self._workers))
        self._walk = Walk(graph.module)
        self.put(self.learned)

    def __call__(self, inputs: tuple[Any, ...]) -> Any:
        """The outputs of the network that is trained."""
        self._refresh()
        return self._walk(inputs, {norm.node: norm for norm in self.norms}) if self.norms else self.graph(*inputs)

    def begin(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Have the live norms give outputs the mean and spread that they have on these inputs."""
        self._estimate(batches, acting=False)
        for norm in self.norms:
            norm.begin()

    @torch.no_grad()
    def _estimate(self, batches: Iterable[tuple[Any, ...]], acting: bool = True) -> None:
        """Take the statistics of the live norms from some inputs, with the norms acting or not."""
        if not self.norms:
            return
        seen = {norm.node: Statistics(norm, acting) for norm in self.norms}
        self._refresh()
        for inputs in batches:
            own = self._workers.own(len(inputs[0])).to(inputs[0].device)
            with self._workers.precision():
                self._walk(tuple(value[own] for value in inputs), seen)
        for one in seen.values():
            one.take()

    def _fold(self) -> None:
        for norm in self.norms:
            norm.fold()
        self.norms = []
        self.graph.apply(self.policy)
        self._refresh()

    @contextlib.contextmanager
    def folded(self, batches: Iterable[tuple[Any, ...]]) -> Iterator[None]:
        """The graph itself computes what is learned, with norms as they are on these inputs; then it goes on."""
        norms, state = self.norms, self.state() if self.norms else {}
        self._estimate(batches)
        self._fold()
        yield
        if norms:
            self.norms = norms
            self.load(state)

    def settle(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Fold the norms as they are on these inputs, and take steps that runtimes represent exactly.

        Both stay from now on; weights and biases are learned on.
        """
        self._estimate(batches)
        self._fold()
        for quantizer in self.learned.values():
            quantizer.shorten()
        self.graph.apply(self.policy)
        for name, quantizer in self.learned.items():
            grid = quantizer.own_grid(quantizer.width)
            suited = self.graph.suited(name, grid) if quantizer.site.kind == "weight" else grid
            if suited is not grid:
                quantizer.shorten(suited.scale)
        self.settled = True
        self.graph.apply(self.policy)

    def put(self, quantizers: Any) -> None:
        """Put a quantizer at each of the sites, under the policy."""
        for name, quantizer in quantizers.items():
            self.graph.put(name, quantizer)

    def groups(self, rate: float, steps: bool = True) -> list[dict[str, Any]]:
        """Parameters for an optimizer whose steps do not depend on the scale of gradients, such as Adam.

        Args:
            rate: of weights, in steps of their grids; activations' steps, norms and biases follow from it.
            steps: whether steps are learned.
        """
        moves = [each.moves for each in self.learned.values() if each.moves is not None]
        others = [bias.move for bias in self.biases]
        others += [each for norm in self.norms for each in norm.learned]
        ranges = [each.log_step.requires_grad_(steps) for each in self.learned.values()]
        groups = [{"params": moves, "lr": rate}, {"params": others, "lr": rate}]
        groups += [{"params": ranges, "lr": rate / 4}] if steps else []
        return [group for group in groups if group["params"]]

    def _refresh(self) -> None:
        for bias in self.biases:
            bias.put()

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that is learned, by name."""
        found = {
            f"{name}/{key}": value
            for name, quantizer in self.learned.items()
            for key, value in quantizer.state_dict().items()
        }
        for bias in self.biases:
            found.update({f"{bias.name}/start": bias.start, f"{bias.name}/move": bias.move})
        for norm in self.norms:
            found.update({f"{norm.bias.name}/{key}": value for key, value in norm.tensors.items()})
        return found

    def state(self) -> dict[str, Tensor]:
        """Everything that is learned, copied."""
        found = {name: value.detach().clone() for name, value in self._tensors().items()}
        return {**found, "settled": torch.tensor(self.settled)}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go back to what :meth:`state` gave; what was settled stays so."""
        if bool(state["settled"]) and not self.settled:
            self.settle(())
        with torch.no_grad():
            for name, value in self._tensors().items():
                value.copy_(state[name])
            for quantizer in self.learned.values():
                quantizer.reset()
        for bias in self.biases:
            bias.move.requires_grad_(all(norm.bias is not bias for norm in self.norms))
        self._refresh()
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


def _biased(graph: Graph) -> Iterable[tuple[Layer, Tensor]]:
    """The layers whose biases are rounded, each bias once, with its float values."""
    seen = set()
    for layer in layers_of(graph):
        own = bias_tensor(graph, layer)
        if layer.bias is not None and own is not None and id(layer.bias) not in seen:
            seen.add(id(layer.bias))
            yield layer, own


def moved_share(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Share of the weights whose integers differ."""
    return _share([one[name] != other[name] for name in one])


def returned_share(now: dict[str, Tensor], last: dict[str, Tensor], before: dict[str, Tensor]) -> float:
    """Share of the weights whose integers left a value and came back to it: those that oscillate."""
    return _share([(now[name] == before[name]) & (now[name] != last[name]) for name in now])


def _share(marked: list[Tensor]) -> float:
    return sum(int(mask.sum()) for mask in marked) / max(sum(mask.numel() for mask in marked), 1)

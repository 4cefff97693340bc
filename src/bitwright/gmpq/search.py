"""GMPQ and R-GMPQ: a policy searched by gradients on one data set, so that it holds on others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.arguments import checked
from bitwright.cost import CostModel, costs_for, parse_budgets
from bitwright.errors import InvalidData, InvalidInput, nearest
from bitwright.gmpq.attribution import Explainer, entropy, grouped, imitation_distance, normalized
from bitwright.gmpq.capacity import SHAPES, ExpectedCost, lack_of_capacity
from bitwright.gmpq.head import with_head
from bitwright.gmpq.imitation import METHODS, Imitation
from bitwright.graph.graph import Graph
from bitwright.quantizers.mixture import Mixture
from bitwright.search import search
from bitwright.store import content_key
from bitwright.tasks.base import Answer, Task
from bitwright.tasks.evaluate import evaluate, reference
from bitwright.train.checkpoint import keep, taken_up
from bitwright.train.feed import Augment, Feed
from bitwright.values import FLOAT, Budget, Policy, SensitivityTable
from bitwright.values.searched import Round, Searched, Shown

WIDTHS = (2, 3, 4, 6)
"""The widths that GMPQ was published with."""
SHOWN = 6
"""Samples whose attributions a result keeps, to be looked at."""

Progress = Callable[[int, int], None]


@checked
def gmpq(
    graph: Graph,
    task: Task,
    budget: str | Budget | Iterable[str | Budget] = "bops=W4A4",
    method: str | Imitation = "r-gmpq",
    *,
    widths: tuple[int, ...] = WIDTHS,
    epochs: int = 10,
    learning_rate: float = 0.01,
    share_rate: float = 0.05,
    pressure: float = 3.0,
    labels: bool = False,
    head: bool = False,
    augment: Augment | None = None,
    holdout: Any = None,
    measure_every: int = 1,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    origin: str = "",
    costs: Mapping[str, CostModel] | None = None,
    progress: Progress | None = None,
) -> Searched:
    """Search a policy by gradients: every site mixes several widths, and learns their shares.

    The loss is the distance to the float network's outputs (``labels``: the task's loss), plus the distance of the
    mixture's attribution from float's, plus what the mixture is expected to cost above the budget. Attribution says
    which places of an input decide; a policy that keeps them holds on other data, too, so that the data it is searched
    on may be small, and another than the one it is used on. Weights are learned along (Adam, in steps of their grids)
    on a copy; the given graph stays as it is. At the end the exact search takes the policy within the budget with the
    largest product of shares.

    Args:
        graph: calibrated; a policy of its own makes no difference.
        task: with calibration data, on which everything is learned.
        budget: that the policy must keep, e.g. ``"bops=W4A4"``, or several that hold at once.
        method: ``"gmpq"`` (Wang et al., ICCV 2021), ``"r-gmpq"`` (IJCV 2024), ``"loss"`` (without attribution), or an
            :class:`Imitation`.
        widths: that are mixed.
        epochs: passes over the data.
        learning_rate: of the weights, in steps of their grids.
        share_rate: of the logarithms of the shares.
        pressure: weight of the expected cost above the budget, as a share of it.
        labels: bring down the loss against the targets, as published, where there are any and the task has such a
            loss; False: the distance to the float network's outputs, which still says something about samples that the
            network has learned by heart.
        head: the data is a proxy with classes of its own: a new last layer is learned for them first
            (:func:`~bitwright.gmpq.head.with_head`), and ranges are set on this data. The policy is for the given
            graph.
        augment: changes the inputs of a batch at random.
        holdout: batches that are not learned from, on which the policy is measured as the search goes on.
        measure_every: epochs from one such measurement to the next.
        checkpoint: a file that keeps the state after each epoch; an interrupted search goes on from there, to the same
            policy. It is removed at the end.
        seed: of everything that is drawn at random.
        origin: what the data is, for the policy's file.
        costs: metric -> cost model, for those of another runtime than the default, and further ones.
        progress: called with (steps done, steps in all).

    Raises:
        InvalidInput: settings that cannot be used, a network without a stage whose attribution could be compared, or a
            checkpoint of another search.
        InvalidData: no data, or a loss that is not finite.
        ImpossibleBudget: no policy of these widths fits.
    """
    start = time.perf_counter()
    how = _method(method)
    if task.calibration is None:
        raise InvalidInput("task must have calibration data to search on, e.g. bw.tasks.Classification(batches)")
    for name, value, most in (("learning_rate", learning_rate, 1), ("share_rate", share_rate, 1)):
        if not 0 < value <= most:
            raise InvalidInput(f"{name} must be above 0 and at most {most}, got {value!r}")
    for name, count in (("epochs", epochs), ("measure_every", measure_every)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidInput(f"{name} must be a whole number of at least 1, got {count!r}")
    if head:
        graph = with_head(graph, task.calibration)
    feed = Feed(task.calibration, graph, seed, True, augment)
    rates = learning_rate, share_rate, pressure
    work = _Work(graph, task, feed, budget, how, tuple(widths), epochs, rates, labels, seed, costs)
    name = method if isinstance(method, str) else "own"
    where = origin or f"{feed.samples:,} samples"
    work.policy(f"{work.name}", f"{name} on {where}, {epochs} epochs, seed {seed}")  # says at once if none fits
    work.measured_on(holdout, measure_every)
    file = None if checkpoint is None else Path(checkpoint)
    work.resume(file)
    while len(work.rows) < epochs:
        work.epoch(progress)
        work.save(file)
    policy = work.policy(work.name, f"{name} on {where}, {epochs} epochs, seed {seed}")
    maps, entropies = work.look()
    if file is not None:
        file.unlink(missing_ok=True)
    shares = {site: tuple(mixture.shares.tolist()) for site, mixture in work.mixtures.items()}
    stage = "" if work.explainer is None else work.explainer.stage.name
    return Searched(
        policy,
        work.name,
        name,
        work.widths,
        shares,
        tuple(work.rows),
        stage,
        feed.samples,
        maps,
        entropies,
        time.perf_counter() - start,
        work.notes(),
    )


def _method(method: str | Imitation) -> Imitation:
    if isinstance(method, Imitation):
        return method
    if method not in METHODS:
        raise InvalidInput(f"method must be one of {', '.join(METHODS)}, got '{method}'{nearest(method, METHODS)}")
    return METHODS[method]


class _Work:
    """One search, between epochs."""

    def __init__(
        self,
        graph: Graph,
        task: Task,
        feed: Feed,
        budget: str | Budget | Iterable[str | Budget],
        how: Imitation,
        widths: tuple[int, ...],
        epochs: int,
        rates: tuple[float, float, float],
        labels: bool,
        seed: int,
        costs: Mapping[str, CostModel] | None = None,
    ) -> None:
        self.plain, self.task, self.feed, self.how = graph, task, feed, how
        self.widths, self.epochs, self.rates, self.seed = widths, epochs, rates, seed
        self.labels = labels and task.has_loss and not feed.unlabelled
        self.models = models = {**costs_for(), **(costs or {})}
        self.limits = parse_budgets(budget, graph.sites, models)
        self.name = ", ".join(limit.text for limit in self.limits)
        self.graph = graph.copy()
        self.mixtures = {name: Mixture(self.graph.quantizers[name], widths) for name in graph.sites.names}
        self.graph.apply(Policy(dict.fromkeys(self.mixtures, widths[-1])))
        for name, mixture in self.mixtures.items():
            self.graph.put(name, mixture.to(self.graph.device))
        self.costs = [
            (ExpectedCost(models[limit.metric], graph.sites, list(self.mixtures), widths), limit.limit)
            for limit in self.limits
        ]
        self.explainer = Explainer(self.graph) if how.weight else None
        moves = [mixture.moves for mixture in self.mixtures.values() if mixture.moves is not None]
        alphas = [mixture.alpha for mixture in self.mixtures.values()]
        self.optimizer = torch.optim.Adam(
            [{"params": moves, "lr": rates[0]}, {"params": alphas, "lr": rates[1]}], fused=True
        )
        self.rows: list[Round] = []
        self.holdout: Any = None

    def measured_on(self, holdout: Any, every: int) -> None:
        """Measure the policy on held-out data after some epochs, and after the last."""
        self.holdout, self.every = holdout, every
        self.floats = None if holdout is None else reference(self.plain, holdout, self.task)

    def policy(self, name: str, origin: str = "") -> Policy:
        """The policy within the budget with the largest product of the sites' shares."""
        harm = torch.stack([-m.alpha.detach().double().log_softmax(0) for m in self.mixtures.values()]).cpu().numpy()
        sites = self.plain.sites
        table = SensitivityTable(
            "gmpq", "-log share", tuple(self.mixtures), self.widths, harm, graph_hash=sites.graph_hash
        )
        (found,) = search(sites, table, budgets=[self.limits], costs=self.models)
        return replace(found.policy, name=name, origin=origin)

    def epoch(self, progress: Progress | None) -> None:
        """Learn for one epoch, and measure the policy."""
        number, sums, count = len(self.rows), [0.0, 0.0, 0.0], 0
        for done, (inputs, targets) in enumerate(self.feed.epoch(number)):
            share = (1 + math.cos(math.pi * (number + done / self.feed.batches) / self.epochs)) / 2
            self.optimizer.param_groups[0]["lr"] = self.rates[0] * share
            found = self._step(inputs, targets)
            sums = [total + value * len(inputs[0]) for total, value in zip(sums, found, strict=True)]
            count += len(inputs[0])
            if progress is not None:
                progress(number * self.feed.batches + done + 1, self.epochs * self.feed.batches)
        loss, attribution, power = (total / count for total in sums)
        bits = self._expected()
        kinds = {kind: [bits[s.name] for s in self.plain.sites if s.kind == kind] for kind in ("weight", "activation")}
        with torch.no_grad():
            cost = max(float(model(self._shares()) / limit) for model, limit in self.costs)
            decided = sum(float(share.max()) for share in self._shares().values()) / len(self.mixtures)
        means = [sum(values) / max(len(values), 1) for values in kinds.values()]
        compared = attribution if self.explainer is not None else None
        row = Round(loss, compared, cost, means[0], means[1], decided, power)
        if self.holdout is not None and ((number + 1) % self.every == 0 or number + 1 == self.epochs):
            verdict = evaluate(self.plain, self.policy(""), self.holdout, reference=self.floats, resamples=100)
            row = replace(row, distance=verdict.distance.value, primary=verdict.primary.value.value)
        self.rows.append(row)

    def _shares(self) -> dict[str, Tensor]:
        return {name: mixture.shares for name, mixture in self.mixtures.items()}

    def _expected(self) -> dict[str, float]:
        widths = torch.tensor(self.widths, dtype=torch.float64)
        return {name: float(share.detach().cpu().double() @ widths) for name, share in self._shares().items()}

    def _step(self, inputs: tuple[Any, ...], targets: Any) -> tuple[float, float, float]:
        """One step; the means of loss, attribution and power."""
        count, task, pressure = len(inputs[0]), self.task, self.rates[2]
        self.plain.check(inputs)
        compared, power = 0.0, 1.0
        if self.explainer is None:
            floats = self._float(inputs) if not self.labels else None
            outputs = self.graph(*inputs)
        else:
            teacher = self.explainer.floating(inputs, lambda out: task.explained(out, out))
            floats = teacher.outputs
            student = self.explainer(inputs, lambda out: task.explained(out, floats))
            outputs = student.outputs
        answer = Answer(task, outputs, targets if self.labels else None, count)
        if self.labels:
            losses = task.scores(outputs, targets, count)
        else:
            losses = task.imitation(answer, Answer(task, floats, None, count))
        loss = losses.mean()
        total = loss
        if self.explainer is not None:
            powers = self.powers(losses.detach())
            distance = self.distance(student.map, teacher.map, powers).mean()
            total = total + self.how.weight * distance
            compared, power = float(distance.detach()), float(powers.mean())
        shares = self._shares()
        for model, limit in self.costs:
            total = total + pressure * (model(shares) / limit - 1).clamp_min(0)
        if not math.isfinite(float(total.detach())):
            raise InvalidData("the loss of the search is not finite; lower the learning rate, or check the data")
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return float(loss.detach()), compared, power

    def _float(self, inputs: tuple[Any, ...]) -> Any:
        with self.plain.applied(FLOAT), torch.no_grad():
            return self.plain(*inputs)

    def powers(self, losses: Tensor) -> Tensor:
        """(N,) to which float's attribution is raised: more where capacity is short, and for hard samples.

        A sample's hardness is its loss over the sum of it and the batch's mean, from 0 to 1; an average sample has 1/2,
        and its power is that of the capacity alone.
        """
        power = torch.ones_like(losses)
        if self.how.shape != "none":
            lack = lack_of_capacity(self.plain.sites, self._expected(), self.widths[-1])
            power = power * SHAPES[self.how.shape](lack)
        if self.how.hardness:
            power = power * (0.5 + losses / (losses + losses.mean()).clamp_min(1e-12))
        return power

    def distance(self, own: Tensor, floats: Tensor, powers: Tensor) -> Tensor:
        """(N,) distances of attributions."""
        if self.how.spread:
            by = normalized(floats)
            own, floats = (grouped(maps, by, self.how.spread) for maps in (normalized(own), by))
        return imitation_distance(own, floats, powers.to(floats.dtype), self.how.top)

    @property
    def key(self) -> str:
        """What a checkpoint must belong to."""
        steps = {name: [grid.scale.tolist() for grid in mixture.grids] for name, mixture in self.mixtures.items()}
        return content_key(
            graph=self.plain.graph_hash,
            steps=steps,  # of other ranges, and of a new last layer, they are others
            limits=[(limit.metric, limit.limit) for limit in self.limits],
            how=vars(self.how),
            settings=[self.widths, self.epochs, self.rates, self.labels, self.seed],
            samples=[self.feed.samples, self.feed.batches],
            augment=self.feed.augment,
            task=self.task.name,
        )

    def save(self, file: Path | None) -> None:
        """Keep the state in a file."""
        if file is None:
            return
        state = {
            "rows": [row.to_dict() for row in self.rows],
            "learned": {
                f"{name}/{key}": value
                for name, mixture in self.mixtures.items()
                for key, value in mixture.named_parameters(recurse=False)
            },
            "optimizer": self.optimizer.state_dict(),
        }
        keep(file, self.key, state)

    def resume(self, file: Path | None) -> None:
        """Go on from a file, where there is one."""
        if file is None or not file.exists():
            return
        state = taken_up(file, self.key, "search", self.graph.device)
        with torch.no_grad():
            for name, mixture in self.mixtures.items():
                for key, value in mixture.named_parameters(recurse=False):
                    value.copy_(state["learned"][f"{name}/{key}"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows = [Round.from_dict(row) for row in state["rows"]]

    def look(self) -> tuple[tuple[Shown, ...], tuple[float, float] | None]:
        """Attributions of a few samples, and the mean entropies of the first batch's."""
        if self.explainer is None:
            return (), None
        task = self.task
        inputs, _ = next(iter(Feed(task.calibration, self.plain, self.seed, False).epoch(0)))
        teacher = self.explainer.floating(inputs, lambda out: task.explained(out, out))
        student = self.explainer(inputs, lambda out: task.explained(out, teacher.outputs))
        pairs = zip(inputs[0], teacher.map, student.map.detach(), strict=True)
        shown = tuple(Shown(_rows(floats), _rows(own), _image(image)) for image, floats, own in pairs)[:SHOWN]
        entropies = (float(entropy(each.map.detach()).mean()) for each in (teacher, student))
        return shown, tuple(entropies)  # type: ignore[return-value]

    def notes(self) -> tuple[str, ...]:
        """What to keep in mind."""
        found = []
        if self.explainer is not None and self.explainer.stage.tokens:
            found.append(
                f"This network has no convolutional stage: attributions are those of the tokens of "
                f"{self.explainer.stage.name}, for which GMPQ was not published."
            )
        if (decided := self.rows[-1].decided) < 0.5:
            found.append(
                f"The sites have not decided: their largest shares are {decided:.0%} on average; more epochs or a "
                "higher share_rate let them."
            )
        return tuple(found)


def _rows(values: Tensor) -> tuple[tuple[float, ...], ...]:
    """A map as rows, divided by its largest value; tokens are one row."""
    values = values.float() / values.max().clamp_min(1e-12).float()
    values = values.reshape(-1, values.shape[-1]) if values.dim() > 1 else values.unsqueeze(0)
    return tuple(tuple(round(v, 3) for v in row) for row in values.tolist())


def _image(values: Tensor) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """An input (C, H, W) of 1 or 3 channels from 0 to 1; nothing for other inputs."""
    if values.dim() != 3 or values.shape[0] not in (1, 3) or values.shape[1] > 256:
        return ()
    low, high = values.min(), values.max()
    scaled = (values - low) / (high - low).clamp_min(1e-12)
    return tuple(tuple(tuple(round(v, 3) for v in row) for row in channel) for channel in scaled.tolist())

"""The protocol of tasks: what a network is for, the only place that knows what its outputs mean.

A task turns outputs and targets into values of each sample: of one model (``own``: whether it is right, its loss), and
of the quantized against the float model (``against``: the distance, the agreement). What is done with them, figures
with intervals, rankings, sweeps, is the same for all tasks. A new one says in three methods how outputs are read::

    class Ranking(Task):
        name, does = "ranking", "scores of items, the best ones first"
        measures = (Measure("top", "Best item right", "share"), Measure("shift", "Shift of scores", larger=False))
        primary, distance = "top", "shift"

        def read(self, outputs, targets): ...  # checked
        def own(self, answer): return {"top": ...}  # (N,) each; without targets nothing
        def against(self, answer, expected): return {"shift": ...}  # (N,) each
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import BitwrightError, InvalidData, InvalidInput, told
from bitwright.graph.batches import as_batches
from bitwright.graph.outputs import flatten
from bitwright.registry import Registry
from bitwright.tasks.intervals import Array, Draws, Metered
from bitwright.tasks.outputs import Named, checked, per_sample
from bitwright.values import Figure, Measure, Verdict

Loss = Callable[[Any, Any], Any]
Metric = Callable[[Any, Any], float]
Values = dict[str, Tensor]
"""Name -> (N,) values, one for each sample."""


@dataclass(frozen=True)
class Evidence:
    """Values of each sample, of all samples that were measured.

    Attributes:
        ours: name -> (N, ...) of the quantized model.
        floats: name -> (N, ...) of the float model on the same samples.
        pair: name -> (N, ...) of the one against the other; empty where only the float model is looked at.
        spread: output -> variance of the float model's values, the mean over the entries; for tasks that ask for it.
        metrics: name of a metric of the user -> what it is of the quantized and of the float model.
    """

    ours: Mapping[str, Array]
    floats: Mapping[str, Array]
    pair: Mapping[str, Array] = field(default_factory=dict)
    spread: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, tuple[Metered, Metered]] = field(default_factory=dict)

    @property
    def samples(self) -> int:
        """How many there are."""
        return max((len(v) for part in (self.ours, self.floats, self.pair) for v in part.values()), default=0)


class Answer:
    """What one model put out for a batch, read as a task reads it.

    Attributes:
        task: reads it.
        raw: the outputs as the model returned them.
        outputs: the tensors in them by name.
        targets: of the batch, or None.
    """

    def __init__(self, task: Task, outputs: Any, targets: Any, count: int) -> None:
        self.task, self.raw, self.targets = task, outputs, targets
        self.outputs: Named = checked(outputs, count)
        self.count = count

    @cached_property
    def read(self) -> Any:
        """What the task makes of outputs and targets, checked."""
        return self.task.read(self.outputs, self.targets)

    @cached_property
    def own(self) -> Values:
        """(N,) values of this model alone."""
        values = self.task.own(self)
        if self.task.loss is not None and self.targets is not None:
            values["loss"] = self.task.losses(self.raw, self.targets, self.count).detach().double()
            if not bool(torch.isfinite(values["loss"]).all()):
                raise InvalidData("the loss is not finite; check the loss function and the targets")
        return values


class Task(ABC):
    """What a network is for; with the data that flows work on, where it is given.

    Args:
        calibration: batches (inputs, targets) of training data; everything is chosen on them.
        evaluation: batches (inputs, targets) of test data; they only say whether a target holds.
        loss: (outputs, targets) -> (N, ...) losses, in place of the task's own.
        metric: (outputs, targets) -> number, larger being better, over all samples at once; it decides instead of the
            task's primary figure, a point being 0.01 of it. Or name -> function; the first of them decides.
        title: a word for reports.

    Attributes:
        name: what users write.
        does: what it is for, in a few words.
        measures: the figures that are means over the samples, in the order in which they are shown.
        further: figures of all samples together, which :meth:`figures` makes.
        primary: name of the figure that decides.
        distance: name of the one that says how far outputs are from float's.
        agreement: name of the one that is the share of equal decisions; empty where nothing is decided.
        bound: name of a share whose distance from 1 bounds what the primary figure can lose; or empty.
        scaled: whether distances are divided by the spread of the float model's outputs.
        needs_targets: whether the figures cannot do without targets.
        compares: whether the primary figure itself compares with float, so that float has none of its own.
        explains: the output whose largest entry an attribution explains; None: the first one.
        harm: the unit of FIT's prediction with the task's own loss.
        made_by: how one gets such an object, for messages.

    Raises:
        InvalidData: batches that are no iterables of (inputs, targets).
        InvalidInput: a loss or metric that cannot be called.
    """

    made_by: ClassVar[str] = "bw.tasks.Classification()"

    name: ClassVar[str]
    does: ClassVar[str]
    order: ClassVar[int] = 100
    measures: tuple[Measure, ...]
    further: tuple[Measure, ...] = ()
    primary: str
    distance: str
    agreement: str = ""
    bound: str = ""
    scaled: ClassVar[bool] = False
    needs_targets: ClassVar[bool] = True
    compares: ClassVar[bool] = False
    explains: str | None = None
    harm: ClassVar[str] = "squared change of the loss"

    def __init__(
        self,
        calibration: Iterable[Any] | None = None,
        evaluation: Iterable[Any] | None = None,
        *,
        loss: Loss | None = None,
        metric: Metric | Mapping[str, Metric] | None = None,
        title: str = "",
    ) -> None:
        self.calibration = None if calibration is None else as_batches(calibration)
        self.evaluation = None if evaluation is None else as_batches(evaluation)
        self.title = title
        self.loss: Loss | None = None
        self.metrics: Mapping[str, Metric] = {}
        self._judge_by(loss, metric)

    def _judge_by(self, loss: Loss | None, metric: Metric | Mapping[str, Metric] | None) -> None:
        self.loss = loss
        self.metrics = metric if isinstance(metric, Mapping) else {} if metric is None else {"metric": metric}
        for what, function in (("loss", loss), *(("metric", m) for m in self.metrics.values())):
            if function is not None and not callable(function):
                raise InvalidInput(f"{what} must be a function (outputs, targets), got {type(function).__name__}")
        if self.metrics:
            self.primary = next(iter(self.metrics))

    def with_data(self, calibration: Iterable[Any], evaluation: Iterable[Any], title: str = "") -> Task:
        """The same task with other data."""
        other = copy.copy(self)
        other.calibration, other.evaluation = as_batches(calibration), as_batches(evaluation)
        other.title = title or self.title
        return other

    def judged_by(self, loss: Loss | None = None, metric: Metric | Mapping[str, Metric] | None = None) -> Task:
        """The same task with a loss and a metric of the user, where they are given."""
        if loss is None and metric is None:
            return self
        other = copy.copy(self)
        other._judge_by(loss or self.loss, metric or self.metrics)
        return other

    @property
    def identity(self) -> dict[str, Any]:
        """What tells this task from another one, its data aside."""
        apart = ("calibration", "evaluation", "title", "primary")
        options = {key: value for key, value in vars(self).items() if key not in apart and value not in (None, {})}
        return {"task": type(self), **options}

    # What a task says.

    @abstractmethod
    def read(self, outputs: Named, targets: Any) -> Any:
        """What the other methods need of a batch, after checking outputs and targets.

        Raises:
            InvalidInput: outputs that are not what the task is about.
            InvalidData: targets that do not fit.
        """

    @abstractmethod
    def own(self, answer: Answer) -> Values:
        """(N,) values of one model's answers; without targets only what needs none."""

    @abstractmethod
    def against(self, answer: Answer, expected: Answer) -> Values:
        """(N,) values of one model's answers against the float model's; among them the distance."""

    def details(self, answer: Answer) -> dict[str, Any]:
        """What figures of all samples together need of one model: (N, ...) tensors, or lists of N things of any kind.

        They are asked for where figures are made, not in sweeps.
        """
        return {}

    def score(self, outputs: Any, targets: Any) -> Tensor:
        """(N,) values whose gradients FIT is made of: the losses.

        Raises:
            InvalidData: targets that are missing or do not fit.
        """
        raise InvalidInput(f"the task '{self.name}' has no loss of its own; give one, (outputs, targets) -> (N,)")

    def imitation(self, answer: Answer, expected: Answer) -> Tensor:
        """(N,) how far one model's outputs are from the float model's, with gradients: what training brings down.

        Here the squared error of each output, divided by the variance of its float values in the batch; the sum over
        the outputs.
        """
        parts = []
        for name, wanted in expected.outputs.items():
            if wanted.is_floating_point():
                spread = wanted.var(correction=0).clamp_min(torch.finfo(wanted.dtype).tiny)
                parts.append(per_sample((answer.outputs[name] - wanted).square() / spread))
        return torch.stack(parts).sum(0)

    def explained(self, outputs: Any, expected: Any) -> Tensor:
        """(N,) scores whose attribution is compared, with gradients: what the float network is surest of.

        Here the entry that is largest in float, of the output that :attr:`explains` names.

        Args:
            outputs: of a network, as it returns them.
            expected: those of the float network.
        """
        named, floats = flatten(outputs), flatten(expected)
        name = self.explains or next(name for name, value in floats.items() if value.is_floating_point())
        if name not in floats:
            raise InvalidInput(f"the output that is explained must be one of {', '.join(floats)}, got '{name}'")
        places = floats[name].flatten(1).argmax(1, keepdim=True)
        return named[name].flatten(1).gather(1, places).squeeze(1)

    def probabilities(self, outputs: Any) -> Tensor | None:
        """(N, K) probabilities of the classes that are decided between; None where there is no such thing."""
        return None

    def margin(self, outputs: Any) -> Tensor | None:
        """(N,) margins of the decisions, whose gradients Margin-FIT is made of; None where there is no such thing."""
        return None

    def distances(self, pair: Mapping[str, Array], spread: Mapping[str, float]) -> Array:
        """(N,) distances to float, from what :meth:`against` gave."""
        return pair[self.distance]

    def figures(self, evidence: Evidence, draws: Draws) -> dict[str, Figure]:
        """The figures by name, of all samples."""
        found: dict[str, Figure] = {}
        for measure in self.measures:
            name = measure.name
            if name in evidence.ours:
                found[name] = draws.figure(measure, evidence.ours[name], evidence.floats[name])
            elif name == self.distance and evidence.pair:
                found[name] = draws.figure(measure, self.distances(evidence.pair, evidence.spread))
            elif name in evidence.pair:
                found[name] = draws.figure(measure, evidence.pair[name])
        return found

    def guess(self, targets: Iterable[Any]) -> float | None:
        """What the primary figure is for a model that gives the same answer to everything; None: not known."""
        return None

    # What follows from it.

    def shows(self, name: str) -> bool:
        """Whether a column of values is a figure of its own."""
        return any(m.name == name for m in self.measures)

    def measure(self, name: str) -> Measure:
        """What is known of a figure's name."""
        return next((m for m in (*self.measures, *self.further) if m.name == name), Measure(name, name))

    @property
    def has_loss(self) -> bool:
        """Whether :meth:`scores` are losses against the targets, which training can bring down."""
        return self.loss is not None or any(measure.name == "loss" for measure in self.measures)

    def losses(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """(N,) losses by the user's function, with gradients.

        Raises:
            InvalidInput: the function does not give one number for each sample.
        """
        assert self.loss is not None
        given = called("loss", self.loss, outputs, targets)
        try:
            values = torch.as_tensor(given)
        except (TypeError, ValueError, RuntimeError):
            raise InvalidInput(f"loss must return one number per sample, got {type(given).__name__}") from None
        if values.dim() == 0 or values.shape[0] != count:
            raise InvalidInput(
                f"loss must return one number per sample, shape ({count},), got shape {tuple(values.shape)}; "
                "use reduction='none', since the mean of a batch gives wrong gradients"
            )
        return values.flatten(1).mean(1) if values.dim() > 1 else values

    def scores(self, outputs: Any, targets: Any, count: int) -> Tensor:
        """(N,) values whose gradients FIT is made of: the user's losses, or the task's own."""
        if self.loss is None:
            return self.score(outputs, targets)
        return self.losses(outputs, targets, count)

    def measured(self, evidence: Evidence, draws: Draws) -> dict[str, Figure]:
        """All figures, those of the user's metrics first."""
        own = {name: draws.given(name, *values) for name, values in evidence.metrics.items()}
        return {**own, **self.figures(evidence, draws)}

    @property
    def harm_of_losses(self) -> str:
        """What FIT predicts, in words; the unit of a loss of the user's is not known."""
        return self.harm if self.loss is None else Task.harm

    def verdict(self, evidence: Evidence, draws: Draws, policy_name: str = "") -> Verdict:
        """The figures as a verdict.

        Raises:
            InvalidData: fewer than 2 samples.
        """
        if evidence.samples < 2:
            raise InvalidData(f"evaluation needs at least 2 samples for an interval, got {evidence.samples}")
        figures = self.measured(evidence, draws)
        names = (self.primary, self.distance, self.bound, policy_name, self.agreement)
        return Verdict(self.name, evidence.samples, figures, *names)


Whole = TypeVar("Whole", int, int | None)


def whole(option: str, value: Whole, least: int | None = None) -> Whole:
    """An option of a task that must be a whole number, checked; None stays None.

    Raises:
        InvalidInput: it is something else, or below ``least``.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and (least is None or value >= least)):
        return value
    limit = "" if least is None else f", at least {least}"
    raise InvalidInput(f"{option} must be a whole number{limit}, got {value!r}")


def called(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a function of the user returns.

    Raises:
        InvalidInput: it fails; says how, and in which line.
    """
    try:
        return function(*args)
    except BitwrightError:
        raise
    except Exception as error:
        raise InvalidInput(f"the function that was given as {what} failed: {told(error)}") from error


class Vectors(Task):
    """Tasks whose outputs are compared by value: the distance is the relative squared error.

    The squared change of each output's values, the mean over its entries, divided by their variance over the samples
    in float; the sum over the outputs. So 0.01 is a signal-to-noise ratio of 20 dB.
    """

    scaled = True

    def against(self, answer: Answer, expected: Answer) -> Values:
        """The squared changes of each output, to be divided by its spread."""
        return {
            f"noise {name}": per_sample((value.double() - expected.outputs[name].double()).square())
            for name, value in answer.outputs.items()
            if value.is_floating_point()
        }

    def distances(self, pair: Mapping[str, Array], spread: Mapping[str, float]) -> Array:
        """Sums over the outputs."""
        if not any(spread.values()):
            raise InvalidData("the float model gives the same outputs for all inputs, so nothing can be compared")
        parts = [pair[f"noise {name}"] / variance for name, variance in spread.items() if variance]
        return np.asarray(np.sum(parts, axis=0))


TASKS: Registry[type[Task]] = Registry("task", "bitwright.tasks", hint="or module:Class of your own")

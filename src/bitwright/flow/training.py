"""Quantization-aware training of a policy in a session, with figures before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bitwright.behavior.retraining import Mixed
from bitwright.data.dataset import digest
from bitwright.graph.batches import Batch
from bitwright.repair import functions_of
from bitwright.session import Session
from bitwright.train import STRATEGIES, Trained, qat
from bitwright.values import Verdict
from bitwright.values.fitted import Fitted
from bitwright.values.json import Value
from bitwright.values.recipe import Action, Recipe


@dataclass(frozen=True)
class Training(Value, kind="trained policy"):
    """What training did to a policy.

    Attributes:
        recipe: the policy, the repairs that it started from, and the training.
        course: the epochs.
        plain: on the evaluation data, without repairs and training.
        before: on the evaluation data, where the training started.
        after: on the evaluation data, after the training.
    """

    recipe: Recipe
    course: Trained
    plain: Verdict
    before: Verdict
    after: Verdict

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """What was measured, by the names that tables show; where the training started only after repairs."""
        name = self.recipe.policy.name or "policy"
        found = {name: self.plain}
        if self.recipe.actions[:-1]:
            found[f"{name}, start"] = self.before
        return {**found, f"{name}, trained": self.after}


def train_policy(
    session: Session, begin: Recipe, checkpoint: Path | None = None, added: Sequence[Batch] = (), **settings: Any
) -> Training:
    """Train the network under a recipe's policy, and measure what that brings.

    It trains on all calibration data but the samples that are held out; these choose the epoch that is taken.

    Args:
        session: the plain one.
        begin: the policy, with the repairs to start from.
        checkpoint: a file for the state after each epoch.
        added: further batches to train on, such as those that two networks disagree on.
        settings: of :func:`bitwright.train.qat`: epochs, learning_rate, labels, augment, strategy, ...
    """
    first = session.under(begin)
    plain_options = {key: value for key, value in settings.items() if isinstance(value, (int, float, str))}
    more = {"added": digest(*(value for inputs, _ in added for value in inputs))} if added else {}
    action = Action("training", {**plain_options, **more, "seed": session.settings.seed})
    training = session.batches("training")

    def compute() -> dict[str, Any]:
        graph = first.graph.copy()
        with session.steps.step("train") as tell:
            course = qat(
                graph,
                Mixed(training, added) if added else training,
                begin.policy,
                task=session.task,
                shuffle=True,
                holdout=session.batches("holdout"),
                checkpoint=checkpoint,
                seed=session.settings.seed,
                progress=tell,
                **settings,
            )
        last = first.became(graph, action).keep()
        verdicts = {}
        with session.steps.step("evaluate", 3) as tell:
            for name, one in (("plain", session), ("before", first), ("after", last)):
                verdicts[name] = one.measure(begin.policy, on="evaluation")
                tell(len(verdicts))
        fitted = last.fitted.fitted
        assert fitted is not None
        return {"done": Training(last.recipe, course, **verdicts).to_dict(), "fitted": fitted.to_dict()}

    strategy = STRATEGIES[str(settings.get("strategy", "standard")).partition("?")[0]].function
    functions = [
        *functions_of(begin.actions),
        qat,
        strategy,
        *(value for value in settings.values() if callable(value)),
    ]
    found = first.remember("training", compute, settings=dict(action.options), functions=functions)
    done = Training.from_dict(found["done"])
    return replace(done, recipe=done.recipe.with_fitted(Fitted.from_dict(found["fitted"])))

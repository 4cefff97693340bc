"""Figures against closed forms and brute force in float64."""

from __future__ import annotations

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from bitwright.errors import InvalidData, InvalidInput
from bitwright.tasks import Classification, Dense, Detection, Embedding, Language, Regression, infer, named_task
from bitwright.tasks.detection import agreements, overlaps
from bitwright.testing.tasks import verdict_of


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_perplexity_is_of_all_tokens_together_and_padding_does_not_count() -> None:
    exact, changed = logits(6, 5, 11), logits(6, 5, 11, seed=1)
    tokens = torch.randint(11, (6, 5), generator=torch.Generator().manual_seed(2))
    tokens[0, 1:] = -100
    found = verdict_of(Language(), [changed], [exact], [tokens])
    wanted = functional.cross_entropy(changed.double().flatten(0, 1), tokens.flatten(), ignore_index=-100)
    assert found.perplexity.value == pytest.approx(math.exp(float(wanted)))
    assert found.float_perplexity.low < found.float_perplexity.value < found.float_perplexity.high
    assert found.lost.value == pytest.approx(100 * (found.perplexity.value / found.float_perplexity.value - 1))
    p, q = exact.double().log_softmax(-1), changed.double().log_softmax(-1)
    kl, counted = (p.exp() * (p - q)).sum(-1), tokens != -100
    mean = ((kl * counted).sum(1) / counted.sum(1)).mean()
    assert found.kl.value == pytest.approx(float(mean))


def test_a_language_model_can_be_given_its_own_inputs_as_targets() -> None:
    exact, changed = logits(4, 6, 9), logits(4, 6, 9, seed=1)
    tokens = torch.randint(9, (4, 6), generator=torch.Generator().manual_seed(2))
    same = verdict_of(Language(), [changed[:, :-1]], [exact[:, :-1]], [tokens[:, 1:]])
    assert verdict_of(Language(shifted=False), [changed], [exact], [tokens]).perplexity == same.perplexity


def test_ignored_positions_count_nowhere() -> None:
    exact, changed = logits(5, 3, 4, 4), logits(5, 3, 4, 4, seed=1)
    wanted = torch.randint(3, (5, 4, 4), generator=torch.Generator().manual_seed(2))
    wanted[:, 0] = 255
    kept = wanted[:, 1:]
    found = verdict_of(Dense(ignore=255), [changed], [exact], [wanted])
    assert found.figures == verdict_of(Dense(), [changed[:, :, 1:]], [exact[:, :, 1:]], [kept]).figures
    losses = Dense(ignore=255).scores(changed, wanted, 5)
    torch.testing.assert_close(losses, functional.cross_entropy(changed[:, :, 1:], kept, reduction="none").mean((1, 2)))
    with pytest.raises(InvalidData, match="ignored at every position"):
        verdict_of(Dense(ignore=255), [changed], [exact], [wanted * 0 + 255])


def test_several_outputs_add_up_their_distances_and_average_their_accuracies() -> None:
    one, two = (logits(8, 3), logits(8, 3, seed=1)), (logits(8, 5, seed=2), logits(8, 5, seed=3))
    wanted = {"a": torch.arange(8) % 3, "b": torch.arange(8) % 5}
    found = verdict_of(Classification(), [{"a": one[1], "b": two[1]}], [{"a": one[0], "b": two[0]}], [wanted])
    parts = [verdict_of(Classification(), [z], [e], [t]) for (e, z), t in zip((one, two), wanted.values(), strict=True)]
    assert found.kl.value == pytest.approx(parts[0].kl.value + parts[1].kl.value)
    assert found.accuracy.value == pytest.approx((parts[0].accuracy.value + parts[1].accuracy.value) / 2)
    named = Classification(output="b")
    alone = verdict_of(named, [{"a": one[1], "b": two[1]}], [{"a": one[0], "b": two[0]}], [wanted["b"]])
    assert alone.kl.value == pytest.approx(parts[1].kl.value)


def test_the_relative_squared_error_is_the_noise_over_the_variance_and_adds_up_over_outputs() -> None:
    exact = {"a": 100 + logits(30, 4), "b": 1e-3 * logits(30, 2, 2, seed=1)}
    changed = {name: value + 0.1 * value.std() * logits(*value.shape, seed=5) for name, value in exact.items()}
    found = verdict_of(Regression(loss=lambda z, t: z["a"].mean(1)), [changed], [exact], [torch.zeros(30)])
    wanted = 0.0
    for name, value in exact.items():
        z, e = changed[name].double().numpy(), value.double().numpy()
        wanted += ((z - e) ** 2).mean() / e.var(axis=0).mean()
    assert found.distance.value == pytest.approx(wanted, rel=1e-6)
    assert found.sqnr.value == pytest.approx(-10 * math.log10(wanted), abs=1e-6)
    with pytest.raises(InvalidData, match="same outputs for all inputs"):
        verdict_of(Regression(), [exact["a"]], [exact["a"] * 0 + 1], [exact["a"]])


def test_cosine_order_and_neighbours_of_vectors() -> None:
    exact = logits(12, 6)
    changed = exact + 0.5 * logits(12, 6, seed=1)
    found = verdict_of(Embedding(neighbours=3), [changed], [exact], [None])
    a, b = (functional.normalize(v.double(), dim=1).numpy() for v in (changed, exact))
    assert found.cosine.value == pytest.approx((a * b).sum(1).mean(), rel=1e-9)
    assert found.lost.value == pytest.approx(100 * (1 - (a * b).sum(1).mean()))
    order, kept = [], []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        ours, floats = (v[others] @ v[i] for v in (a, b))
        order.append(spearmanr(ours, floats).statistic)
        kept.append(len(set(np.argsort(-ours)[:3]) & set(np.argsort(-floats)[:3])) / 3)
    assert found.order.value == pytest.approx(np.mean(order), rel=1e-6)
    assert found.neighbours.value == pytest.approx(np.mean(kept))


def test_random_projections_measure_all_entries_at_once() -> None:
    vectors = logits(4000, 6).requires_grad_()
    score = Embedding().scores(vectors, None, 4000)
    gradient = torch.autograd.grad(score.sum(), vectors)[0]
    # d(unit vector) / dv has trace of J'J = (D - 1) / |v|^2.
    exact = 5 / vectors.detach().square().sum(1)
    assert float(gradient.square().sum(1).mean() / exact.mean()) == pytest.approx(1, rel=0.1)


def given(*rows: tuple[float, ...]) -> dict[str, Any]:
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "labels": table[:, 5].long()}


TRUTHS = [
    {"boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]]), "labels": torch.tensor([0, 1])},
    {"boxes": torch.tensor([[5.0, 5, 15, 15]]), "labels": torch.tensor([0])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)},
]


def measured(*images: dict[str, Any]) -> Any:
    pytest.importorskip("pycocotools")
    outputs = {"values": logits(3, 4)}
    task = Detection(decode=lambda outputs: list(images))
    return verdict_of(task, [outputs], [outputs], [TRUTHS])


def test_map_of_a_case_made_by_hand() -> None:
    pytest.importorskip("pycocotools")
    perfect = measured(given((0, 0, 10, 10, 0.9, 0), (20, 20, 40, 40, 0.8, 1)), given((5, 5, 15, 15, 0.7, 0)), given())
    assert perfect.mAP.value == pytest.approx(1.0)
    # Label 1: found with an overlap of 361/400 = 0.9025, so at 9 of 10 overlaps. Label 0: one of two found, behind a
    # wrong box: at recalls 0 to 0.5, 51 of 101, the precision is 1/2.
    half = measured(given((0, 0, 10, 10, 0.6, 0), (20, 20, 39, 39, 0.8, 1)), given(), given((0, 0, 10, 10, 0.9, 0)))
    assert half.mAP.value == pytest.approx((0.9 + 51 / 101 / 2) / 2)
    assert measured(given(), given(), given()).mAP.value == 0


def test_map_is_what_pycocotools_gives_and_its_draws_are_those_of_images_drawn_again() -> None:
    pytest.importorskip("pycocotools")
    from pycocotools.cocoeval import COCOeval

    from bitwright.tasks.detection import labels_of, mean_precision

    random = np.random.default_rng(0)
    known, found = [], []
    for _ in range(25):
        corner = 80 * random.random((4, 2))
        boxes = np.concatenate([corner, corner + 10 + 20 * random.random((4, 2))], 1)
        labels = random.integers(0, 3, 4)
        known.append({"boxes": boxes, "labels": labels})
        guess = np.concatenate([boxes + 2 * random.standard_normal((4, 4)), boxes[:2] + 15])
        found.append(
            {"boxes": guess, "labels": random.permutation(np.append(labels, [0, 1])), "scores": random.random(6)}
        )

    def theirs(chosen: Any) -> float:
        caught = []
        original = COCOeval.evaluate

        def spy(self: Any) -> None:
            original(self)
            caught.append(self)

        COCOeval.evaluate = spy
        try:
            labels_of([found[i] for i in chosen], [known[i] for i in chosen])
        finally:
            COCOeval.evaluate = original
        with contextlib.redirect_stdout(io.StringIO()):
            caught[0].accumulate()
        precision = caught[0].eval["precision"][:, :, :, 0, 0]
        return float(precision[precision > -1].mean())

    labels = labels_of(found, known)
    assert mean_precision(labels, np.ones((1, 25)))[0] == pytest.approx(theirs(range(25)), abs=1e-12)
    drawn = random.integers(0, 25, (3, 25))
    weights = np.stack([np.bincount(row, minlength=25) for row in drawn]).astype(float)
    assert mean_precision(labels, weights) == pytest.approx([theirs(row) for row in drawn], abs=1e-12)


def test_boxes_agree_with_float_one_to_one_by_label_and_overlap() -> None:
    a = {"boxes": np.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]), "labels": np.array([0, 0, 1])}
    b = {"boxes": np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), "labels": np.array([0, 2])}
    assert overlaps(a["boxes"], b["boxes"])[:, 0] == pytest.approx([1, 0.9, 0])
    for side in (a, b):
        side["scores"] = np.full(len(side["boxes"]), 0.9)
    nothing = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0), "scores": np.zeros(0)}
    assert agreements([a, nothing, a], [b, nothing, nothing], 0.3) == pytest.approx([2 / 5, 1.0, 0.0])
    assert agreements([a], [b], 0.95) == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("outputs", "targets", "kind"),
    [
        (logits(2, 3), torch.zeros(2, dtype=torch.long), Classification),
        (logits(2, 3, 4), torch.zeros(2, 4, dtype=torch.long), Dense),
        (logits(2, 3), torch.zeros(2, 3), Regression),
        (logits(2, 3), None, Embedding),
        ({"a": logits(2, 3), "b": logits(2, 5)}, {"a": torch.zeros(2, dtype=torch.long)}, Classification),
    ],
)
def test_what_outputs_and_targets_look_like(outputs: Any, targets: Any, kind: Any) -> None:
    assert type(infer(outputs, targets)) is kind


def test_what_is_not_clear_is_asked_for() -> None:
    with pytest.raises(InvalidInput, match="not clear what outputs of shape .2, 3, 4. with no targets mean.*--task"):
        infer(logits(2, 3, 4), None)
    with pytest.raises(InvalidInput, match="for next tokens take the task 'language'"):
        infer(logits(2, 5, 3), torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(InvalidInput, match="must return tensors, got str at 'a'"):
        infer({"a": "text"}, None)


def test_tasks_by_name_with_options() -> None:
    assert named_task("dense?ignore=255").ignore == 255  # type: ignore[attr-defined]
    assert named_task("language?shifted=false&output=logits").shifted is False  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="did you mean 'dense'"):
        named_task("dence")
    with pytest.raises(InvalidInput, match="has no option 'ignor'; did you mean 'ignore'"):
        named_task("dense?ignor=3")
    with pytest.raises(InvalidInput, match="needs decode"):
        named_task("detection")
    loaded = named_task("detection?decode=nets:decode&score=0.5", lambda spec, what: len)
    assert (loaded.decode, loaded.score_of_boxes) == (len, 0.5)  # type: ignore[attr-defined]


def test_a_loss_of_ones_own_takes_the_place_of_the_tasks() -> None:
    task = Classification(loss=lambda z, t: z[:, 0] ** 2)
    z = logits(9, 4)
    found = verdict_of(task, [z], [z], [torch.zeros(9, dtype=torch.long)])
    assert found.loss.value == pytest.approx(float(z[:, 0].double().square().mean()))
    assert task.scores(z, None, 9) == pytest.approx(z[:, 0] ** 2)
    assert task.harm_of_losses == "squared change of the loss"
    linear = nn.Linear(2, 2)
    with pytest.raises(InvalidInput, match="loss must be a function"):
        Classification(loss=linear.bias)

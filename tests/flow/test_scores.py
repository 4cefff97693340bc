"""Runs on networks that are no image classifiers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bitwright.data import as_data
from bitwright.flow import gave_way, made_for, run, score
from bitwright.sensitivity import METHODS, sensitivities
from bitwright.sensitivity.evidence import Evidence
from bitwright.sensitivity.method import Method, Scores
from bitwright.session import Session, Steps
from bitwright.settings import Settings
from bitwright.store import RunStore
from bitwright.tasks import Task

QUICK = Settings(
    calibration_samples=32,
    score_samples=16,
    holdout_samples=16,
    points=3,
    rounds=1,
    bits=(3, 4, 8),
    budget=("bops=W4A4",),
)


class Text(nn.Module):
    """Token ids and a mask in, classes out."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, ids, mask):
        return self.head((self.table(ids) * mask.unsqueeze(-1)).relu().mean(1))


def text(samples):
    ids = torch.randint(20, (samples, 6))
    return ((ids, (ids > 2).float()), ids[:, 0] % 3)


def pixels(samples):
    x = torch.randn(samples, 3, 6, 6)
    return x, x.argmax(1)


def test_a_network_with_several_inputs(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    report = run(Text().eval(), as_data((text(60), text(40))), tmp_path, QUICK)
    assert [table.method for table in report.tables] == ["margin-fit", "fit"]
    assert not any("was used instead" in note for note in report.notes)
    assert report.parity is not None
    assert report.parity.exact_agreement == 1
    assert report.parity.samples == 40


def test_a_network_with_a_prediction_for_each_pixel_is_scored_by_fit(tmp_path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    report = run(model, as_data((pixels(60), pixels(40))), tmp_path, QUICK)
    assert [table.method for table in report.tables] == ["fit"]
    assert report.chosen.verdict.agreement.value > 0.5
    assert any("FIT was used instead of Margin-FIT" in note for note in report.notes)


def test_that_margin_fit_gave_way_is_said_only_where_it_was_asked_for() -> None:
    fit, margin = SimpleNamespace(method="fit"), SimpleNamespace(method="margin-fit")
    assert gave_way(("margin-fit",), (fit,))
    assert not gave_way(("fit",), (fit,))
    assert not gave_way(("margin-fit", "fit"), (margin, fit))


@pytest.mark.parametrize("wanted", [{"budget": ("bops=W4A4",)}, {"budget": (), "target_drop": 0.5}])
def test_a_network_that_quantization_does_not_change(tmp_path, wanted: dict) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)).eval()
    with torch.no_grad():
        model[3].weight.zero_()
        model[3].bias.zero_()
    x, y = torch.randn(60, 3, 6, 6), torch.randint(3, (60,))
    report = run(model, as_data(((x[:40], y[:40]), (x[40:], y[40:]))), tmp_path, QUICK.model_copy(update=wanted))
    assert report.chosen.verdict.kl.value == 0
    assert any("Quantization changes nothing that was measured" in note for note in report.notes)
    assert (tmp_path / "report.html").exists()


def test_a_method_that_was_edited_scores_anew(tmp_path, request, monkeypatch) -> None:
    """The store keeps scores under what the method computes, not under its name alone."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    data = as_data((pixels(60), pixels(40)))
    request.addfinalizer(lambda: METHODS.remove("mine"))

    def scored(factor: float) -> float:
        def mine(evidence: Evidence) -> Scores:
            return Scores(factor * evidence.noise)

        METHODS.register(Method(name="mine", does="x.", unit="u", function=mine))
        with RunStore(tmp_path) as store:
            session = Session.open(model, data, QUICK, store, Steps())
            return float(score(session, ("mine",))[0].harm.sum())

    calls: list[int] = []
    make = sensitivities
    monkeypatch.setattr("bitwright.flow.scores.sensitivities", lambda *a, **k: calls.append(0) or make(*a, **k))
    first = scored(1.0)
    assert scored(1.0) == first
    assert scored(2.0) == pytest.approx(2 * first)
    assert len(calls) == 2


def test_a_method_whose_gradients_are_of_something_else_scores_anew(tmp_path, request, monkeypatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
    data = as_data((pixels(60), pixels(40)))
    request.addfinalizer(lambda: METHODS.remove("mine"))
    calls: list[int] = []
    make = sensitivities
    monkeypatch.setattr("bitwright.flow.scores.sensitivities", lambda *a, **k: calls.append(0) or make(*a, **k))
    for power in (1, 1, 2):

        def taken(task: Task, outputs: Any, targets: Any, count: int, power: int = power) -> torch.Tensor:
            return task.scores(outputs, targets, count) ** power

        about = {"name": "mine", "does": "x.", "unit": "u", "function": lambda evidence: Scores(evidence.noise)}
        METHODS.register(Method(**about, score=taken))
        with RunStore(tmp_path) as store:
            score(Session.open(model, data, QUICK, store, Steps()), ("mine",))
    assert len(calls) == 2


def test_methods_that_share_their_passes_are_made_beside_the_one_that_is_asked_for() -> None:
    beside = {name for name, method in METHODS.items() if method.beside}
    for name in METHODS:
        first, *others = made_for(name)
        assert first == name
        assert {*others} == beside - {name}
    assert all(METHODS[name].score is not None for name in beside)

"""The main job, repairs, sweeps and debugging on networks of every kind, each in its own figures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitwright.data import as_data
from bitwright.debug import debug
from bitwright.flow import run
from bitwright.flow.repairing import repair_policy
from bitwright.sensitivity import sweep
from bitwright.session import Session, Steps
from bitwright.settings import Settings
from bitwright.store import RunStore
from bitwright.tasks import Detection
from bitwright.values import Policy
from bitwright.values.recipe import Action, Recipe
from bitwright.zoo.detector import GridDetector, decode

QUICK = {
    "calibration_samples": 24,
    "score_samples": 16,
    "holdout_samples": 16,
    "points": 3,
    "rounds": 1,
    "bits": (3, 4, 8),
    "budget": ("bops=W4A4",),
}


class Words(nn.Module):
    """A language model: its next token depends on the present one alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.head = nn.Embedding(12, 8), nn.Linear(8, 16), nn.Linear(16, 12)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.hidden(self.table(ids)).relu())}


class Sentences(nn.Module):
    """A sentence encoder: the mean of its words' vectors, of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 8), nn.Linear(8, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(self.table(ids).mean(1)), dim=-1)


def language() -> tuple[nn.Module, Tensor, Tensor, Any]:
    model, ids = Words().eval(), torch.randint(12, (80, 6))
    return model, ids, model(ids)["logits"].argmax(-1), "language"


def embedding() -> tuple[nn.Module, Tensor, None, Any]:
    return Sentences().eval(), torch.randint(12, (80, 6)), None, None


def detection() -> tuple[nn.Module, Tensor, Tensor, Any]:
    model, images = GridDetector(num_classes=2, width=4).eval(), torch.rand(80, 1, 32, 32)
    targets = torch.full((80, 5, 5), -1.0)
    for row, boxes in zip(targets, decode(model(images)), strict=True):
        count = min(5, len(boxes["boxes"]))
        row[:count] = torch.cat((boxes["boxes"], boxes["labels"][:, None].float()), 1)[:count]
    return model, images, targets, Detection(decode=decode, score=0.0)


def regression() -> tuple[nn.Module, Tensor, Tensor, Any]:
    model, x = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 2)).eval(), torch.randn(80, 5)
    return model, x, model(x) + 0.1 * torch.randn(80, 2), None


def segmentation() -> tuple[nn.Module, Tensor, Tensor, Any]:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1)).eval()
    x = torch.randn(80, 3, 6, 6)
    targets = model(x).argmax(1)
    targets[:, 0] = 255
    return model, x, targets, "dense?ignore=255"


KINDS = {
    "language": (language, "perplexity", "kl"),
    "embedding": (embedding, "cosine", "distance"),
    "detection": (detection, "mAP", "error"),
    "regression": (regression, "loss", "error"),
    "dense": (segmentation, "accuracy", "kl"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_works_on_every_task(kind: str, tmp_path) -> None:
    if kind == "detection":
        pytest.importorskip("pycocotools")
    torch.manual_seed(0)
    build, primary, distance = KINDS[kind]
    with torch.no_grad():
        model, inputs, targets, task = build()
    parts = (slice(0, 48), slice(48, 80))
    data = as_data(tuple((inputs[part], None if targets is None else targets[part]) for part in parts))
    settings = Settings(**QUICK, task=task, runtime="none")
    report = run(model, data, tmp_path, settings)
    verdict = report.chosen.verdict
    assert (verdict.task, verdict.primary_name, verdict.distance_name) == (kind, primary, distance)
    assert [table.method for table in report.tables] == ["fit"]
    assert any("FIT was used instead of Margin-FIT" in note for note in report.notes)
    eight = next(m for m in report.baselines if m.policy.name == "W8A8")
    assert eight.verdict.distance.value < verdict.distance.value
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert verdict.primary.measure.label in page
    assert ("Top-1" in page) == (kind == "dense")
    with RunStore(tmp_path) as store:
        session = Session.open(model, data, settings, store, Steps())
        policy = Policy.uniform(session.sites, 3, 8)
        repaired = repair_policy(session, Recipe(policy), (Action("repair", {"name": "bias"}),))
        assert repaired.held_after.distance.value < repaired.held_before.distance.value
        swept = sweep(session.graph, session.batches("calibration"), policy, task=session.task)
        assert swept.rows[0].distance >= swept.rows[-1].distance >= 0
        assert swept.distance == distance
        findings = debug(session, target_drop=50.0, weights=8, activations=8, model=model)
        assert findings.outcome == "holds"
        assert findings.step(2).measured[0].distance > 0


def test_the_file_of_a_network_with_several_outputs_is_compared_at_all_of_them(tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("pycocotools")
    torch.manual_seed(0)
    with torch.no_grad():
        model, images, targets, task = detection()
    settings = Settings(**{**QUICK, "budget": ("bops=W8A8",)}, task=task)
    report = run(model, as_data(((images[:48], targets[:48]), (images[48:], targets[48:]))), tmp_path, settings)
    assert report.parity.exact_agreement == 1.0
    assert report.parity.exact_difference <= 1.0
    assert report.parity.figure.measure.name == "mAP"
    assert report.parity.figure.value.value == pytest.approx(report.chosen.verdict.mAP.value, abs=0.02)

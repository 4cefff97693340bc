"""Which placement a run takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.cli.job import load_job
from bitwright.data import as_data, load_data
from bitwright.flow import run
from bitwright.repair import apply_recipe
from bitwright.settings import Settings
from bitwright.values import FLOAT
from bitwright.values.recipe import Recipe

QUICK = {
    "calibration_samples": 32,
    "score_samples": 16,
    "holdout_samples": 16,
    "points": 2,
    "rounds": 1,
    "bits": (4, 8),
    "runtime": "none",
    "budget": ("bops=W8A8",),
}


class Outliers(nn.Module):
    """Sentences to vectors, with a stream in which one channel is two hundred times as large as the others."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 16), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 64), nn.Linear(64, 16), nn.Linear(16, 8)
        with torch.no_grad():
            self.register_buffer("offset", 200.0 * nn.functional.one_hot(torch.tensor(3), 16).float())
            self.head.weight[:, 3] /= 200.0
            self.norm.weight[5] = 30.0
            self.up.weight[:, 5] /= 30.0

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        y = self.norm(x)
        x = x + self.down(nn.functional.gelu(self.up(y))) + self.offset
        return nn.functional.normalize(self.head(x + y).mean(1), dim=-1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Outliers().eval()


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(20, (80, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def data(ids):
    return as_data(((ids[:56], None), (ids[56:], None)))


@pytest.fixture(scope="module")
def done(model, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(model, data, folder, Settings(**QUICK))


def test_the_better_placement_is_taken_and_said(model, data, done, tmp_path) -> None:
    _, report = done
    assert report.placement == "linear"
    (said,) = (note for note in report.notes if note.startswith("Sites are placed as linear"))
    assert "auto: " in said
    assert "--quantizer linear" in said
    assert "A budget such as bops=W4A4 is what uniform bits cost in this placement" in said
    for name in ("auto", "linear"):
        graph = bw.capture(model, data.calibration.read(0, 2)[0], quantizer=name)
        whole = sum(op.macs * 32 * 32 for op in graph.sites.operations)
        bits = bw.Policy.uniform(graph.sites, 8, 8).bits
        spent = sum(op.macs * bits.get(op.left, 32) * bits.get(op.right, 32) for op in graph.sites.operations)
        assert re.search(rf"{name}: [\d.e-]+ at {100 * spent / whole:.1f}% of the bit operations", said)
    edge = run(model, data, tmp_path, Settings(**QUICK, quantizer="edge"))
    assert edge.placement == "edge"
    assert report.chosen.verdict.distance.value < 0.1 * edge.chosen.verdict.distance.value


def test_its_recipe_gives_the_network_that_was_measured(model, data, ids, done, tmp_path) -> None:
    folder, report = done
    assert "repair smooth" in next(note for note in report.notes if "Sites are placed" in note)
    recipe = Recipe.load(folder / "recipe.json")
    assert recipe.repairs == ("smooth",)
    assert recipe.policy.bits == report.chosen.policy.bits
    graph = apply_recipe(bw.capture(model, ids[:2], quantizer="linear"), recipe)
    again = run(model, data, tmp_path, Settings(**{**QUICK, "budget": ()}), recipe=recipe)
    assert again.placement == "linear"
    assert again.chosen.verdict.distance.value == pytest.approx(report.chosen.verdict.distance.value, rel=1e-6)
    with graph.applied(FLOAT), torch.no_grad():
        torch.testing.assert_close(graph(ids), model(ids), rtol=1e-4, atol=1e-5)


def test_a_target_keeps_what_the_placement_does_first(model, data, tmp_path) -> None:
    settings = Settings(**{**QUICK, "budget": (), "bits": (2, 3, 8), "repairs": ("gptq",)}, target_drop=20.0)
    run(model, data, tmp_path, settings)
    assert Recipe.load(tmp_path / "recipe.json").repairs[0] == "smooth"


def test_convolutional_networks_have_one_placement(digits_model, tmp_path) -> None:
    report = run(digits_model, load_data("digits?limit=80"), tmp_path, Settings(**QUICK))
    assert report.placement == "auto"
    assert not any("Sites are placed" in note for note in report.notes)
    assert not (tmp_path / "recipe.json").exists()


def test_the_job_file_names_the_placement_that_was_taken(tmp_path, monkeypatch) -> None:
    from bitwright.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    words = {**QUICK, "bits": "4,8", "budget": "bops=W8A8"}
    flags = [part for name, value in words.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    with pytest.raises(SystemExit) as caught:
        main(["run", "--model", "test_placing:built", "--data", "test_placing:loaded", *flags, "--output", "out"])
    assert caught.value.code in (0, None)
    assert load_job(tmp_path / "out" / "bitwright.toml").quantizer == "linear"


def built() -> nn.Module:
    torch.manual_seed(0)
    return Outliers().eval()


def loaded():
    ids = torch.randint(20, (80, 6), generator=torch.Generator().manual_seed(0))
    return (ids[:56], None), (ids[56:], None)

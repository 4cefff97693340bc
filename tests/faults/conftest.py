"""One file of each kind that a job writes or reads."""

from __future__ import annotations

from pathlib import Path

import pytest

import bitwright as bw
from bitwright.data import as_data
from bitwright.flow import Asked, run
from bitwright.repair import keep_fitted
from bitwright.settings import Settings
from faults.small import QUICK, captured, samples, small


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run, with a recipe that has fitted values."""
    folder = tmp_path_factory.mktemp("written")
    settings = Settings(**QUICK, runtime="none", budget=("bops=W4A4",))
    asked = Asked(
        "small", {"model": "small", "bits": [2, 4, 8]}, "bitwright run", lambda placement: ("", 'model = "a:b"\n')
    )
    run(small(), as_data(samples()), folder, settings, asked)
    graph = captured()
    bw.calibrate(graph, [samples()[0]])
    policy = bw.Policy.uniform(graph.sites, 4, 4)
    recipe = bw.Recipe(policy).then("repair", name="cle").then("ranges", method="minmax", kind="weight")
    recipe = recipe.then("limits", site="relu", low=-1.0, high=2.5).then("bits", site="second", bits=8)
    recipe = recipe.then("repair", name="gptq")
    keep_fitted(bw.apply_recipe(graph, recipe, [samples()[0]], calibrated=True), recipe).save(folder / "recipe.json")
    return folder

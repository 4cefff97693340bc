"""What Bitwright brings keeps the contracts that anybody's plug-ins are held to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitwright import testing
from bitwright.behavior import INDICATORS, SHIFTS
from bitwright.cost import COSTS, costs_for
from bitwright.data import load_data
from bitwright.errors import MissingExtra
from bitwright.graph.pt2e import PLACEMENTS, named_quantizer
from bitwright.repair import REPAIRS
from bitwright.runtimes import RUNTIMES
from bitwright.sensitivity import METHODS
from bitwright.train import STRATEGIES

OPTIONS: dict[str, dict[str, Any]] = {
    "adaround": {"iterations": 5},
    "blocks": {"iterations": 5},
    "ranges": {"weights": "mse", "activations": "percentile"},
}


def contracts(base: type, makes: dict[str, Any], **more: dict[str, Any]) -> dict[str, type]:
    """A class of tests for each entry."""
    found = {}
    for name, made in makes.items():
        body = {"make": lambda self, made=made: made()}
        body |= {key: values[name] for key, values in more.items() if name in values}
        found[f"Test{base.__name__}_{name}"] = type(f"Test{base.__name__}_{name}", (base,), body)
    return found


globals().update(
    contracts(testing.IndicatorContract, {name: (lambda name=name: INDICATORS[name]) for name in INDICATORS})
)
globals().update(contracts(testing.ShiftContract, {name: (lambda name=name: SHIFTS[name]) for name in SHIFTS}))
globals().update(
    contracts(testing.StrategyContract, {name: (lambda name=name: STRATEGIES[name]) for name in STRATEGIES})
)
globals().update(contracts(testing.MethodContract, {name: (lambda name=name: METHODS[name]) for name in METHODS}))
globals().update(
    contracts(testing.RepairContract, {name: (lambda name=name: REPAIRS[name]) for name in REPAIRS}, options=OPTIONS)
)
globals().update(contracts(testing.CostContract, {name: (lambda name=name: costs_for()[name]) for name in COSTS}))
globals().update(contracts(testing.RuntimeContract, {name: (lambda name=name: RUNTIMES[name]) for name in RUNTIMES}))


def installed(name: str) -> bool:
    """Whether the package of a backend is there."""
    try:
        named_quantizer(name)
    except MissingExtra:
        return False
    return True


globals().update(
    contracts(
        testing.PlacementContract,
        {name: (lambda name=name: PLACEMENTS[name]) for name in PLACEMENTS if installed(name)},
    )
)


class TestDigits(testing.DataContract):
    def make(self):
        pytest.importorskip("sklearn")
        return load_data("digits?limit=40")


class TestArrays(testing.DataContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "data.npz"
        rng = np.random.default_rng(0)
        np.savez(self.file, x=rng.normal(size=(20, 3)).astype(np.float32), y=np.arange(20) % 4)

    def make(self):
        return load_data(f"npz:{self.file}")

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.errors import InvalidPolicy
from bitwright.flow.meter import Meter
from bitwright.store import RunStore
from bitwright.tasks import Classification, evaluate
from bitwright.values import Policy

TASK = Classification()


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[1]
    return [(inputs[i : i + 50], targets[i : i + 50]) for i in range(0, 100, 50)]


def test_a_measurement_is_made_once_even_across_stores(digits_graph, batches, tmp_path: Path, monkeypatch) -> None:
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    with RunStore(tmp_path) as store:
        meter = Meter(digits_graph, batches, store, "graph", "data", 0, TASK)
        first = meter(policy)
        assert first == evaluate(digits_graph, policy, batches)
        assert (meter.measured, meter.reused) == (1, 0)
        meter(Policy.uniform(digits_graph.sites, 3, 3))
    with RunStore(tmp_path) as store:
        again = Meter(digits_graph, batches, store, "graph", "data", 0, TASK)
        monkeypatch.setattr("bitwright.flow.meter.evaluate", None)
        monkeypatch.setattr("bitwright.flow.meter.reference", None)
        assert again(Policy(policy.bits, name="mine")) == renamed(first, "mine")
        assert (again.measured, again.reused) == (0, 1)


def renamed(verdict, name: str):
    return type(verdict)(**{**verdict.__dict__, "policy_name": name})


@pytest.mark.parametrize("change", [{"identity": "other ranges"}, {"data": "other data"}, {"seed": 1}])
def test_what_differs_is_measured_anew(digits_graph, batches, tmp_path: Path, change: dict) -> None:
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    with RunStore(tmp_path) as store:
        Meter(digits_graph, batches, store, identity="graph", data="data", seed=0, task=TASK)(policy)
        other = Meter(
            digits_graph, batches, store, **{"identity": "graph", "data": "data", "seed": 0, "task": TASK, **change}
        )
        other(policy)
        assert other.measured == 1


def test_an_unknown_site_is_refused_before_the_store_is_asked(digits_graph, batches, tmp_path: Path) -> None:
    with RunStore(tmp_path) as store, pytest.raises(InvalidPolicy, match="names site 'conv9'"):
        Meter(digits_graph, batches, store, "graph", "data", 0, TASK)(Policy({"conv9": 4}))

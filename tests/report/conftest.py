"""A small run with figures that are easy to check by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bitwright.report import Agreement, Measured, Pair, RunReport
from bitwright.tasks import wilson
from bitwright.tasks.classification import ACCURACY, AGREEMENT
from bitwright.values import (
    Budget,
    Candidate,
    Figure,
    Front,
    Interval,
    Latency,
    LeftOut,
    Operation,
    Parity,
    Policy,
    Scheme,
    SensitivityTable,
    Site,
    Sites,
    Verdict,
)
from bitwright.values.table import FLIPS
from verdicts import classified

ODD = "head.<b>x</b>&\"'.weight"
"""A site name that must never reach the page as markup."""


def verdict(correct: float, agreement: float, name: str = "", samples: int = 200) -> Verdict:
    """A verdict of a model with 90% in float; intervals of fixed half widths."""

    def around(value: float, half: float, method: str) -> Interval:
        return Interval(value, value - half, value + half, 0.95, method)

    return classified(
        around(correct, 0.02, "wilson"),
        around(0.9, 0.02, "wilson"),
        around(correct - 0.9, 0.01, "paired bootstrap"),
        around(0.5, 0.05, "bootstrap"),
        around(0.4, 0.05, "bootstrap"),
        around(0.0125, 0.0025, "bootstrap"),
        around(agreement, 0.01, "wilson"),
        samples=samples,
        name=name,
        own={"F1 <macro>": (0.875, 0.9)},
    )


@pytest.fixture
def sites() -> Sites:
    weights = Scheme(symmetric=True, signed=True, granularity="channel", axis=0, narrow=True)
    return Sites(
        (
            Site("input", "activation", (1, 3, 8, 8), operation="input"),
            Site("stem.conv.weight", "weight", (4, 3, 3, 3), weights, "stem.conv", "conv2d"),
            Site("stem.relu", "activation", (1, 4, 8, 8), operation="conv2d"),
            Site("body.conv.weight", "weight", (4, 4, 3, 3), weights, "body.conv", "conv2d"),
            Site("body.relu", "activation", (1, 4, 8, 8), operation="conv2d"),
            Site(ODD, "weight", (10, 4), weights, "head", "linear"),
            Site("head", "activation", (1, 10), operation="linear"),
        ),
        (Operation("stem.conv", "conv2d", 6912, "input", "stem.conv.weight"),),
        "abc123",
        18,
    )


@pytest.fixture
def partly(report: RunReport) -> RunReport:
    """A run of a network that has an operation in float whatever the policy."""
    left_out = (LeftOut("body.mix", "conv9d<x>", 6912, 0, "nobody knows it"),)
    operations = (*report.sites.operations, Operation("body.mix", "conv9d<x>", 6912, None, None))
    return replace(report, sites=replace(report.sites, operations=operations, left_out=left_out))


@pytest.fixture
def table(sites: Sites) -> SensitivityTable:
    at_two = np.array([0.04, 0.08, 0.32, 0.16, 0.02, 0.64, 0.01])
    harm = np.stack([at_two, at_two / 16, at_two / 4096], axis=1)
    return SensitivityTable(
        "margin-fit", FLIPS, sites.names, (2, 4, 8), harm, harm / 10, 64, "abc123", notes=("One note.",)
    )


@pytest.fixture
def front(sites: Sites) -> Front:
    def candidate(w: int, a: int, size: float, predicted: float, measured: Verdict | None) -> Candidate:
        policy = Policy.uniform(sites, w, a).replaced({ODD: 8}, name=f"mixed {w}/{a}")
        budget = Budget("size", size / 0.95, f"size=W{w}A{a}")
        return Candidate(
            policy, predicted, {"size": size, "bops": size * 1e4}, (budget,), w != 4, 0.01, {"size": 0.95}, measured
        )

    return Front(
        (
            candidate(2, 4, 100.0, 0.20, verdict(0.7, 0.78)),
            candidate(4, 4, 150.0, 0.05, None),
            candidate(4, 8, 160.0, 0.04, verdict(0.88, 0.955)),
            candidate(8, 8, 250.0, 0.001, verdict(0.9, 1.0)),
        ),
        "margin-fit",
        FLIPS,
        "size",
    )


@pytest.fixture
def report(sites: Sites, table: SensitivityTable, front: Front) -> RunReport:
    chosen = front[2]
    fit = SensitivityTable(
        "fit", "increase of the loss", sites.names, (4, 8), table.harm[:, 1:] * 3, None, 64, "abc123"
    )
    uniform = Policy.uniform(sites, 4, 4)
    return RunReport(
        title="Tiny <net> & friends",
        sites=sites,
        job={"model": "zoo:tiny", "data": {"calibration": "digits"}, "bits": (2, 4, 8), "repair": True, "seed": None},
        float_costs={"size": 800.0, "bops": 8e6},
        chosen=Measured(chosen.policy, chosen.costs, chosen.verdict, chosen.predicted),
        baselines=(Measured(uniform, {"size": 145.0, "bops": 1.5e6}, verdict(0.85, 0.9), 0.07),),
        front=front,
        tables=(table, fit),
        agreements=(
            Agreement(
                "margin-fit",
                FLIPS,
                FLIPS,
                (Pair("a", 0.1, 0.12, 0.1, 0.14), Pair("b", 0.3, 0.28), Pair("<i>c</i>", 0.2, 0.22)),
                Interval(0.93, 0.8, 0.97, 0.95, "bootstrap"),
            ),
        ),
        exported="tiny.onnx",
        parity=Parity(
            "ONNX Runtime 1.31", 200, 0.0, 1.0, 0.05, AGREEMENT, 1.0, 0.995, Figure(ACCURACY, wilson(176, 200))
        ),
        latency=(Latency(1, 0.002, 0.004), Latency(32, 0.03, 0.025, ("body.<add>", "head (Gemm)"))),
        export_notes=("3 sites at 3 bits are stored as 4-bit",),
        environment={"torch": "2.13.0", "threads": 1},
        command="bitwright run --job 'tiny.toml' && echo <done>",
        job_file='model = "zoo:tiny"\n# </script><script>alert(1)</script>\n',
        timings={"capture": 0.5, "search": 75.0},
        notes=("Calibrated on few inputs.",),
    )


@pytest.fixture
def empty(sites: Sites) -> RunReport:
    return RunReport("Unfinished", sites)


@pytest.fixture
def other(report: RunReport, front: Front) -> RunReport:
    """The same run with the W8A8 candidate chosen, on a graph without its last site."""
    last = front[3]
    kept = Sites(report.sites.sites[:-1], report.sites.operations, "def456")
    policy = Policy({k: v for k, v in last.policy.bits.items() if k in kept}, "def456", "W8A8")
    return replace(
        report, title="Other", sites=kept, chosen=Measured(policy, last.costs, last.verdict, 0.001), front=front
    )

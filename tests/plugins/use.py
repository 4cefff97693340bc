"""Run where the packages of ``examples/plugins`` are installed: uses each everywhere, prints what it saw as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import bitwright as bw
from bitwright import testing
from bitwright.behavior import INDICATORS, SHIFTS
from bitwright.cli.main import main
from bitwright.cost import costs_for
from bitwright.data import load_data
from bitwright.graph.pt2e import PLACEMENTS
from bitwright.quantizers.kind import QUANTIZERS
from bitwright.repair import REPAIRS
from bitwright.runtimes import RUNTIMES
from bitwright.sensitivity import METHODS
from bitwright.tasks import TASKS
from bitwright.train import STRATEGIES
from bitwright.values import Scheme, Site

NETWORK = """
import torch
from torch import nn

def build():
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    net.load_state_dict(torch.load("net.pt"))
    return net.eval()
"""
QUICK = ["--calibration-samples", "128", "--batch-size", "64"]
TRAFFIC = {"weight": 1, "activation": 2}


def prepared() -> None:
    """A table, and a network that was trained on its first half."""
    x, y = load_digits(return_X_y=True)
    header = ",".join([*(f"pixel{i}" for i in range(64)), "digit"])
    np.savetxt("digits.csv", np.column_stack([x, y])[:800], delimiter=",", header=header, comments="", fmt="%g")
    data = load_data("csv:digits.csv").calibration
    inputs, targets = data.read(0, len(data))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    torch.save(net.state_dict(), "net.pt")
    Path("net.py").write_text(NETWORK)


def command(*words: str) -> tuple[int, str]:
    """Exit code and everything that a command printed."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            main(words)
    except SystemExit as end:
        return int(end.code or 0), out.getvalue()
    return 0, out.getvalue()


def kept(contract: type, **body: Any) -> list[str]:
    """Names of the tests of a contract, all of which passed."""
    one = type("Mine", (contract,), body)()
    names = [name for name in dir(one) if name.startswith("test_")]
    for name in names:
        getattr(one, name)()
    return names


def power_of_two(_: Any) -> Any:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    site = Site("w", "weight", (6, 5), Scheme(True, True, "channel", 0))
    quantizer = QUANTIZERS["power-of-two"].function(site)
    quantizer.hold(weight)
    return quantizer


def answers(_: Any) -> Any:
    draw = torch.Generator().manual_seed(0)
    floats = [torch.randn(8, 5, generator=draw) for _ in range(3)]
    outputs = [logits + 0.5 * torch.randn(8, 5, generator=draw) for logits in floats]
    return floats, outputs, [torch.randint(5, (8,), generator=draw) for _ in floats]


def contracts() -> dict[str, int]:
    """Every contract on the package that it is for."""
    found = {
        "method": kept(testing.MethodContract, make=lambda _: METHODS["relative-error"]),
        "repair": kept(testing.RepairContract, make=lambda _: REPAIRS["shrink"]),
        "cost": kept(testing.CostContract, make=lambda _: costs_for()["traffic"]),
        "runtime": kept(testing.RuntimeContract, make=lambda _: RUNTIMES["onnx-reference"]),
        "data": kept(testing.DataContract, make=lambda _: load_data("csv:digits.csv?limit=50")),
        "placement": kept(testing.PlacementContract, make=lambda _: PLACEMENTS["edge-signed"]),
        "quantizer": kept(testing.QuantizerContract, make=power_of_two),
        "indicator": kept(testing.IndicatorContract, make=lambda _: INDICATORS["runner-up"]),
        "shift": kept(testing.ShiftContract, make=lambda _: SHIFTS["occlusion"]),
        "strategy": kept(testing.StrategyContract, make=lambda _: STRATEGIES["noisy"]),
        "task": kept(testing.TaskContract, make=lambda _: TASKS["ordinal"](), answers=answers),
    }
    return {name: len(tests) for name, tests in found.items()}


def python() -> dict[str, Any]:
    """The functions of the package, with the names that the packages bring."""
    import net  # type: ignore[import-not-found]

    data = load_data("csv:digits.csv")
    batches = list(data.calibration.batches(100))
    graph = bw.capture(net.build(), batches[0][0], quantizer="edge-signed")
    bw.calibrate(graph, batches)
    table = bw.sensitivity(graph, batches, "relative-error", bits=(2, 4, 8))
    (found,) = bw.search(graph, table, cost="traffic", budgets=["traffic=20%"])
    sites, noise = graph.sites, bw.sensitivity(graph, batches, "noise", bits=(2, 4, 8)).harm
    by_hand = {s.name: TRAFFIC[s.kind] * s.numel * (found.policy[s.name] or 32) / 8 for s in sites}
    graph.apply(found.policy)
    report = bw.repair(graph, "shrink", share=0.1)
    steps = bw.repair(graph, "put", quantizer="power-of-two")
    with torch.no_grad():
        simulated = graph(batches[0][0])
    unseen = list(data.evaluation.batches(100))
    verdict = bw.evaluate(graph, graph.policy, unseen, task=TASKS["ordinal"]())
    targets = torch.cat([targets for _, targets in unseen])
    with torch.no_grad():
        off = (torch.cat([graph(inputs) for inputs, _ in unseen]).argmax(1) - targets).abs().double()
    exported = bw.export(graph, "python.onnx", runtime="onnx-reference")
    ran = RUNTIMES["onnx-reference"].load(exported.path)(batches[0][0])[0]
    grids = [graph.quantizers[s.name].grid(found.policy[s.name]).scale for s in sites.weights]
    return {
        "signed": all(s.scheme.signed and s.scheme.symmetric for s in sites),
        "unit": table.unit,
        "relative": bool((table.harm > 0).all() and (table.harm / noise).std() > 0),
        "traffic": [found.costs["traffic"], sum(by_hand.values()) + 4 * sites.other_parameters],
        "budget": found.used["traffic"],
        "shrunk": [[c.before, c.after] for c in report.changes],
        "put": len(steps.changes),
        "powers": all(bool((g.log2() == g.log2().round()).all()) for g in grids),
        "repairs": graph.repairs,
        "figures": [verdict.figures[name].value.value for name in ("near", "off", "accuracy")],
        "near by hand": float((off <= 1).double().mean()),
        "off by hand": float(off.mean()),
        "runs the same": float((torch.from_numpy(ran) - simulated).abs().max()),
    }


def commands() -> dict[str, Any]:
    """The command line."""
    model = ["--model", "net:build", "--data", "csv:digits.csv?share=60", "--output", "out", *QUICK]
    ours = ["--method", "relative-error", "--cost", "traffic", "--quantizer", "edge-signed"]
    ours += ["--runtime", "onnx-reference", "--task", "ordinal"]
    asked = ["--budget", "traffic=20%", "--points", "4", "--rounds", "1", "--bits", "2,4,8"]
    target = ["--policy", "W8A3", "--target-drop", "0", "--repairs", "shrink", "--output", "debug"]
    found = {
        "settings": command("settings"),
        "list": command("repair", "--list"),
        "shifts": command("behavior", "--list"),
        "refused": command("run", *model, "--method", "relative-eror"),
        "run": command("run", *model, *ours, *asked),
        "repair": command("repair", "shrink,put", *model, "--set", "put.quantizer=power-of-two", "--policy", "W4A6"),
        "behavior": command("behavior", *model, "--policy", "W2A2", "--shifts", "none", "--output", "behavior"),
        "export": command("export", *model, "--recipe", "out/recipe.json", "--runtime", "onnx-reference"),
        "qat": command(
            "qat", *model, "--strategy", "noisy?share=0.2", "--first", "none", "--epochs", "1", "--output", "q"
        ),
        "debug": command("debug", *model, *target),
    }
    files = {name: (Path("out") / name).read_text() for name in ("report.html", "front.json", "recipe.json")}
    return {**found, **files, "findings": Path("debug/findings.json").read_text()}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    prepared()
    sys.path.insert(0, str(Path.cwd()))
    print(json.dumps({"contracts": contracts(), "python": python(), "commands": commands()}))

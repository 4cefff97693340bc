"""Thirty networks of all kinds through the main job: coverage, figures beside uniform widths, parity, latency, cost.

    BITWRIGHT_DATA=DIR python benchmarks/networks.py --runs-dir DIR [--only LSTM,U-Net] [--jobs 2] [--page FILE]
        [--output FILE]

Each network of `_networks.py` is trained for some seconds, then `run` chooses a policy for the bit operations of W4A8
(widths 3, 4, 5, 6 and 8; 256 calibration samples, as many held out), exports it and compares it with the simulation.
Each runs in a process of its own on one thread, so that its memory is its own. A network whose result is in --runs-dir
is not run again. --page writes docs/networks.md.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import json  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from concurrent.futures import ThreadPoolExecutor  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from _networks import Case, networks, trained  # noqa: E402
from _task_networks import Built  # noqa: E402
from bitwright.data import as_data  # noqa: E402
from bitwright.flow import run  # noqa: E402
from bitwright.report import RunReport  # noqa: E402
from bitwright.report import format as text  # noqa: E402
from bitwright.session import draw  # noqa: E402
from bitwright.settings import Settings  # noqa: E402
from bitwright.store import folder as files  # noqa: E402
from bitwright.values import Drift, SensitivityTable, Verdict  # noqa: E402
from tasks import beside, figure_of  # noqa: E402

SAMPLES = 256


def measure(name: str, data: Path, folder: Path) -> dict[str, Any]:
    """Everything about one network."""
    kind, build = networks()[name]
    torch.manual_seed(0)
    case = build(data)
    model = trained(case)
    built = Built(model, case.train, case.test)
    settings = Settings(
        task=case.task,
        budget=("bops=W4A8",),
        bits=(3, 4, 5, 6, 8),
        calibration_samples=SAMPLES,
        score_samples=SAMPLES,
        holdout_samples=SAMPLES,
        points=8,
        rounds=2,
    )
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    report = run(model, as_data((built.calibration, built.evaluation)), folder, settings)
    seconds = time.process_time() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = told(report)
    return {
        "kind": kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "processor_seconds": round(seconds, 1),
        "mebibytes": round(memory / 1024),
        "mebibytes_before": round(before / 1024),
        **found,
        "searched_beside_uniform": paired(case, model, settings, report, folder),
    }


def told(report: RunReport) -> dict[str, Any]:
    """What the report says."""
    coverage = report.sites.coverage
    chosen, parity = report.chosen, report.parity
    assert chosen is not None
    assert chosen.verdict is not None
    assert parity is not None
    measured = {m.policy.name: m for m in (*report.baselines, chosen)}
    rows = {name: figures(m.verdict) for name, m in measured.items() if m.verdict is not None}
    return {
        "sites": len(report.sites),
        "coverage": {
            "macs": share(coverage.macs, coverage.all_macs),
            "weights": share(coverage.weights, coverage.all_weights),
            "said": coverage.sentences(),
        },
        "placement": report.placement,
        "primary": chosen.verdict.primary_name,
        "distance": chosen.verdict.distance_name,
        "chosen": chosen.policy.name,
        "policies": rows,
        "harms_that_rise_with_bits": {table.method: rises(table) for table in report.tables},
        "sites_not_trusted": {table.method: len(table.doubts) for table in report.tables},
        "parity": parity.to_dict(),
        "latency": {str(one.batch): one.ratio for one in report.latency},
        "file_over_float": report.file_bytes / report.float_file_bytes,
        "notes": [*report.notes, *report.export_notes],
    }


def share(part: int, whole: int) -> float:
    """A part of a whole; all of nothing."""
    return part / whole if whole else 1.0


def figures(verdict: Verdict) -> dict[str, Any]:
    """The primary figure and the distance, with intervals."""
    return {name: figure_of(verdict.figures[name]) for name in (verdict.primary_name, verdict.distance_name)}


def rises(table: SensitivityTable) -> int:
    """Sites with a harm that is larger at more bits."""
    return int((np.diff(table.harm, axis=1) > 1e-12 * table.harm.max()).any(axis=1).sum())


def paired(case: Case, model: Any, settings: Settings, report: RunReport, folder: Path) -> dict[str, Any]:
    """The distance of the searched policy against that of uniform W4A8, on the same evaluation samples."""
    sets = as_data((case.train, case.test))
    calibration = list(draw(sets, settings).calibration)
    graph = bw.capture(model, calibration[0][0], quantizer=report.placement or None)
    bw.calibrate(graph, calibration, ranges=settings.ranges, seed=settings.seed)
    assert report.chosen is not None
    if (folder / files.RECIPE).exists():
        bw.apply_recipe(graph, bw.Recipe.load(folder / files.RECIPE), calibration)
    evaluation = list(sets.evaluation.batches(settings.batch_size))
    return beside(graph, case.task, evaluation, report.chosen.policy)


def alone(name: str, arguments: Any) -> dict[str, Any]:
    """One network in a process of its own; its result, or the last line of its error."""
    file = arguments.runs_dir / f"{slug(name)}.json"
    if not file.exists():
        words = [sys.executable, __file__, "--one", name, "--runs-dir", str(arguments.runs_dir)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            print(f"# {name}: {lines[-1]}", flush=True)
            return {"kind": networks()[name][0], "error": lines[-1]}
    print(f"# {name}: done", flush=True)
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def slug(name: str) -> str:
    """A name for a folder."""
    return "".join(c if c.isalnum() else "-" for c in name).lower()


PAGE = """# Networks of all kinds

What the main job does on {count} networks, each built in code after the published one that its name says, at a tenth
of its width or less, and trained for some seconds on digits, sentences or data by a formula
(`benchmarks/_networks.py`). `bitwright run` chooses widths of 3 to 8 bits for the bit operations of W4A8, from
{samples} calibration samples and as many held out. This page is made by `benchmarks/networks.py`.

- **MACs**: the share of multiply-accumulates whose operands are both quantized; the reasons for the rest stand below.
- **figure**: the task's primary figure on samples that took no part in any choice, in float, with uniform widths, and
  searched. The networks are small and briefly trained, so figures say nothing about the originals.
- **distance**: how far the searched policy's outputs are from float's, divided by the distance of uniform W4A8 at the
  same bit operations, with a 95 % interval from the same samples; below 1 the searched policy is nearer to float.
- **doubted**: sites whose scores are not trusted, because a harm rose with bits before it was raised, or because a
  measurement was far from the prediction. The policies on the front are measured, so a doubted score alone decides
  nothing.
- **parity**: predictions of the exported file that are those of the simulation, and the largest difference of an
  output in steps, with ONNX Runtime's graph optimisations off; on.
- **latency**: the exported file's time over float's in ONNX Runtime, batch 1, 32. Most of these networks take
  microseconds, nearly all of them outside the arithmetic.
- **file**: bytes over float's, the graph's own description included, which is a large part of such small files.
- **s, MiB**: processor time of the job, and the largest memory of its process, PyTorch's own included.

{table}
{worse}

## What stays in float

{left}"""


def page(found: dict[str, dict[str, Any]]) -> str:
    """The page."""
    heads = (
        "network", "kind", "sites", "MACs", "figure", "float", "W8A8", "W4A8", "searched", "distance", "doubted",
        "parity off; on", "latency", "file", "s, MiB",
    )  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name, row in found.items():
        shown = [row["kind"], row["error"], *[""] * (len(heads) - 3)] if "error" in row else cells(row)
        lines.append(f"| {' | '.join((name, *shown))} |")
    done = {name: row for name, row in found.items() if "error" not in row}
    worse = [n for n, row in done.items() if row["searched_beside_uniform"]["difference"][1] > 0]
    said = (
        f"Searched policies that are farther from float than uniform W4A8, beyond chance: {', '.join(worse) or 'none'}."
    )
    apart = [f"- {name}: {begins(row['parity'])}" for name, row in done.items() if begins(row["parity"])]
    if apart:
        said = "\n".join([said, "", "Where files differ by more than a step, this is where they begin to:", "", *apart])
    left = [f"- {name}: {' '.join(row['coverage']['said'])}" for name, row in done.items() if row["coverage"]["said"]]
    table = "\n".join(lines) + "\n"
    return PAGE.format(count=len(found), samples=SAMPLES, table=table, worse=said, left="\n".join(left) or "Nothing.")


def cells(row: dict[str, Any]) -> list[str]:
    """A network's cells."""
    primary, policies = row["primary"], row["policies"]

    def value(policy: str, part: str = "value") -> str:
        numbers = policies.get(policy, {}).get(primary, {}).get(part)
        return "–" if numbers is None else text.significant(numbers[0])

    one = row["searched_beside_uniform"]
    low, high = (1 + end / one["distance_uniform"] for end in one["difference"][1:])
    ratios = [text.significant(row["latency"][batch], 2) for batch in sorted(row["latency"], key=int)]
    distance = f"{one['ratio']:.2f} [{max(low, 0):.2f}, {high:.2f}]"
    return [
        row["kind"],
        str(row["sites"]),
        text.percent(row["coverage"]["macs"]),
        primary,
        value("W8A8", "float"),
        value("W8A8"),
        value("W4A8"),
        value(row["chosen"]),
        distance,
        str(next(iter(row["sites_not_trusted"].values()))),
        agreement(row["parity"]),
        ", ".join(ratios),
        text.percent(row["file_over_float"], 0),
        f"{row['processor_seconds']:.0f}, {row['mebibytes']:.0f}",
    ]


def agreement(parity: dict[str, Any]) -> str:
    """Shares of equal decisions with the runtime's optimisations off and on, and the largest difference in steps."""
    said = []
    for part in ("exact", "fused"):
        decided, close = parity.get(f"{part}_agreement"), parity.get(part)
        shown = [] if decided is None else [text.percent(decided)]
        shown += [] if close is None else [f"{text.significant(close['steps'], 2)} steps"]
        said.append(" / ".join(shown) or "–")
    return "; ".join(said)


def begins(parity: dict[str, Any]) -> str:
    """Where a file begins to differ from the simulation; nothing where it does by no more than a step."""
    found = parity.get("exact_drift") or parity.get("fused_drift")
    return text.drift(Drift.from_dict(found)).removeprefix("; ") + "." if found else ""


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--runs-dir", metavar="DIR", required=True, type=Path, help="where results are kept")
    parser.add_argument("--only", metavar="NAMES", default=",".join(n.replace(",", "") for n in networks()))
    parser.add_argument("--jobs", metavar="N", type=int, default=1, help="networks at a time (default 1)")
    parser.add_argument("--page", metavar="FILE", type=Path, help="write the page as Markdown")
    parser.add_argument("--one", metavar="NAME", help="one network in this process; its result goes to --runs-dir")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.one:
        folder = arguments.runs_dir / slug(arguments.one)
        found = measure(arguments.one, Path(os.environ["BITWRIGHT_DATA"]), folder)
        (arguments.runs_dir / f"{slug(arguments.one)}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        return
    arguments.runs_dir.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in networks() if name.replace(",", "") in arguments.only.split(",")]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        results = dict(zip(wanted, pool.map(lambda name: alone(name, arguments), wanted), strict=True))
    if arguments.page is not None:
        arguments.page.write_text(page(results), encoding="utf-8")
    write("networks", results, arguments.output)


if __name__ == "__main__":
    main()

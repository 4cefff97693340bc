"""What a run says before it begins and after it ends."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.cli.job import Job
from bitwright.cost import headline_costs
from bitwright.report import format as text
from bitwright.store import folder as files

if TYPE_CHECKING:
    from bitwright.report import RunReport

_FILES = (
    (files.REPORT, "the report: open it in a browser"),
    (files.MODEL, "the model for its runtime"),
    (files.POLICY, "bits of every site"),
    (files.RECIPE, "bits, repairs and ranges: apply it with --recipe"),
    (files.SCALES, "scales and zero points of the model"),
    (files.FRONT, "the Pareto front"),
    (files.SENSITIVITY_CSV, "sensitivity of every site at every width"),
    (files.JOB, "these settings, as a job file"),
    (files.WEIGHTS, "the weights of the network that was trained"),
)


def opening(job: Job) -> str:
    """What was asked, in a few lines."""
    if job.budget:
        wanted = f"the best policy for {' and for '.join(job.budget)}"
    else:
        wanted = f"the cheapest policy that loses at most {text.points(job.drop)} (by {job.cost})"
    widths = ", ".join(str(b) for b in job.bits)
    return f"Asked: {wanted}\n  model  {job.model}\n  data   {job.data}\n  bits   {widths}"


def closing(report: RunReport, job: Job) -> str:
    """Where the files are, and what to try next."""
    named = [(report.exported if name == files.MODEL else name, what) for name, what in _FILES]
    present = [(name, what) for name, what in named if name and (job.output / name).is_file()]
    lines = ["", f"Files in {job.output}:"]
    for name, what in present:
        lines.append(f"  {name:<22}{what}")
    for path in sorted(job.output.glob(f"{Path(files.RECIPE).stem}-*.npz")):
        lines.append(f"  {path.name:<22}what was fitted for {files.RECIPE}: keep the two together")
    lines += ["", f"Took {text.duration(sum(report.timings.values()))}. Next, for example:"]
    lines += [f"  {command}" for command in suggestions(job)]
    return "\n".join(lines)


def suggestions(job: Job) -> list[str]:
    """Commands that make sense after this run."""
    bitwright = program()
    again = [bitwright, "run", "--job", str(job.output / files.JOB)]
    other = job.output.with_name(f"{job.output.name}-2")
    asked = ", ".join(job.budget) or job.cost
    cost = next((cost for cost in headline_costs() if cost.name not in asked), headline_costs()[0])
    budget = f"{cost.name}={cost.examples[0]}"
    return [
        shlex.join([*again, "--budget", budget, "--output", str(other)]),
        shlex.join([bitwright, "compare", str(job.output), str(other)]),
    ]


def program() -> str:
    """How this program is called here: by its name where the shell finds it, else by its path."""
    called = Path(sys.argv[0])
    if called.name != "bitwright" or shutil.which("bitwright"):
        return "bitwright"
    return str(called.relative_to(Path.cwd())) if called.is_relative_to(Path.cwd()) else str(called)

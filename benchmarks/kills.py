"""Trainings that are killed (SIGKILL) at random moments and started again come to the same result.

    python benchmarks/kills.py [--kills N] [--seed N] [--output FILE]

A small network, trained by a process of its own (tests/train/several.py) with a checkpoint after each epoch. It is
killed soon after its first checkpoint, then at moments drawn from the whole time that a start takes, until so many
kills have been made in trainings that were then run to their end; each of these is compared with one that nobody
killed: epochs, outputs and integers.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from _environment import output_argument, write

PROGRAM = Path(__file__).parent.parent / "tests" / "train" / "several.py"


def started(*files: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, str(PROGRAM), *map(str, files)], stdout=subprocess.DEVNULL)


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    integers = all(torch.equal(value, other["integers"][name]) for name, value in one["integers"].items())
    return integers and one["rows"] == other["rows"] and torch.equal(one["outputs"], other["outputs"])


def main() -> None:
    """Kill, start again, compare."""
    parser = output_argument(__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, folder = random.Random(arguments.seed), Path(tempfile.mkdtemp())
    begun = time.monotonic()
    assert started(folder / "whole.pt").wait() == 0
    length, whole = time.monotonic() - begun, torch.load(folder / "whole.pt")
    kills = resumed = 0
    equal: list[bool] = []
    while kills < arguments.kills:
        result, checkpoint = folder / f"{len(equal)}.pt", folder / f"{len(equal)}.state"
        while not result.exists():
            begun, process = time.monotonic(), started(result, checkpoint)
            while not checkpoint.exists() and process.poll() is None:
                time.sleep(0.002)  # most of a start is spent on imports: the first kill comes after an epoch
            if time.monotonic() - begun > 0.1 and kills < arguments.kills and process.poll() is None:
                time.sleep(draw.uniform(0, 0.1))
                process.send_signal(signal.SIGKILL)
            try:
                process.wait(draw.uniform(0.3, 1.0) * length if kills < arguments.kills else None)
                if process.returncode == -signal.SIGKILL:
                    raise subprocess.TimeoutExpired(process.args, 0.0)
                length = time.monotonic() - begun  # of late: how busy the machine is changes
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                resumed += checkpoint.exists()
        equal.append(same(torch.load(result), whole))
    figures = {"kills": kills, "with_a_checkpoint": resumed, "trainings": len(equal), "same_result": sum(equal)}
    write("kills", figures, arguments.output)


if __name__ == "__main__":
    main()

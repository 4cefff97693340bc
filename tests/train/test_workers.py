"""Several processes share the work and come to what one comes to; a process that is killed loses nothing."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bitwright.errors import InvalidInput
from bitwright.train.workers import workers

PROGRAM = Path(__file__).parent / "several.py"


def started(arguments, **environment):
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process):
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told[-3000:]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    file = tmp_path_factory.mktemp("alone") / "result.pt"
    finished(started([file]))
    return torch.load(file)


def test_two_processes_come_to_the_figures_of_one(alone, tmp_path):
    pytest.importorskip("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
    both = [started([tmp_path / "two.pt"], RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    for one in both:
        finished(one)
    two = torch.load(tmp_path / "two.pt")
    assert torch.allclose(torch.tensor(two["rows"]), torch.tensor(alone["rows"]), rtol=1e-4)
    assert all(torch.equal(two["integers"][name], alone["integers"][name]) for name in alone["integers"])
    assert torch.allclose(two["outputs"], alone["outputs"], atol=1e-4)


def killed_until_done(file, checkpoint, draw, kills):
    """Kill -9 at random moments of the training, so often; then let it end."""
    done = 0
    while done < kills:
        process = started([file, checkpoint])
        before, wait = checkpoint.exists(), time.monotonic() + 120
        while not before and not checkpoint.exists() and process.poll() is None and time.monotonic() < wait:
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is not None:
            break  # it ended before
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done += 1
    if not file.exists():
        finished(started([file, checkpoint]))
    return done


def test_a_training_that_is_killed_comes_to_the_same_result(alone, tmp_path):
    kills = killed_until_done(tmp_path / "killed.pt", tmp_path / "state.pt", random.Random(0), 2)
    assert kills >= 1
    found = torch.load(tmp_path / "killed.pt")
    assert found["rows"] == alone["rows"]
    assert torch.equal(found["outputs"], alone["outputs"])
    assert not (tmp_path / "state.pt").exists()


def test_an_unknown_precision_is_refused():
    with pytest.raises(InvalidInput, match="precision must be one of no, bf16, got 'fp8'"):
        workers("fp8")

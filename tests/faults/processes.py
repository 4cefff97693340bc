"""Commands in processes of their own, which begin with everything imported."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from bitwright.cli import entry
from bitwright.cli.main import main
from bitwright.session import session as session_module
from bitwright.store import STORE_NAME

JOB = """
model = "faults.small:small"
data = "faults.small:samples"
runtime = "none"
output = "out"
calibration_samples = 16
score_samples = 16
holdout_samples = 16
batch_size = 8
points = 3
rounds = 1
bits = [2, 4, 8]
budget = ["bops=W4A4"]
"""
COMMANDS = {
    "run": ("run",),
    "debug": ("debug", "--policy", "W3A8", "--repairs", "cle"),
    "sweep": ("sweep", "--policy", "W4A8"),
    "repair": ("repair", "cle,gptq", "--policy", "W4A8"),
}
RESULTS = ("policy.json", "front.json", "sensitivity.json", "recipe.json", "sweep.json")
"""Files that hold no times."""


def started(folder: Path, command: str, seconds: float = 0.0) -> int:
    """Start a command in a folder, where a measurement takes so much longer; the number of its process."""
    folder.mkdir(exist_ok=True)
    (folder / "bitwright.toml").write_text(JOB)
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.chdir(folder)
        for number, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(f"{name}-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.sys.stdout, os.sys.stderr = (os.fdopen(os.dup(number), "w") for number in (1, 2))  # type: ignore[attr-defined]
        note_evaluations(folder / "evaluations", seconds)
        entry.listen()
        main(list(COMMANDS[command]))
    except SystemExit as error:
        code = int(error.code or 0)
    except KeyboardInterrupt:
        code = 99
    finally:
        os._exit(code)


def note_evaluations(log: Path, seconds: float) -> None:
    """Write a line for each policy that this process measures, and take longer for it."""
    evaluate = session_module.evaluate

    def noted(*args, **kwargs):
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)
        return evaluate(*args, **kwargs)

    session_module.evaluate = noted


def ended(child: int) -> int:
    """Wait for a process; its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stopped(child: int, number: signal.Signals, after: float) -> int:
    """Send a process a signal some seconds after now, unless it ends before; its exit code."""
    deadline = time.monotonic() + after
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, number)
    return ended(child)


def records(folder: Path) -> dict[str, str]:
    """Key -> payload of every record; the file must be sound."""
    path = folder / "out" / STORE_NAME
    if not path.exists():
        return {}
    connection = sqlite3.connect(path)
    try:
        if not connection.execute("SELECT name FROM sqlite_master WHERE name = 'measurements'").fetchone():
            return {}
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return dict(connection.execute("SELECT key, payload FROM measurements").fetchall())
    finally:
        connection.close()


def results(folder: Path) -> dict[str, bytes]:
    """The result files that hold no times."""
    return {name: (folder / "out" / name).read_bytes() for name in RESULTS if (folder / "out" / name).exists()}


class Undisturbed:
    """What each command gives when nothing happens to it, and how long it takes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.results: dict[str, dict[str, bytes]] = {}
        for command in COMMANDS:
            begun = time.monotonic()
            assert ended(started(folder / command, command)) in (0, 3, 4), self.said(folder / command)
            self.seconds[command] = time.monotonic() - begun
            self.results[command] = results(folder / command)

    @staticmethod
    def said(folder: Path) -> str:
        """What the processes of a folder wrote to stderr."""
        return "\n".join(file.read_text() for file in folder.glob("stderr-*"))


def disturbed(
    folder: Path,
    command: str,
    whole: Undisturbed,
    times: int,
    draw: random.Random,
    number: signal.Signals,
    check: Callable[[int, Path], None],
) -> int:
    """Stop a command again and again at random moments, then let it finish; how often it was stopped.

    No record may be lost, the result files are always of one run, and at the end those of an undisturbed one.
    """
    count, known = 0, {}
    while count < times:
        code = stopped(started(folder, command), number, draw.uniform(0.0, 1.0) * whole.seconds[command])
        check(code, folder)
        now = records(folder)
        lost = [key for key in known if now.get(key) != known[key]]
        assert not lost, f"{len(lost)} records lost"
        known = now
        assert results(folder) in ({}, whole.results[command])
        if code in (-number, 128 + number):
            count += 1
        else:
            shutil.rmtree(folder)  # it was done: from the beginning
            known = {}
    assert ended(started(folder, command)) in (0, 3, 4), whole.said(folder)
    assert results(folder) == whole.results[command]
    return count

"""Commands that are killed or stopped at any moment, and several that work in one folder."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest

from faults.processes import COMMANDS, Undisturbed, disturbed, ended, records, results, started, stopped

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]
KILLS, TERMINATIONS = 60, 16


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(tmp_path_factory.mktemp("whole"))


def test_kills(whole: Undisturbed, tmp_path: Path) -> None:
    draw, count = random.Random(5), 0
    for command in COMMANDS:
        count += disturbed(
            tmp_path / command, command, whole, KILLS // len(COMMANDS), draw, signal.SIGKILL, lambda code, folder: None
        )
    print(f"\nkills: {count}; lost records: 0, mixed results: 0, other results: 0")


def test_terminations(whole: Undisturbed, tmp_path: Path) -> None:
    def one_line(code: int, folder: Path) -> None:
        assert code in (0, 3, 4, 143), whole.said(folder)
        for file in folder.glob("stderr-*"):
            text = file.read_text()
            assert text in ("", "stopped\n") or (text.startswith("stopped; ") and text.count("\n") == 1), text
            file.unlink()

    draw, count = random.Random(6), 0
    for command in COMMANDS:
        each = TERMINATIONS // len(COMMANDS)
        count += disturbed(tmp_path / command, command, whole, each, draw, signal.SIGTERM, one_line)
    print(f"\nSIGTERM: {count}; each one line and code 143")


@pytest.mark.parametrize("count", [2, 4])
def test_processes_of_one_job(whole: Undisturbed, tmp_path: Path, count: int) -> None:
    folder = tmp_path / "shared"
    children = [started(folder, "run", 0.5) for _ in range(count)]
    assert [ended(child) for child in children] == [0] * count, whole.said(folder)
    assert results(folder) == whole.results["run"]
    by = Counter((folder / "evaluations").read_text().split())
    alone = len((whole.folder / "run" / "evaluations").read_text().split())
    assert sum(by.values()) == alone
    assert len(by) > 1
    print(f"\n{count} processes of one job: {alone} measurements, each made once, by {len(by)} of them")


def test_one_of_several_processes_is_killed(whole: Undisturbed, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    children = [started(folder, "run") for _ in range(3)]
    assert stopped(children[0], signal.SIGKILL, 0.6 * whole.seconds["run"]) in (-9, 0)
    assert [ended(child) for child in children[1:]] == [0, 0], whole.said(folder)
    assert results(folder) == whole.results["run"]


def test_another_job_in_the_folder_is_refused_while_one_works(whole: Undisturbed, tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    shutil.copytree(whole.folder / "run", folder)
    (folder / "out" / "policy.json").unlink()
    before = records(folder)
    children = {command: started(folder, command) for command in ("run", "sweep", "repair")}
    codes = {command: ended(child) for command, child in children.items()}
    assert sorted(codes.values()) in ([0, 0, 2], [0, 2, 2], [0, 0, 0]), whole.said(folder)
    for line in whole.said(folder).splitlines():
        assert line.startswith("error: the output folder 'out' is in use by `"), line
    assert before.items() <= records(folder).items()

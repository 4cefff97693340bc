from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bitwright.errors import StoreError
from bitwright.store import RunStore, results
from bitwright.values import FLOAT, Policy
from bitwright.values.recipe import Recipe


def write(folder: Path, command: str, **files: str) -> None:
    with RunStore(folder) as store, store.results(command) as place:
        for name, text in files.items():
            (place / f"{name}.json").write_text(text)


def names(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir() if file.is_file() and "sqlite" not in file.name}


def test_results_take_their_places_together_at_the_end(tmp_path: Path) -> None:
    write(tmp_path, "run", policy="1", report="1")
    with RunStore(tmp_path) as store, store.results("run") as place:
        (place / "policy.json").write_text("2")
        (place / "report.json").write_text("2")
        assert (tmp_path / "policy.json").read_text() == (tmp_path / "report.json").read_text() == "1"
    assert names(tmp_path) == {"policy.json": "2", "report.json": "2"}


def test_what_the_same_command_wrote_before_is_gone_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("0")
    write(tmp_path, "run", policy="1", scales="1")
    write(tmp_path, "sweep", sweep="1")
    write(tmp_path, "run", policy="2")
    assert names(tmp_path) == {"mine.json": "0", "policy.json": "2", "sweep.json": "1"}


def test_a_file_that_another_command_wrote_again_is_that_commands(tmp_path: Path) -> None:
    write(tmp_path, "run", policy="1", report="1")
    write(tmp_path, "search", policy="2")
    write(tmp_path, "run", report="3")
    assert names(tmp_path) == {"policy.json": "2", "report.json": "3"}


def test_what_was_fitted_for_a_recipe_goes_with_it(tmp_path: Path) -> None:
    (tmp_path / "recipe-0123abcd.npz").write_bytes(b"old")
    (tmp_path / "recipe-mine.npz").write_bytes(b"mine")
    with RunStore(tmp_path) as store, store.results("debug") as place:
        Recipe(FLOAT).save(place / "recipe.json")
    assert {file.name for file in tmp_path.glob("*.npz")} == {"recipe-mine.npz"}


def test_a_block_that_raises_leaves_everything_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, "run", policy="1")

    def stop() -> None:
        with RunStore(tmp_path) as store, store.results("run") as place:
            (place / "policy.json").write_text("2")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert names(tmp_path) == {"policy.json": "1"}


def test_errors_name_the_file_where_it_was_to_be(tmp_path: Path) -> None:
    def fill() -> None:
        with RunStore(tmp_path) as store, store.results("run") as place:
            (place / "policy.json").mkdir()
            Policy({}).save(place / "policy.json" / "x")
            (place / "policy.json" / "x").unlink()
            Policy({}).save(place / "policy.json")

    with pytest.raises(StoreError) as caught:
        fill()
    assert f"cannot write '{tmp_path / 'policy.json'}'" in str(caught.value)


def killed_at(folder: Path, at: int) -> bool:
    """Write results in a process of its own, which is killed at a call that changes files; whether it came so far."""
    child = os.fork()
    if child:
        return os.WIFSIGNALED(os.waitpid(child, 0)[1])
    try:
        calls = []

        def counted(function):
            def call(*args):
                calls.append(1)
                if len(calls) == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args)

            return call

        with RunStore(folder) as store, store.results("run") as place:
            (place / "policy.json").write_text("new")
            (place / "report.json").write_text("new")
            os.replace, os.unlink = counted(os.replace), counted(os.unlink)
            results.flush, results.flush_folder = counted(results.flush), counted(results.flush_folder)
    finally:
        os._exit(0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # nothing but files is touched in the child
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and kill -9")
def test_a_kill_at_any_call_never_leaves_files_of_two_runs(tmp_path: Path) -> None:
    old = {"policy.json": "old", "report.json": "old", "gone.json": "old"}
    new = {"policy.json": "new", "report.json": "new"}
    kills, seen = 0, []
    for at in range(1, 40):
        folder = tmp_path / str(at)
        write(folder, "run", policy="old", report="old", gone="old")
        kills += (killed := killed_at(folder, at))
        assert len(set(names(folder).values())) <= 1
        RunStore(folder).close()  # finishes what was begun
        seen.append(names(folder))
        assert seen[-1] in (old, new)
        write(folder, "run", policy="last")
        assert sorted(os.listdir(folder)) == ["bitwright.sqlite", "policy.json"]
        if not killed:
            break
    assert kills > 8
    assert seen[0] == old
    assert seen[-1] == new

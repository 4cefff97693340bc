from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bitwright.errors import StoreError
from bitwright.store import RunStore, owners

HOLDER = """
import sys, time
from bitwright.store import RunStore
store = RunStore(sys.argv[1])
store.own(sys.argv[2], "bitwright run --first")
store._owners.claim("k")
print("here", flush=True)
time.sleep(120)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that works on the job 'one' and has claimed 'k'."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path, "one"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        yield process
        process.kill()


def test_a_second_job_is_refused_in_one_line_until_the_first_is_gone(tmp_path: Path, holder) -> None:
    with RunStore(tmp_path) as store:
        with pytest.raises(StoreError) as caught:
            store.own("two", "bitwright sweep")
        line = str(caught.value)
        assert f"the output folder '{tmp_path}' is in use by `bitwright run --first` (process {holder.pid} on " in line
        assert "choose another folder with --output" in line
        store.own("one", "bitwright run --first")  # another process of the same job


def test_what_a_killed_process_held_is_free_at_once(tmp_path: Path, holder) -> None:
    with RunStore(tmp_path) as store:
        assert store.attempt("k", "x", lambda: {"v": 1}) is None
        holder.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (found := store.attempt("k", "x", lambda: {"v": 1})) is None and time.monotonic() < deadline:
            time.sleep(0.01)  # also before anybody has asked for its exit status
        assert found == {"v": 1}
        store.own("two", "bitwright sweep")


def test_a_process_elsewhere_that_says_nothing_counts_as_dead_after_a_minute(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store, RunStore(tmp_path) as other:
        other.own("one", "bitwright run")
        other._owners.claim("k")
        with other._owners.exclusive():
            other._owners.connection.execute("UPDATE owners SET host = 'elsewhere', process = 1, born = ''")
        assert not store._owners.claim("k")
        with other._owners.exclusive():
            other._owners.connection.execute("UPDATE owners SET beat = beat - 61")
        assert store._owners.claim("k")
        store.own("two", "bitwright sweep")
        with pytest.raises(StoreError, match="in use by `bitwright sweep`"), other.results("run"):
            pass  # the first one was suspended, and lost the folder


def test_a_living_process_tells_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.01)
    with RunStore(tmp_path) as store, RunStore(tmp_path) as other:
        store.own("one", "bitwright run")
        with other._owners.exclusive():
            other._owners.connection.execute("UPDATE owners SET beat = 0")
        deadline = time.monotonic() + 10
        beat = 0.0
        while not beat and time.monotonic() < deadline:
            (beat,) = other._owners.connection.execute("SELECT beat FROM owners").fetchone()
        assert time.time() - beat < 60


def test_closing_gives_the_folder_back(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.own("one", "bitwright run")
    with RunStore(tmp_path) as store:
        store.own("two", "bitwright sweep")
        assert store._owners.connection.execute("SELECT job FROM owners").fetchall() == [("two",)]


def test_two_processes_compute_each_measurement_once(tmp_path: Path) -> None:
    def work(name: str) -> None:
        with RunStore(tmp_path) as store:
            for key in "abcdef":
                store.attempt(key, "x", lambda key=key: made(name, key))  # type: ignore[misc]
            for key in "abcdef":
                assert store.get_or_compute(key, "x", lambda key=key: made(name, key))["key"] == key  # type: ignore[misc]

    def made(name: str, key: str) -> dict[str, str]:
        by.append((key, name))
        time.sleep(0.02)
        return {"key": key}

    by: list[tuple[str, str]] = []
    threads = [threading.Thread(target=work, args=(name,)) for name in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(key for key, _ in by) == list("abcdef")
    assert {name for _, name in by} == {"x", "y"}


def test_a_computation_that_fails_gives_its_claim_back(tmp_path: Path) -> None:
    def fail() -> dict[str, int]:
        raise ZeroDivisionError

    with RunStore(tmp_path) as store, RunStore(tmp_path) as other:
        with pytest.raises(ZeroDivisionError):
            store.get_or_compute("k", "x", fail)
        assert other.attempt("k", "x", lambda: {"v": 1}) == {"v": 1}


def test_a_store_of_an_earlier_version_gets_what_it_lacks(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("k", "x", {"v": 1})
        for table in ("owners", "claims", "results"):
            store._connection.execute(f"DROP TABLE {table}")
    with RunStore(tmp_path) as store:
        store.own("one", f"process {os.getpid()}")
        assert store.get("k") == {"v": 1}

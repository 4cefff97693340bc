from __future__ import annotations

import multiprocessing
import pickle
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bitwright.errors import StoreError
from bitwright.store import STORE_NAME, RunStore

WRITER = """
import sys
from bitwright.store import RunStore
folder, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with RunStore(folder) as store:
    for i in range(count):
        store.put(f"{name}-{i}", "verdict", {"i": i, "filler": "x" * 2000})
        print(i, flush=True)
"""


def writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), name, str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def is_sound(folder: Path) -> bool:
    connection = sqlite3.connect(folder / STORE_NAME)
    try:
        return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")
    finally:
        connection.close()


def test_what_was_put_comes_back_exactly(tmp_path: Path) -> None:
    payload = {"accuracy": 0.1 + 0.2, "big": 2**60, "names": ["a", None, True], "text": "größe"}
    with RunStore(tmp_path) as store:
        assert store.get("k") is None
        store.put("k", "verdict", payload)
        assert store.get("k") == payload
    with RunStore(tmp_path) as store:
        assert store.get("k") == payload


def test_the_first_record_under_a_key_stands(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("k", "latency", {"seconds": 1})
        store.put("k", "latency", {"seconds": 2})
        assert store.get("k") == {"seconds": 1}


def test_get_or_compute_computes_once(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"value": 7}

    for _ in range(2):
        with RunStore(tmp_path) as store:
            assert store.get_or_compute("k", "verdict", compute) == {"value": 7}
    assert len(calls) == 1


def test_a_failed_computation_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> dict[str, int]:
        raise ZeroDivisionError

    with RunStore(tmp_path) as store:
        with pytest.raises(ZeroDivisionError):
            store.get_or_compute("k", "verdict", fail)
        assert store.get("k") is None


def test_it_uses_a_write_ahead_log_and_flushes_each_record(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_threads_share_one_store(tmp_path: Path, stored) -> None:
    with RunStore(tmp_path) as store:
        threads = [
            threading.Thread(target=lambda n=n: [store.put(f"{n}-{i}", "x", {"i": i}) for i in range(10)])  # type: ignore[misc]
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(stored(tmp_path)) == 40


def test_a_pickled_store_opens_the_same_file(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("k", "x", {"v": 1})
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy.get("k") == {"v": 1}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_no_acknowledged_record_is_lost_through_kill_9(tmp_path: Path, stored) -> None:
    generator = random.Random(0)
    acknowledged: dict[str, int] = {}
    for attempt in range(8):
        name = f"run{attempt}"
        with writer(tmp_path, name, 100_000) as process:
            assert process.stdout is not None
            wanted = generator.randrange(0, 40)
            seen = -1
            while seen < wanted:
                seen = int(process.stdout.readline())
            time.sleep(generator.random() * 0.003)
            process.kill()
            rest = process.stdout.read().split("\n")
            # the last line may be cut off in the middle; all whole ones were acknowledged
            acknowledged[name] = max([seen, *(int(line) for line in rest[:-1])])
    assert is_sound(tmp_path)
    keys = {key for key, _ in stored(tmp_path)}
    for name, last in acknowledged.items():
        missing = [i for i in range(last + 1) if f"{name}-{i}" not in keys]
        assert not missing, f"{name} lost {missing}"


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path, stored) -> None:
    # all of them open (and make) the store at the same moment, too
    processes = [writer(tmp_path, f"p{n}", 60) for n in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert is_sound(tmp_path)
    assert {key for key, _ in stored(tmp_path)} == {f"p{n}-{i}" for n in range(3) for i in range(60)}


def test_one_of_two_writers_killed_does_not_stop_the_other(tmp_path: Path, stored) -> None:
    victim, other = writer(tmp_path, "victim", 100_000), writer(tmp_path, "other", 60)
    assert victim.stdout is not None
    victim.stdout.readline()
    victim.kill()
    victim.communicate()
    _, errors = other.communicate(timeout=60)
    assert other.returncode == 0, errors
    assert {f"other-{i}" for i in range(60)} <= {key for key, _ in stored(tmp_path)}


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("before", "x", {"v": 1})
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="the disk is full") as caught:
            store.put("big", "x", {"v": "y" * 100_000})
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert store.get("before") == {"v": 1}
        assert store.get("big") is None
        store._connection.execute("PRAGMA max_page_count = 1000000")
        store.put("big", "x", {"v": "y" * 100_000})
    with RunStore(tmp_path) as store:
        assert store.get("before") == {"v": 1}
        assert store.get("big") is not None
    assert is_sound(tmp_path)


@pytest.mark.parametrize("content", [b"this is a rather long text file\n" * 40, b"SQLite format 3\0" + b"\7" * 4096])
def test_a_file_that_is_no_database_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / STORE_NAME).write_bytes(content)
    with pytest.raises(StoreError, match="damaged or not a run store .*move it away or choose another output folder"):
        RunStore(tmp_path)
    assert (tmp_path / STORE_NAME).read_bytes() == content


def test_a_damaged_store_is_one_line(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        for i in range(50):
            store.put(str(i), "x", {"v": "y" * 500})
    path = tmp_path / STORE_NAME
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)

    def read_all() -> None:
        with RunStore(tmp_path) as store:
            store.get("0")

    with pytest.raises(StoreError, match="is damaged or not a run store"):
        read_all()


def test_another_programs_database_is_refused_and_untouched(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / STORE_NAME)
    connection.execute("CREATE TABLE measurements (key TEXT)")
    connection.commit()
    connection.close()
    before = (tmp_path / STORE_NAME).read_bytes()
    with pytest.raises(StoreError, match="is an SQLite file of another program"):
        RunStore(tmp_path)
    assert (tmp_path / STORE_NAME).read_bytes() == before


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    RunStore(tmp_path).close()
    connection = sqlite3.connect(tmp_path / STORE_NAME)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(StoreError, match=r"newer Bitwright \(store version 2, this one reads 1\); upgrade bitwright"):
        RunStore(tmp_path)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("k", "x", {"v": 1})
        store._connection.execute("UPDATE measurements SET payload = '{\"v\":'")
        with pytest.raises(StoreError, match="the record 'k' in .* is damaged"):
            store.get("k")


def test_a_record_with_another_byte_is_never_taken(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("k", "x", {"accuracy": 0.9123})
        store.put("other", "x", {"accuracy": 0.5})
        store._connection.execute("UPDATE measurements SET payload = replace(payload, '0.9123', '0.9128')")
        with pytest.raises(StoreError, match="the record 'k' in .* is damaged; move the file away"):
            store.get("k")
        store._connection.execute("UPDATE measurements SET key = 'k2' WHERE key = 'other'")
        with pytest.raises(StoreError, match="the record 'k2' in .* is damaged"):
            store.get("k2")


def test_records_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store:
        store.put("k", "x", {"v": 1})
        store._connection.execute("ALTER TABLE measurements DROP COLUMN digest")
    with RunStore(tmp_path) as store:
        assert store.get("k") == {"v": 1}
        store.put("new", "x", {"v": 2})
    with RunStore(tmp_path) as store:
        assert (store.get("k"), store.get("new")) == ({"v": 1}, {"v": 2})


def test_what_is_not_plain_data_is_refused(tmp_path: Path) -> None:
    with RunStore(tmp_path) as store, pytest.raises(StoreError, match="the verdict measurement cannot be stored"):
        store.put("k", "verdict", {"v": object()})


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StoreError, match="cannot make the output folder .*choose another one"):
        RunStore(tmp_path / "out")


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get("k")


def _open_many(folder: str, start: object, faults: object) -> None:
    for i in range(40):
        start.wait()  # type: ignore[attr-defined]
        try:
            RunStore(f"{folder}/{i}").close()
        except Exception as error:
            faults.put(str(error))  # type: ignore[attr-defined]


def test_a_store_that_another_process_is_making_is_never_taken_for_a_foreign_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    start, faults = context.Barrier(4), context.SimpleQueue()
    processes = [context.Process(target=_open_many, args=(str(tmp_path), start, faults)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert faults.empty(), faults.get()

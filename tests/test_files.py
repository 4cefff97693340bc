from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitwright.errors import StoreError
from bitwright.files import atomic_files
from bitwright.store import write_atomically


def test_writes_text_and_bytes_and_makes_the_folder(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "new" / "report.html", "größe")
    assert path.read_bytes() == "größe".encode()
    write_atomically(path, b"\x00\n\r")
    assert path.read_bytes() == b"\x00\n\r"
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("x")
    assert write_atomically(tmp_path / "file", "x").stat().st_mode == ordinary.stat().st_mode


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "policy.json", "old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="the disk is full: cannot write .*policy.json") as caught:
        write_atomically(path, "new")
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["policy.json"]


def test_an_error_in_the_block_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "model.onnx", b"old")

    def write_half() -> None:
        with atomic_files(path) as part:
            part.write_bytes(b"half")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StoreError, match="cannot write .*model.onnx.*choose another output folder"):
        write_atomically(tmp_path / "out" / "model.onnx", b"")


def test_parts_of_killed_processes_are_cleared_later(tmp_path: Path) -> None:
    old = tmp_path / ".a.json.123-ab.part"
    young = tmp_path / ".a.json.124-cd.part"
    for part in (old, young):
        part.write_text("half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    write_atomically(tmp_path / "a.json", "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [young.name, "a.json"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_a_reader_never_sees_half_a_file_through_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = (
        "import sys\nfrom bitwright.store import write_atomically\n"
        "while True:\n    for letter in 'ab':\n        write_atomically(sys.argv[1], letter * 300_000)\n"
    )
    for _ in range(2):
        with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:
            deadline = time.monotonic() + 60
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            for _ in range(20):
                assert path.read_text() in ("a" * 300_000, "b" * 300_000)
                time.sleep(0.005)
            process.kill()
        assert path.read_text() in ("a" * 300_000, "b" * 300_000)


def test_several_files_take_their_places_together(tmp_path: Path) -> None:
    target = write_atomically(tmp_path / "new" / "model.xml", "old")
    with atomic_files(target) as part:
        assert part.name == "model.xml"
        part.write_text("new")
        part.with_suffix(".bin").write_bytes(b"weights")
        assert target.read_text() == "old"
    assert {file.name: file.read_text() for file in target.parent.iterdir()} == {
        "model.xml": "new",
        "model.bin": "weights",
    }


def test_files_of_a_block_that_raises_leave_what_was_there(tmp_path: Path) -> None:
    target = write_atomically(tmp_path / "model.xml", "old")

    def write() -> None:
        with atomic_files(target) as part:
            part.write_text("half")
            raise KeyError("stopped")

    with pytest.raises(KeyError):
        write()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("model.xml", "old")]

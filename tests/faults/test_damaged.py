"""Disks that fail at any write, and a run store whose bytes are no longer what they were."""

from __future__ import annotations

import errno
import os
import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest

from bitwright.errors import BitwrightError, StoreError
from bitwright.files import write_atomically
from bitwright.report import RunReport
from bitwright.store import STORE_NAME, RunStore
from bitwright.values import Front, Policy, SensitivityTable
from bitwright.values.recipe import Recipe

pytestmark = pytest.mark.slow
NAMES = {"policy.json": Policy, "front.json": Front, "sensitivity.json": SensitivityTable, "report.json": RunReport}
WRITES = ("fsync", "replace", "mkdir", "rename", "unlink")


def write_all(written: Path, folder: Path) -> None:
    """Every kind of file, as a command writes them."""
    with RunStore(folder) as store, store.results("run") as place:
        for name, kind in NAMES.items():
            kind.from_json((written / name).read_text()).save(place / name)  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Recipe.load(written / "recipe.json").save(place / "recipe.json")
        write_atomically(place / "model.onnx", b"new")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and "sqlite" not in file.name}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_at_any_write(number: int, written: Path, tmp_path: Path, monkeypatch) -> None:
    start = tmp_path / "start"
    with RunStore(start) as store, store.results("run") as place:
        for name in ("policy.json", "old.json"):
            (place / name).write_text("old")
    old, at, outcomes = contents(start), 0, Counter()  # type: ignore[var-annotated]
    fresh = tmp_path / "fresh"
    write_all(written, fresh)
    new, calls, said = contents(fresh), 0, []

    def failing(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == at:
                raise OSError(number, os.strerror(number), str(args[0]))
            return function(*args, **kwargs)

        return call

    while True:
        at, calls, folder = at + 1, 0, tmp_path / str(at)
        shutil.copytree(start, folder)
        with monkeypatch.context() as patched:
            for name in WRITES:
                patched.setattr(os, name, failing(getattr(os, name)))
            try:
                write_all(written, folder)
                outcomes["written"] += 1
            except StoreError as error:
                said.append(str(error))
                outcomes["one line"] += 1
        RunStore(folder).close()  # as the next command does
        assert contents(folder) in (old, new), f"write {at}"
        write_all(written, folder)
        assert contents(folder) == new
        shutil.rmtree(folder)
        if calls < at:
            break
    assert all("\n" not in line and str(tmp_path) in line for line in said)
    assert outcomes["one line"] > 20
    print(f"\n{os.strerror(number)}: at each of {at - 1} writes; {dict(outcomes)}; mixed or lost: 0")


def test_a_store_with_any_byte_changed(tmp_path: Path) -> None:
    right = {f"key{i:02d}": {"accuracy": i / 7, "notes": [f"sample {i}"] * 5} for i in range(40)}
    with RunStore(tmp_path / "good") as store:
        for key, payload in right.items():
            store.put(key, "verdict", payload)
        store.own("job", "bitwright run")
    content, draw = (tmp_path / "good" / STORE_NAME).read_bytes(), random.Random(7)
    assert not (tmp_path / "good" / f"{STORE_NAME}-wal").exists()
    outcomes, said, folder = Counter(), [], tmp_path / "bad"  # type: ignore[var-annotated]
    folder.mkdir()
    for at in [*range(110), *range(110, len(content), 41)]:
        made = bytearray(content)
        made[at] ^= 1 << draw.randrange(8)
        for file in folder.iterdir():
            file.unlink()
        (folder / STORE_NAME).write_bytes(made)
        try:
            with RunStore(folder) as store:
                for key, payload in right.items():
                    found = store.get(key)
                    assert found in (None, payload), f"byte {at}: {key} became {found}"
                    if found is None:
                        outcomes["a record is measured again"] += 1
                        store.put(key, "verdict", payload)
            outcomes["harmless"] += 1
        except BitwrightError as error:
            said.append(str(error))
            outcomes["one line"] += 1
    assert not [line for line in said if "\n" in line]
    print(f"\na byte of the store changed: {dict(outcomes)}; wrong: 0")

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.errors import StoreError
from bitwright.store import folder


def test_an_output_is_read(tmp_path: Path) -> None:
    (tmp_path / folder.POLICY).write_text("größe", encoding="utf-8")
    assert folder.read_output(tmp_path, folder.POLICY, "bitwright run") == "größe"


def test_a_missing_output_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no policy.json in .*; run `bitwright run` with this output folder"):
        folder.read_output(tmp_path, folder.POLICY, "bitwright run")


def test_an_unreadable_output(tmp_path: Path) -> None:
    (tmp_path / folder.POLICY).write_bytes(b"\xff\xfe\xff")
    with pytest.raises(StoreError, match="cannot read '.*policy.json': "):
        folder.read_output(tmp_path, folder.POLICY, "bitwright run")

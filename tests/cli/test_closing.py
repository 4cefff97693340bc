from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bitwright.cli import closing
from bitwright.cli.job import Job
from bitwright.cost import COSTS


def test_the_program_is_named_so_that_the_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / ".venv" / "bin" / "bitwright")])
    monkeypatch.setattr(closing.shutil, "which", lambda name: None)
    assert closing.program() == ".venv/bin/bitwright"
    monkeypatch.setattr(sys, "argv", ["/opt/bitwright"])
    assert closing.program() == "/opt/bitwright"
    monkeypatch.setattr(closing.shutil, "which", lambda name: "/usr/bin/bitwright")
    assert closing.program() == "bitwright"


def test_what_was_asked() -> None:
    assert closing.opening(Job(model="a:b", data="digits", budget=("bops=W4A4", "size=60%"), bits=(4, 8))) == (
        "Asked: the best policy for bops=W4A4 and for size=60%\n  model  a:b\n  data   digits\n  bits   4, 8"
    )
    asked = closing.opening(Job(model="a:b", data="digits", target_drop=1.5, cost="size"))
    assert asked.startswith("Asked: the cheapest policy that loses at most 1.5 points (by size)\n")


def test_the_next_budget_is_on_another_cost_of_the_headline(tmp_path) -> None:
    for asked in ((), ("bops=W4A4",), ("size=50%",), ("packed=W4A4",)):
        line, _ = closing.suggestions(Job(model="a:b", budget=asked, output=tmp_path))
        cost, _, limit = line.partition("--budget ")[2].split()[0].partition("=")
        assert cost not in (asked or (Job().cost,))[0]
        assert COSTS[cost].headline
        assert limit in COSTS[cost].examples

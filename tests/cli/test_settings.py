"""``bitwright settings``."""

from __future__ import annotations

from bitwright.cli.job import fields
from bitwright.repair import REPAIRS
from bitwright.settings import flag_name


def test_every_setting_with_its_default_and_its_names(run, capsys) -> None:
    assert run("settings") == 0
    out = capsys.readouterr().out
    heads = [line for line in out.splitlines() if not line.startswith(" ")]
    assert [head.split()[0] for head in heads] == [flag_name(name, field) for name, field in fields().items()]
    assert "--points N [default: 20]\n    Points of the Pareto front.\n" in out
    assert max(len(line) for line in out.splitlines() if line.startswith(" ")) <= 80


def test_one_setting(run, capsys) -> None:
    assert run("settings", "repairs") == 0
    head, *meaning = capsys.readouterr().out.splitlines()
    assert head == "--repairs LIST [default: gptq,adaround]"
    assert f"Any of {', '.join(REPAIRS)}." in " ".join(line.strip() for line in meaning)


def test_an_unknown_setting_suggests_the_nearest(run, capsys) -> None:
    assert run("settings", "metod") == 2
    assert capsys.readouterr().err == "error: there is no setting 'metod'; did you mean 'method'?\n"
    assert run("settings", "zzzzzz") == 2
    assert capsys.readouterr().err == "error: there is no setting 'zzzzzz'; `bitwright settings` shows them all\n"

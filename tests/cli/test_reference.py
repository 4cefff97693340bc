from __future__ import annotations

from pathlib import Path

from bitwright.cli import reference
from bitwright.cli.job import fields
from bitwright.cli.main import COMMANDS

DOCS = Path(__file__).parent.parent.parent / "docs"


def test_the_page_of_the_settings_is_up_to_date() -> None:
    written = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert written == reference.page(), "write it again: python -m bitwright.cli.reference > docs/settings.md"


def test_every_setting_has_a_meaning_and_a_command() -> None:
    used = {name for command in COMMANDS for name in getattr(command, "settings", ())}
    assert used == set(fields())
    assert all(len(field.description or "") > 10 for field in fields().values())


def test_values_in_words() -> None:
    assert reference.values({"type": "integer", "minimum": 1}) == "whole number, at least 1"
    assert reference.values({"type": "number", "minimum": 0, "maximum": 100}) == "number, 0 to 100"
    assert reference.values({"type": "array", "items": {"type": "string"}}) == "list: text"
    assert reference.values({"anyOf": [{"type": "null"}, {"type": "integer", "minimum": 2}]}) == (
        "whole number, at least 2"
    )


def test_help_shows_defaults_by_itself(run, capsys) -> None:
    assert run("run", "--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "Points of the Pareto front. [default: 20]" in words
    assert "[default: bops]" in words
    assert run("demo", "--help") == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "[default: bitwright-demo]" in words
    assert "--job" not in words

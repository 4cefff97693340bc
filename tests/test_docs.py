"""The Python blocks of README.md and docs/ run, each page from top to bottom; its commands and links exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import bitwright.zoo

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line, text) of each block in a language."""
    text = page.read_text(encoding="utf-8")
    return [(text[: m.start(2)].count("\n"), m.group(2)) for m in BLOCK.finditer(text) if m.group(1) == language]


PAGES_WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, digits_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime", reason="the pages export to ONNX Runtime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bitwright.zoo, "train_digits_network", lambda: digits_model)  # trained once for all pages
    namespace: dict[str, object] = {"__name__": "page"}
    for line, text in blocks(page, "python"):
        code = compile("\n" * line + text, str(page), "exec")  # so that errors name the line of the page
        exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist_with_their_flags(page: Path) -> None:
    import typer

    from bitwright.cli.main import app

    group = typer.main.get_command(app)
    for _, text in blocks(page, "console"):
        for line in text.replace("\\\n", " ").splitlines():
            if not line.startswith("$ "):
                continue  # what a command prints
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words[:1] != ["bitwright"]:
                continue
            command = group.commands[words[1]]  # type: ignore[attr-defined]
            known = {flag for parameter in command.params for flag in parameter.opts}
            unknown = {word for word in words[2:] if word.startswith("-")} - known - {"--help"}
            assert not unknown, line


def test_some_pages_hold_python() -> None:
    assert {page.name for page in PAGES_WITH_PYTHON} >= {"README.md", "first-steps.md", "search.md", "own-model.md"}

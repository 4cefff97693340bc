"""Registries: built-ins and other packages' by name, loaded when first asked for."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitwright.errors import InvalidInput
from bitwright.registry import Descriptor, PluginWarning, Registry, parsed


@dataclass(frozen=True)
class Thing:
    name: str
    does: str = "stands here"
    order: int = 100


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with two modules, each of which registers one thing, and an empty registry beside it."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from bitwright.registry import Registry\nTHINGS = Registry('thing', 'shelf')\n"
    )
    for name, order in (("pear", 2), ("apple", 1)):
        (folder / f"{name}.py").write_text(
            textwrap.dedent(f"""
            from types import SimpleNamespace
            from shelf import THINGS
            THINGS.register(SimpleNamespace(name="{name}", does="is eaten", order={order}))
            """)
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield str(tmp_path)
    for name in [n for n in sys.modules if n.partition(".")[0] in ("shelf", "other")]:
        del sys.modules[name]


def _package(folder: str, code: str, entry: str, name: str = "other") -> None:
    """An installed package: one module, and the metadata that pip leaves."""
    (Path(folder) / f"{name}.py").write_text(textwrap.dedent(code))
    about = Path(folder) / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-tools\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[bitwright.things]\n{entry}\n")


def _things() -> Registry[Thing]:
    import shelf  # type: ignore[import-not-found]

    return shelf.THINGS  # type: ignore[no-any-return]


def test_a_room_registers_by_itself_when_it_is_first_asked(room: str) -> None:
    things = _things()
    assert "shelf.pear" not in sys.modules
    assert list(things) == ["apple", "pear"]
    assert "shelf.pear" in sys.modules
    assert things["apple"].does == "is eaten"
    assert "plum" not in things
    assert things.get("plum") is None
    assert len(things) == 2


def test_an_unknown_name_is_answered_with_the_names_and_the_nearest(room: str) -> None:
    with pytest.raises(InvalidInput, match=r"^thing must be one of apple, pear, got 'appel'; did you mean 'apple'\?$"):
        _things()["appel"]


def test_packages_bring_theirs_by_entry_points(room: str) -> None:
    _package(room, "from types import SimpleNamespace\nX = SimpleNamespace(name='fig', does='grows')", "fig = other:X")
    assert list(_things()) == ["apple", "pear", "fig"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nowhere_at_all", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("Y = 1", "AttributeError: module 'other' has no attribute 'X'"),
        ("X = 1", "'other:X' has no name, so it is not a thing"),
        ("raise ValueError('no luck\\nat all')", "ValueError: no luck"),
        (
            "from types import SimpleNamespace\nX = SimpleNamespace(name='pear', does='mine')",
            "the name 'pear' is taken by another thing; register yours under another one",
        ),
    ],
)
def test_a_broken_package_is_named_in_one_line_and_the_rest_goes_on(room: str, code: str, reason: str) -> None:
    _package(room, code, "fig = other:X")
    things = _things()
    with pytest.warns(PluginWarning) as caught:
        assert list(things) == ["apple", "pear"]
    wanted = f"the thing 'fig' of the package 'other-tools' (entry point 'other:X') cannot be used: {reason}"
    assert [str(w.message) for w in caught] == [wanted]
    assert things["pear"].does == "is eaten"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(things)


def test_a_program_adds_its_own_and_cannot_take_a_name(room: str) -> None:
    things = _things()
    mine = Thing("mine")
    assert things.register(mine) is mine
    again = things.register(Thing("mine", "is better"))
    assert things["mine"] is again
    things.remove("mine")
    assert "mine" not in things
    with pytest.raises(InvalidInput, match="'pear' was not registered by this program, so it cannot be removed"):
        things.remove("pear")
    with pytest.raises(InvalidInput, match="the name 'pear' is taken by another thing"):
        things.register(Thing("pear"))
    with pytest.raises(InvalidInput, match="a thing's name must be text"):
        things.register(Thing("a,b"))


def test_options_are_those_of_the_function() -> None:
    def work(graph: object, batches: object, amount: float = 0.1, *, where: str = "all") -> None: ...

    described = Descriptor(name="w", does="works", function=work, given=("graph", "batches"))
    assert described.options == {"amount": 0.1, "where": "all"}
    described.check_options("repair", ["amount"])
    with pytest.raises(InvalidInput, match=r"repair 'w' has no option 'amout'; did you mean 'amount'\? \(it has: amou"):
        described.check_options("repair", ["amout"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dense?ignore=1&ignore=2", r"option 'ignore' is given twice in 'dense\?ignore=1&ignore=2'"),
        ("dense?ignore=", r"option 'ignore' in 'dense\?ignore=' needs a value: ignore=VALUE"),
        ("dense?ignore", r"needs a value"),
    ],
)
def test_an_option_has_one_value(text: str, message: str) -> None:
    assert parsed("dense?ignore=255&label=x") == ("dense", {"ignore": 255, "label": "x"})
    with pytest.raises(InvalidInput, match=message):
        parsed(text)


def test_the_registry_costs_no_import() -> None:
    code = "import sys, bitwright.registry; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

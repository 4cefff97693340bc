from __future__ import annotations

import errno
import os
import subprocess
import sys
import warnings

import pytest
import typer

from bitwright.cli.guard import DEBUG_VARIABLE, fail, guarded
from bitwright.cli.main import COMMANDS, main
from bitwright.errors import InvalidPolicy
from bitwright.registry import PluginWarning


@pytest.fixture(autouse=True)
def _no_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "")


def leave(error: BaseException) -> int:
    """Run a command that raises ``error``; its exit code."""

    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        guarded(command)()
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_help_is_quick_and_loads_no_torch() -> None:
    code = (
        "import sys\nfrom bitwright.cli.main import main\n"
        "try:\n    main(['--help'])\nfinally:\n    print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    seconds = []  # of processor time: other work on the machine does not count
    for _ in range(3):
        before = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))
    assert done.stdout.endswith("False False\n")
    assert "Commands:" in done.stdout
    assert min(seconds) < 0.5


def test_help_of_every_command_loads_no_torch() -> None:
    code = (
        "import sys\nfrom bitwright.cli.main import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try:\n        main([command.__name__, '--help'])\n"
        "    except SystemExit:\n        print(command.__name__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in COMMANDS:
        assert f"{command.__name__} False False\n" in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("bitwright 0.")


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["sits"])
    assert caught.value.code == 2
    assert "Did you mean 'sites'?" in capsys.readouterr().err


def test_bad_input_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(InvalidPolicy("bits must be\nbetween 2 and 16")) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: bits must be between 2 and 16\n"
    assert captured.out == ""


def test_an_unexpected_error_is_one_line_and_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        fail(KeyError("weight"))  # raised nowhere, so not in code of the user's
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: KeyError: 'weight' (unexpected; run with --debug to see where)\n"


def test_a_full_disk_is_one_line_and_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/model.onnx")) == 2
    assert capsys.readouterr().err.startswith("error: the disk is full: cannot write 'out/model.onnx'; free some space")


def test_ctrl_c_says_that_the_command_resumes(capsys: pytest.CaptureFixture[str]) -> None:
    assert leave(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.startswith("stopped; the same command goes on from here")


def test_debug_raises_the_error_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(InvalidPolicy):
        fail(InvalidPolicy("x"))


@pytest.mark.parametrize("words", [["--debug", "sites"], ["sites", "--debug"]])
def test_debug_anywhere_shows_the_traceback(words: list[str]) -> None:
    code = f"from bitwright.cli.main import main; main({words!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "InvalidJob: no model given" in done.stderr.replace("bitwright.errors.", "")


def test_typers_own_exits_pass() -> None:
    def command() -> None:
        raise typer.Exit(3)

    with pytest.raises(typer.Exit):
        guarded(command)()


def test_a_package_that_cannot_be_used_is_named_in_one_line(capsys):
    def command() -> None:
        warnings.warn("the repair 'x' of the package 'y' cannot be used: z", PluginWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)

    guarded(command)()
    assert capsys.readouterr().err == "warning: the repair 'x' of the package 'y' cannot be used: z\n"

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

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


@pytest.mark.parametrize("code", ["0", "", "3", "'no data here'"])
def test_a_users_code_that_ends_the_program_is_bad_input(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        exec(compile(f"import sys\nsys.exit({code})", "mynet.py", "exec"), {})

    with pytest.raises(SystemExit) as caught:
        guarded(command)()
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("error: code of your own ended the program (SystemExit")
    assert "mynet.py line 2" in line


BEGINNING = """
import signal, sys, time
from pathlib import Path
from bitwright.cli import entry
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what it runs in the background
def ready():
    Path("ready").touch()
    time.sleep(60)
"""
WHILE_IMPORTING = """
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            ready()
sys.meta_path.insert(0, Slow())
entry.main(["sites"])
"""
IN_A_COMMAND = """
{code}
entry.listen()
from bitwright.cli.guard import guarded
guarded(command)()
"""
SWALLOWED = """
def command():
    try:
        ready()
    except:
        time.sleep(60)
"""
IN_A_FINALIZER = """
class Net:
    def __del__(self):
        ready()
def command():
    Net()
    time.sleep(60)
"""
REPLACED = """
def command():
    try:
        ready()
    except BaseException as error:
        raise ImportError("cannot import this") from error
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize(
    "program",
    [WHILE_IMPORTING, *(IN_A_COMMAND.format(code=code) for code in (SWALLOWED, IN_A_FINALIZER, REPLACED))],
    ids=["while importing", "swallowed", "in a finalizer", "replaced"],
)
def test_a_signal_is_one_line_wherever_it_comes(program: str, name: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "started.py").write_text(BEGINNING + program)
    with subprocess.Popen([sys.executable, "started.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "ready").exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(getattr(signal, name))
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors.startswith("stopped")
    assert errors.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_signal_to_a_worker_ends_it_in_the_usual_way(tmp_path: Path) -> None:
    code = """
import os, signal, time
from bitwright.cli import entry
entry.listen()
read, write = os.pipe()
child = os.fork()
if not child:
    os.write(write, b".")  # a signal that comes while a process is forked is lost
    time.sleep(60)
    os._exit(1)
os.read(read, 1)
os.kill(child, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("-15\n", "")


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

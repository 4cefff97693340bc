from __future__ import annotations

import pytest

from bitwright.cli.progress import ProgressBars


def test_nothing_is_shown_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars() as progress:
        progress("calibrate", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_bars_show_what_is_done_of_how_many_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars(enabled=True) as progress:
        progress("calibrate", 0, 8)
        progress("calibrate", 8, 8)
        progress("measure candidates", 3, 17)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "calibrate" in captured.err
    assert "8/8" in captured.err
    assert "3/17" in captured.err


def test_bars_are_taken_down_when_a_step_fails() -> None:
    progress = ProgressBars(enabled=True)

    def fail() -> None:
        with progress:
            progress("search", 0, 1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    progress("search", 1, 1)  # no bar left to draw on
    assert progress._bars is None

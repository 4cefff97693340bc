from __future__ import annotations

import pytest

from bitwright.cli.progress import ProgressBars, clock


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


@pytest.mark.parametrize(
    ("elapsed", "remaining", "finished", "text"),
    [(3.0, None, False, ""), (3.0, 65.0, False, "1 min 5 s left"), (3.2, 0.0, True, "took 3.2 s")],
)
def test_a_bar_says_what_is_left_and_then_how_long_it_took(elapsed, remaining, finished, text: str) -> None:
    assert clock(elapsed, remaining, finished) == text


def test_a_step_of_unknown_length_shows_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBars(enabled=True) as progress:
        progress("measure candidates", 7, None)
    assert "7/?" in capsys.readouterr().err

from __future__ import annotations

import io
import math
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console, RenderableType

from bitwright.report.panels_debug import TITLES, debug_panel
from bitwright.report.render import render_debug
from bitwright.report.terminal_debug import findings_lines, step_lines
from bitwright.tasks import Classification
from bitwright.tasks.classification import KL
from bitwright.values import Policy
from bitwright.values.findings import Findings, Measurement, Step
from bitwright.values.recipe import Recipe
from bitwright.values.sweep import Sweep, SweepRow
from bitwright.values.tensors import AxisView, TensorView
from verdicts import classified

VERDICT = classified()
PLAIN = Recipe(Policy({"conv.weight": 4, "relu": 4}, "abcd", "W4A4"))
CHANNELS = AxisView(
    "output channel",
    0,
    (-1.0, -0.1),
    (2.0, 0.1),
    ((-1.0, 0.0, 0.0, 0.0, 2.0),) * 2,
    (0.1, 0.0),
    (0.3, 0.0),
    (9.0, math.inf),
)
VIEW = TensorView(
    "conv<b>.weight",
    "weight",
    (2, 3),
    3,
    -1.0,
    2.0,
    0.1,
    0.5,
    9.0,
    (-1.0, 0.5, 2.0),
    (5, 1),
    (0.25,),
    (-1.0,),
    (0.75,),
    0.1,
    0.3,
    12.5,
    (CHANNELS,),
)
HARMLESS = Measurement("float", note="<script>alert(1)</script>")


def measured(number: int, title: str, recipe: Recipe, rows: tuple[Measurement, ...], said: str, **more: Any) -> Step:
    fields = {"status": "done", "rule": "rule", "change": "", "measure": KL, **more}
    return Step(number=number, title=title, measured=rows, conclusion=said, recipe=recipe, **fields)


def printed(*parts: RenderableType) -> str:
    console = Console(width=80, file=io.StringIO())
    for part in parts:
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.fixture
def findings() -> Findings:
    rows = tuple(
        SweepRow(label, (label,), (4,), kl, kl / 10, sqnr, {"kl": kl, "agreement": 0.9}, {})
        for label, kl, sqnr in (("relu", 0.4, 10.0), ("conv.weight", 0.1, math.inf))
    )
    sweep = Sweep(
        rows,
        {},
        rows[0],
        ("conv.weight", "relu"),
        64,
        Classification.measures,
        "kl",
        "accuracy",
        {},
        agreement="agreement",
    )
    mended = PLAIN.then("ranges", site="relu", method="percentile", percentile=99.9)
    steps = (
        measured(1, "Sound?", PLAIN, (HARMLESS,), "Yes."),
        measured(
            2,
            "Which?",
            PLAIN,
            (Measurement("all", 0.5, 0.9),),
            "Bad.",
            verdict=VERDICT,
            outcome="fails",
            at_fault=("activation",),
            seconds=1.0,
            passes=4.0,
        ),
        measured(3, "Weights?", PLAIN, (), "Not at fault.", status="skipped"),
        measured(
            4,
            "Activations?",
            mended,
            (Measurement("ranges", 0.01, 0.99, True),),
            "Better.",
            change="ranges",
            verdict=VERDICT,
            outcome="fails",
            sweep=sweep,
            seconds=2.0,
            passes=8.0,
        ),
        measured(5, "Layers?", mended, (Measurement("relu alone", 0.4, 0.9),), "relu.", sweep=sweep),
        measured(6, "Look?", mended, (), "Seen.", tensors=(VIEW,)),
        measured(7, "Fix?", mended, (), "Fixed.", change="bits", verdict=VERDICT, outcome="holds"),
    )
    return Findings(steps, 0.5, "holds", "The target holds with W4A4.", ("A note.",), "abcd")


def test_the_chart_shows_the_path_taken(findings) -> None:
    panel = debug_panel(findings)
    assert [box.title for box in panel.boxes] == list(TITLES)
    assert [box.state for box in panel.boxes] == [
        "taken",
        "taken",
        "skipped",
        "mended",
        "taken",
        "taken",
        "reached",
        "not taken",
    ]
    assert panel.boxes[1].note == "activations"
    assert panel.boxes[4].note == "relu"
    failed = replace(findings, steps=(replace(findings.steps[0], status="failed"),))
    assert [box.state for box in debug_panel(failed).boxes] == ["failed", *["not taken"] * 7]


def test_every_figure_of_a_step_is_in_its_panel(findings) -> None:
    panel = debug_panel(findings)
    fourth, fifth = panel.steps[3], panel.steps[4]
    assert (fourth.rows[0].distance, fourth.rows[0].agreement, fourth.rows[0].kept) == ("0.0100", "99.0%", "kept")
    assert "90.0% [89.0, 91.0]" in fourth.verdict
    assert [(row.site, row.share) for row in fifth.harms] == [("relu", 1.0), ("conv.weight", 0.25)]
    assert fifth.harms[0].distance == "0.400 ± 0.040"
    assert fifth.harms[1].sqnr == "nothing is lost"
    assert "2.0 s, as much as 8 float passes" in fourth.cost


def test_the_page_holds_all_of_it_and_escapes_names(findings) -> None:
    html = render_debug(findings, "net")
    for number in range(1, 8):
        assert f'id="step-{number}"' in html
    assert "<script>alert(1)" not in html
    assert "conv<b>" not in html
    assert html.count("<svg") == 2  # the histogram, and its one axis
    assert "http" not in html.replace("http-equiv", "")
    assert "not-taken" in html


def test_the_terminal_says_the_same(findings) -> None:
    out = printed(*(step_lines(step) for step in findings.steps), findings_lines(findings))
    assert "3. Weights? Skipped: Not at fault." in out
    assert "ranges: KL 0.0100, agreement 99.0%, kept" in out
    assert "The target holds with W4A4." in out
    assert "1. ranges of relu by percentile 99.9" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_many_rows_show_what_was_kept() -> None:
    rows = tuple(Measurement(f"m{i}", 0.5, 0.9, i == 15) for i in range(20))
    out = printed(step_lines(measured(7, "Fix?", PLAIN, rows, "Fixed.")))
    assert "m15: KL 0.500, agreement 90.0%, kept" in out
    assert "... 12 more" in out

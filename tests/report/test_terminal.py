from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from bitwright.errors import InvalidInput
from bitwright.report import Measured, RunReport, terminal
from bitwright.values import Figure, Interval, Measure, Policy, SensitivityTable, Sites, Verdict


def shown(renderable: RenderableType, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def cells(text: str, start: str) -> list[str]:
    """The cells of the first line that starts with ``start``."""
    line = next(line for line in text.splitlines() if line.strip().startswith(start))
    return [cell for cell in line.strip().split("  ") if cell.strip()]


def test_verdict_table_at_80_columns_keeps_every_interval(report: RunReport) -> None:
    text = shown(terminal.verdict_table(report))
    assert [c.strip() for c in cells(text, "mixed 4/8 *")] == [
        "mixed 4/8 *", "88.0 [86.0, 90.0]", "-2.0 [-3.0, -1.0]", "160 B", "1.60 MBOPs",
    ]  # fmt: skip
    assert "95.5 [94.5, 96.5]" in text
    assert "0.0125 [0.0100, 0.0150]" in text
    assert "F1 <macro>" in text
    assert "* the chosen policy" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_wide_figures_move_on_to_the_next_table_instead_of_being_cut(report: RunReport) -> None:
    """A cut unit is another one: 33.8 MB for 33.8 MBOPs."""
    perplexity = Measure("perplexity", "Perplexity", larger=False, relative=True)
    near = Interval(123456.7, 123455.1, 123457.9, 0.95, "bootstrap")
    change = Interval(-0.00889, -0.02773, 0.00861, 0.95, "paired bootstrap")
    figure = Figure(perplexity, near, near, change)
    wide = Verdict("language", 100, {"perplexity": figure}, "perplexity", "perplexity")
    assert report.chosen is not None
    alone = replace(report, baselines=(), alternatives=(), chosen=replace(report.chosen, verdict=wide))
    text = shown(terminal.verdict_table(alone))
    assert "1.60 MBOPs" in text
    assert "-0.00889 [-0.02773, +0.00861]" in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_unmeasured_policies_are_said_to_be_unmeasured(empty: RunReport, report: RunReport) -> None:
    assert "float" in shown(terminal.verdict_table(empty))
    assert "Latency was not measured." in shown(terminal.latency_lines([]))
    front = shown(terminal.front_table(report.front, report.sites, report.baselines, report.chosen))  # type: ignore[arg-type]
    assert "not measured" in next(line for line in front.splitlines() if "mixed 4/4" in line)


def test_front_table_stars_the_chosen_policy(report: RunReport) -> None:
    assert report.front is not None
    text = shown(terminal.front_table(report.front, report.sites, report.baselines, report.chosen))
    assert [c.strip() for c in cells(text, "mixed 4/8 *")] == [
        "mixed 4/8 *", "160", "4.00%", "88.0 [86.0, 90.0]", "-2.0 [-3.0, -1.0]",
    ]  # fmt: skip
    assert "4 measured" in text


def test_sensitivity_is_worst_first_and_says_what_it_leaves_out(table: SensitivityTable, sites: Sites) -> None:
    text = shown(terminal.sensitivity_table(table, top=3, sites=sites))
    lines = [line for line in text.splitlines() if "±" in line]
    assert len(lines) == 3
    assert "stem.relu" in lines[1]
    assert "0.0200 ± 0.0020" in lines[1]
    assert lines[0].count("█") == 16
    assert lines[1].count("█") == 8
    assert "4 more sites are less sensitive." in " ".join(text.split())
    assert "One note." in text
    assert shown(terminal.sensitivity_table(table, bits=8, top=None)).count("±") == 7
    with pytest.raises(InvalidInput, match="not 3"):
        terminal.sensitivity_table(table, bits=3)


def test_sites_that_are_not_trusted_are_marked(table: SensitivityTable) -> None:
    text = shown(terminal.sensitivity_table(replace(table, doubts={"stem.relu": "for a reason"})))
    (line,) = [line for line in text.splitlines() if "for a reason" in line]
    assert "stem.relu" in line
    assert "Not trusted" in text
    assert "Not trusted" not in shown(terminal.sensitivity_table(table))


def test_markup_in_names_is_printed_as_it_is(table: SensitivityTable) -> None:
    odd = replace(table, sites=("a[bold]b[/bold].weight", *table.sites[1:]))
    assert "a[bold]b[/bold].weight" in shown(terminal.sensitivity_table(odd, bits=8, top=None))


def test_summary_shows_the_headline_parity_and_notes(report: RunReport, empty: RunReport) -> None:
    text = " ".join(shown(terminal.summary(report)).split())
    assert "agrees with the simulation on 199 of 200 inputs." in text
    assert "slower than float: 1.20 x the float latency at batch 32" in " ".join(text.split())
    assert "- 3 sites at 3 bits are stored as 4-bit" in text
    assert "Not in integers: body.<add>, head (Gemm)" in text
    assert "This run has not chosen a policy yet." in shown(terminal.summary(empty))


def test_summary_says_once_what_stays_in_float_and_why(report: RunReport, partly: RunReport) -> None:
    sentences = partly.sites.coverage.sentences()
    exported = replace(partly, export_notes=(*sentences, *partly.export_notes))
    text = " ".join(shown(terminal.summary(exported)).split())
    assert text.count("Whatever the policy, 50.0% of the multiply-accumulates and 0% of the weights stay in float") == 1
    assert "conv9d<x> ('body.mix'; 50.0% of the multiply-accumulates) stays in float: nobody knows it." in text
    assert "Whatever the policy" not in shown(terminal.summary(report))


def test_compare_lists_only_what_differs(report: RunReport, other: RunReport) -> None:
    text = shown(terminal.compare_table([report, other], ["first", "second"]))
    assert [c.strip() for c in cells(text, "stem.conv.weight")] == ["stem.conv.weight", "4", "8"]
    assert "stem.relu" not in text
    flat = " ".join(text.split())
    assert "second against first: accuracy +2.0 points [-0.8, +4.8], Size times 1.56" in flat
    assert "4 more sites have the same bits in all runs." in flat
    assert "All 7 sites have the same bits in all runs." in shown(terminal.compare_table([report, report]))


def test_figures_of_another_task_have_its_names_and_units(sites: Sites) -> None:
    loss = Figure(
        Measure("loss", "Loss", larger=False, relative=True),
        Interval(0.25, 0.2, 0.3, 0.95, "bootstrap"),
        Interval(0.2, 0.15, 0.25, 0.95, "bootstrap"),
        Interval(0.05, 0.01, 0.09, 0.95, "paired bootstrap"),
    )
    sqnr = Figure(Measure("sqnr", "SQNR", "dB"), Interval(21.5, 20.5, 22.5, 0.95, "bootstrap"))
    error = Figure(Measure("error", "Relative squared error", larger=False), Interval(0.007, 0.006, 0.008))
    verdict = Verdict("regression", 40, {"loss": loss, "error": error, "sqnr": sqnr}, "loss", "error")
    report = RunReport("net", sites, chosen=Measured(Policy({}, name="W4A4"), {}, verdict))
    text = shown(terminal.verdict_table(report), 120)
    rows = [line.split() for line in text.splitlines() if line.strip().startswith("W4A4")]
    assert " ".join(rows[0]) == "W4A4 * 0.250 [0.200, 0.300] +0.0500 [+0.0100, +0.0900]"
    assert " ".join(rows[1]) == "W4A4 * 0.00700 [0.00600, 0.00800] 21.5 [20.5, 22.5]"
    assert "SQNR, dB" in text
    assert "Top-1" not in text
    assert "at 95%" not in text
    nothing = replace(sqnr, value=Interval(math.inf, math.inf, math.inf))
    verdict = replace(verdict, figures={**verdict.figures, "sqnr": nothing})
    report = replace(report, chosen=Measured(Policy({}, name="W4A4"), {}, verdict))
    assert "nothing is lost" in shown(terminal.verdict_table(report), 120)


def test_further_costs_stand_with_the_last_figures_so_that_80_columns_suffice(report: RunReport) -> None:
    assert report.chosen is not None
    costs = {**report.chosen.costs, "packed": 150.0}
    lines = shown(terminal.verdict_table(replace(report, chosen=replace(report.chosen, costs=costs)))).splitlines()
    first = next(line for line in lines if "BOPs" in line)
    assert "Packed size" not in first
    assert any("Packed size" in line for line in lines)
    assert any("150 B" in line for line in lines)

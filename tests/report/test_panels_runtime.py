from __future__ import annotations

from bitwright.report import RunReport
from bitwright.report import format as text
from bitwright.report.panels_runtime import latency_panel, parity_panel
from bitwright.tasks.classification import ACCURACY, AGREEMENT
from bitwright.values import Closeness, Figure, Interval, Latency, Measure, Parity


def test_parity_in_counts_and_output_steps(report: RunReport) -> None:
    assert report.parity is not None
    panel = parity_panel(report.parity)
    assert [(r.optimisations, r.agrees, r.share, r.difference) for r in panel.rows] == [
        ("off", "200 of 200 inputs", "100.00%", "0 output steps"),
        ("on", "199 of 200 inputs", "99.50%", "1.00 output steps"),
    ]  # fmt: skip
    assert panel.sentence == (
        "ONNX Runtime agrees with the simulation on 200 of 200 inputs with its graph optimisations off, and on 199 of "
        "200 inputs with them on, the way it is normally run."
    )
    assert panel.step == "One output step is 0.0500."
    assert (panel.label, panel.figure) == ("Top-1", "88.0% [82.8, 91.8] (95% Wilson)")


def test_values_are_compared_in_steps_and_as_a_whole() -> None:
    values = {"exact": Closeness(0.0, 0.0), "fused": Closeness(1.25, 0.0031, 50.17)}
    panel = parity_panel(Parity("ONNX Runtime 1", 10, 0.0, 0.5, None, AGREEMENT, 1.0, 1.0, **values))
    assert [row.difference for row in panel.rows] == [
        "0 output steps",
        "1.25 output steps (relative error 0.310%, SQNR 50.2 dB)",
    ]
    tiny = Closeness(1.0, 8.12e-9, 161.8)
    assert text.closeness(tiny) == "1.00 output step (relative error less than 0.0001%, SQNR 161.8 dB)"


def test_a_runtime_without_optimisations_has_one_row() -> None:
    panel = parity_panel(Parity("ExecuTorch 1", 200, None, 0.5, 0.1, AGREEMENT, None, 0.995))
    assert [(row.optimisations, row.agrees) for row in panel.rows] == [("none", "199 of 200 inputs")]
    assert panel.sentence == "ExecuTorch agrees with the simulation on 199 of 200 inputs."
    values = parity_panel(Parity("ExecuTorch 1", 200, None, 0.5, 0.1))
    assert values.sentence == (
        "ExecuTorch's outputs differ from the simulation's by at most 0.500 output steps on 200 inputs."
    )


def test_parity_of_a_float_output_is_in_its_own_units() -> None:
    panel = parity_panel(Parity("myengine 2", 10, 0.25, 0.5, None, AGREEMENT, 1.0, 1.0))
    assert [row.difference for row in panel.rows] == ["0.250 units of the output", "0.500 units of the output"]
    assert panel.sentence.startswith("myengine agrees")
    assert (panel.step[:27], panel.figure) == ("The output stays in float: ", "")


def test_inputs_that_agree_in_part_are_shares_with_their_own_interval() -> None:
    figure = Figure(ACCURACY, Interval(0.9, 0.85, 0.94, 0.95, "bootstrap"))
    panel = parity_panel(Parity("ONNX Runtime 1", 10, 0.0, 0.5, None, AGREEMENT, 1.0, 0.993, figure))
    assert "on 10 of 10 inputs with" in panel.sentence
    assert "on 99.30% of the predictions for 10 inputs with them on" in panel.sentence
    assert panel.figure == "90.0% [85.0, 94.0] (95% bootstrap)"


def test_parity_of_a_regression_has_differences_only() -> None:
    panel = parity_panel(Parity("ONNX Runtime 1", 10, 0.0, 0.5, 0.1))
    assert [(row.agrees, row.share) for row in panel.rows] == [("–", "–"), ("–", "–")]
    assert "at most 0.500 output steps with them on" in panel.sentence
    assert panel.step == "One output step is 0.100."
    distance = Figure(Measure("distance", "Cosine distance", larger=False), Interval(0.002, 0.001, 0.004))
    told = parity_panel(Parity("ONNX Runtime 1", 10, 0.0, 0.5, 0.1, distance=distance)).sentence
    assert told.endswith(" The cosine distance between file and simulation is 0.00200 [0.00100, 0.00400].")


def test_a_slower_file_is_said_to_be_slower_with_what_did_not_fuse(report: RunReport) -> None:
    panel = latency_panel(report.latency)
    assert panel.sentence == (
        "The quantized file is slower than float: 1.20 x the float latency at batch 32. "
        "2 operations were not fused into integer kernels, which is the likely reason."
    )
    assert panel.unfused == ("body.<add>", "head (Gemm)")
    assert panel.rows == tuple(report.latency)


def test_a_faster_file(report: RunReport) -> None:
    panel = latency_panel([Latency(1, 0.5, 1.0), Latency(8, 0.4, 1.0, ("add",))])
    assert panel.sentence == (
        "The quantized file has 0.50 x the float latency at batch 1 and 0.40 x the float latency at batch 8. "
        "1 operation was not fused into integer kernels."
    )
    assert latency_panel([]).sentence == ""

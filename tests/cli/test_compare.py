"""``bitwright compare`` on runs whose models are at hand."""

from __future__ import annotations

from pathlib import Path


def test_the_page_shows_inputs_on_which_two_runs_differ(run, digits_flags, tmp_path: Path, capsys):
    quick = ("--calibration-samples", "48", "--score-samples", "24", "--holdout-samples", "24", "--runtime", "none")
    for bits in (3, 4):
        asked = ("--bits", bits, "--budget", f"bops=W{bits}A{bits}", "--rounds", "1", "--points", "2")
        assert run("run", *digits_flags, *quick, *asked, "-o", f"out/{bits}") == 0
    capsys.readouterr()
    assert run("compare", "out/3", "out/4", "--to", "page.html") == 0
    out = capsys.readouterr().out
    said = next(line for line in out.splitlines() if line.startswith("out/4 against out/3, on the same 120 inputs"))
    assert "other decisions on " in said
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") > 0
    assert "out/3 " in page
    assert run("compare", "out/3", "out/4") == 0  # from the store
    assert said in capsys.readouterr().out

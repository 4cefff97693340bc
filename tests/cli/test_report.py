from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.cli.main import main
from bitwright.report import Measured, RunReport
from bitwright.values import Operation, Policy, Site, Sites
from verdicts import classified

SITES = Sites(
    (Site("fc.weight", "weight", (3, 4)), Site("fc", "activation", (1, 3))),
    (Operation("fc", "linear", 12, None, "fc.weight"),),
    "abc",
)


def write_run(folder: Path, accuracy: float, bits: int) -> Path:
    verdict = classified(accuracy, 0.9, accuracy - 0.9, kl=0.02, samples=500)
    measured = Measured(Policy({"fc.weight": bits, "fc": 8}, name="mine"), {"size": 3.0 * bits, "bops": 1e3}, verdict)
    report = RunReport("net", SITES, float_costs={"size": 48.0, "bops": 4e3}, chosen=measured)
    folder.mkdir()
    (folder / "report.json").write_text(report.to_json(), encoding="utf-8")
    return folder


def run(*words: str | Path) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)


def test_the_report_is_written_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path / "a", 0.876, 4)
    assert run("report", folder) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert "87.6" in (folder / "report.html").read_text(encoding="utf-8")
    assert run("report", folder, "--to", tmp_path / "other.html") == 0
    assert (tmp_path / "other.html").is_file()


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", tmp_path) == 2
    assert f"error: there is no report.json in '{tmp_path}'; run `bitwright run`" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"bitwright": "report", "version": 1}', '{"bitwright": "report", "version": 9}']
)
def test_a_damaged_report_is_one_line(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text(text)
    assert run("report", tmp_path) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: '{tmp_path / 'report.json'}'")
    assert err.count("\n") == 1


def test_compare_shows_the_difference_and_the_sites(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(Path("a"), 0.80, 4)
    write_run(Path("b"), 0.85, 8)
    assert run("compare", "a", "b", "--to", "c.html") == 0
    out = capsys.readouterr().out
    assert "accuracy +5.0 points [" in out
    assert "1 sites with other bits" in " ".join(out.split())
    assert [line.split() for line in out.splitlines() if "fc.weight" in line] == [["fc.weight", "4", "8"]]
    assert "Inputs were not compared: 'a' has no bitwright.toml" in out
    assert "Inputs were not compared" in (tmp_path / "c.html").read_text()
    assert run("compare", "a", "b", "--no-inputs") == 0
    assert "Inputs were" not in capsys.readouterr().out


def test_compare_needs_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", write_run(tmp_path / "a", 0.8, 4)) == 2
    assert "compare needs at least 2 runs, got 1" in capsys.readouterr().err

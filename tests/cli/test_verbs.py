"""The verbs that measure, each through the command line on the digits network."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from bitwright.store import RunStore
from bitwright.values import Front, Policy, SensitivityTable

QUICK = ("--calibration-samples", "48", "--batch-size", "32")


def test_sensitivity_ranks_and_writes(run, digits_flags, tmp_path: Path, capsys, stored) -> None:
    words = ("sensitivity", *digits_flags, *QUICK, "--score-samples", 16, "--bits", "2,4,8", "--at", 2, "--top", 3)
    assert run(*words) == 0
    out = capsys.readouterr().out
    table = SensitivityTable.from_json((tmp_path / "bitwright-out" / "sensitivity.json").read_text())
    assert (table.samples, table.bits) == (16, (2, 4, 8))
    worst = [name for name, _ in table.ranking(2)]
    assert all(name in out for name in worst[:3])
    assert worst[5] not in out
    assert "12 more sites are less sensitive" in " ".join(out.split())
    assert [kind for _, kind in stored(tmp_path / "bitwright-out")] == 2 * ["sensitivity"]


def test_sensitivity_goes_on_from_the_store(run, digits_flags, capsys, monkeypatch) -> None:
    words = ("sensitivity", *digits_flags, *QUICK, "--score-samples", 16, "--bits", "4")
    assert run(*words) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr("bitwright.flow.scores.sensitivities", None)
    assert run(*words) == 0
    assert capsys.readouterr().out == first


def test_search_gives_one_candidate_for_each_budget(run, digits_flags, tmp_path: Path, capsys) -> None:
    words = ("search", *digits_flags, *QUICK, "--score-samples", 16, "--bits", "2,4,8", "-o", "found")
    assert run(*words, "--budget", "bops=W4A4,size=20%", "--budget", "size=30%", "--pin", "linear.weight=8") == 0
    out = capsys.readouterr().out
    front = Front.from_json((tmp_path / "found" / "front.json").read_text())
    assert [c.policy.name for c in front] == ["bops=W4A4, size=20%", "size=30%"]
    assert {c.policy["linear.weight"] for c in front} == {8}
    assert all(share <= 1 for c in front for share in c.used.values())
    assert Policy.load(tmp_path / "found" / "policy.json").bits == front[0].policy.bits
    assert front.basis == "measured"
    assert all(c.verdict is not None for c in front)
    assert "; measured; " in out
    assert run(*words, "--budget", "bops=W4A4,size=20%", "--no-measure") == 0
    out = " ".join(capsys.readouterr().out.split())
    front = Front.from_json((tmp_path / "found" / "front.json").read_text())
    assert (front.basis, front[0].verdict) == ("predicted", None)
    assert "; predicted; proven optimal" in out
    assert "Predicted alone: nothing was measured." in out


def test_search_counts_what_the_runtime_of_the_job_stores(run, digits_flags, tmp_path: Path) -> None:
    (tmp_path / "bitwright.toml").write_text('runtime = "none"\n')
    words = ("search", *digits_flags, *QUICK, "--score-samples", 16, "--bits", "3,8", "--points", 3)
    assert run(*words) == 0
    for candidate in Front.from_json((tmp_path / "bitwright-out" / "front.json").read_text()):
        assert candidate.costs["size"] == candidate.costs["packed"]


def test_search_without_a_budget_gives_the_front(run, digits_flags, tmp_path: Path, capsys) -> None:
    words = ("search", *digits_flags, *QUICK, "--score-samples", 16, "--bits", "2,4,8", "--cost", "size", "--points", 5)
    assert run(*words) == 0
    front = Front.from_json((tmp_path / "bitwright-out" / "front.json").read_text())
    sizes = [c.costs["size"] for c in front]
    assert len(sizes) > 2
    assert sizes == sorted(sizes)
    assert not (tmp_path / "bitwright-out" / "policy.json").exists()


def test_evaluate_gives_every_figure_with_its_interval(run, digits_flags, capsys) -> None:
    assert run("evaluate", *digits_flags, *QUICK, "--policy", "W8A8", "--json") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["samples"] == 120
    accuracy = verdict["figures"]["accuracy"]
    assert accuracy["value"]["low"] < accuracy["value"]["value"]
    assert accuracy["change"]["low"] < 0 < accuracy["change"]["high"]
    assert verdict["figures"]["agreement"]["value"]["value"] > 0.97
    assert run("evaluate", *digits_flags, *QUICK, "--policy", "W2A2") == 0
    out = capsys.readouterr().out
    assert "W2A2 *" in out
    assert "95% Wilson" in out


def test_evaluate_takes_the_policy_of_the_output_folder(run, digits_flags, tmp_path: Path, capsys) -> None:
    Policy({"linear.weight": 4}, name="mine").save(tmp_path / "policy.json")
    assert run("evaluate", *digits_flags, *QUICK, "-o", ".") == 0
    assert "mine *" in capsys.readouterr().out
    assert run("evaluate", *digits_flags, *QUICK, "-o", "elsewhere") == 2
    assert "there is no policy.json in 'elsewhere'; run `bitwright run`" in capsys.readouterr().err


def test_run_says_what_was_asked_what_came_out_and_what_to_try_next(run, digits_flags, tmp_path: Path, capsys) -> None:
    flags = ("--score-samples", 16, "--holdout-samples", 48, "--points", 3, "--bits", "2,4,8", "--runtime", "none")
    assert run("run", *digits_flags, *QUICK, *flags, "--budget", "bops=W4A4", "-o", "out") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    out = captured.out
    assert "Asked: the best policy for bops=W4A4" in out
    assert "top-1 (float " in out
    assert "points [" in out
    assert "report.html" in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("  bitwright")) <= 80
    again = next(line for line in out.splitlines() if line.startswith("  bitwright run --job "))
    assert "--job out/bitwright.toml" in again
    job = (tmp_path / "out" / "bitwright.toml").read_text()
    assert 'budget = ["bops=W4A4"]' in job
    assert 'output = "."' in job


def test_the_job_file_of_a_run_runs_again(run, digits_flags, tmp_path: Path, capsys, monkeypatch) -> None:
    flags = ("--score-samples", 16, "--holdout-samples", 48, "--points", 3, "--bits", "2,4,8", "--runtime", "none")
    assert run("run", *digits_flags, *QUICK, *flags, "-o", "out") == 0
    first = (tmp_path / "out" / "policy.json").read_text()
    (tmp_path / "out" / "policy.json").unlink()
    monkeypatch.setattr("bitwright.session.session.evaluate", None)
    assert run("run", "--job", "out/bitwright.toml") == 0
    assert (tmp_path / "out" / "policy.json").read_text() == first


@pytest.mark.parametrize(
    "verb", ["demo", "run", "sites", "sensitivity", "search", "evaluate", "export", "report", "compare", "settings"]
)
def test_every_verb_has_help_with_an_example(run, capsys, verb: str) -> None:
    assert run(verb, "--help") == 0
    out = capsys.readouterr().out
    assert f"  bitwright {verb}" in out
    assert "Examples:" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_ctrl_c_keeps_what_was_measured_and_says_so(
    run, digits_flags, tmp_path: Path, capsys, monkeypatch, stored
) -> None:
    from bitwright.session import session

    evaluate, calls = session.evaluate, []

    def stopping(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(session, "evaluate", stopping)
    flags = ("--score-samples", 16, "--holdout-samples", 48, "--points", 3, "--bits", "4,8", "--runtime", "none")
    assert run("run", *digits_flags, *QUICK, *flags, "-o", "out") == 130
    assert capsys.readouterr().err == ("stopped; the same command goes on from here (finished measurements are kept)\n")
    assert [kind for _, kind in stored(tmp_path / "out")].count("verdict") == 2
    assert run("run", *digits_flags, *QUICK, *flags, "-o", "out") == 0


def test_export_finds_out_before_the_work_that_a_package_is_missing(
    run, digits_flags, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnx_ir" else find(name))
    assert run("export", *digits_flags, "--policy", "W8A8") == 2
    assert "the package 'onnx-ir' is needed to export for ONNX Runtime" in capsys.readouterr().err
    assert not Path("bitwright-out").exists()


def test_a_second_job_in_the_same_folder_is_refused(run, digits_flags, tmp_path: Path, capsys) -> None:
    with RunStore(tmp_path / "bitwright-out") as store:
        store.own("another", "bitwright run --budget bops=W4A4")
        for command in (("sweep",), ("debug", "--policy", "W4A8"), ("run", "--runtime", "none", "--bits", "8")):
            assert run(*command, *digits_flags, *QUICK) == 2
            line = capsys.readouterr().err
            assert "the output folder 'bitwright-out' is in use by `bitwright run --budget bops=W4A4` (process" in line
            assert line.count("\n") == 1

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.flow.searching import Search
from bitwright.values import Policy
from bitwright.values.searched import Facts

QUICK = ("--calibration-samples", "48", "--batch-size", "16", "--holdout-samples", "32", "--epochs", "2")


def test_a_policy_is_searched_and_trained(run, digits_flags, tmp_path: Path, capsys):
    words = ("gmpq", *digits_flags, *QUICK, "--budget", "bops=W3A3", "--widths", "2,3,6", "-o", "out")
    assert run(*words) == 0
    out = capsys.readouterr().out
    done = Search.from_dict(json.loads((tmp_path / "out" / "gmpq.json").read_text()))
    policy = Policy.load(tmp_path / "out" / "policy.json")
    assert policy == done.searched.policy
    assert policy.origin == "r-gmpq on digits?limit=120, 2 epochs, seed 0"
    assert set(policy.bits.values()) <= {2, 3, 6}
    assert done.searched.samples == 120 - 32  # all but those that are held out
    assert "W3A3" in done.uniform
    for word in ("Attribution", "bops=W3A3 *", "W3A3", "policy.json", "gmpq.html"):
        assert word in out
    page = (tmp_path / "out" / "gmpq.html").read_text()
    assert page.count("data:image/png;base64,") == 3 * 6
    assert "http://" not in page.replace("http://www.w3.org", "")
    # The same command finds everything in the store.
    assert run(*words) == 0
    assert capsys.readouterr().out == out
    assert run("qat", *digits_flags, *QUICK[:-1], "1", "--policy", tmp_path / "out" / "policy.json", "-o", "out2") == 0


def test_a_policy_is_searched_on_other_data(run, digits_flags, tmp_path: Path, capsys, monkeypatch):
    (tmp_path / "other.py").write_text(
        "from bitwright.data import DataSets, load_data\n"
        "from bitwright.data.array_dataset import ArrayDataset\n"
        "def halves():\n"
        "    inputs, targets = load_data('digits').calibration.read(0, 90)\n"
        "    data = ArrayDataset('halves', lambda: (inputs.numpy(), (targets > 4).long().numpy()), classes=2)\n"
        "    return DataSets(data, data)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run("gmpq", *digits_flags, *QUICK, "--proxy", "other:halves", "--method", "gmpq", "-o", "out") == 0
    policy = Policy.load(tmp_path / "out" / "policy.json")
    assert policy.origin == "gmpq on other:halves, 2 epochs, seed 0"
    assert run("evaluate", *digits_flags, *QUICK[:4], "--policy", tmp_path / "out" / "policy.json", "-o", "out") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "gmqp"), "method must be one of loss, gmpq, r-gmpq, got 'gmqp'; did you mean 'gmpq'"),
        (("--widths", "a,b"), "bits must be whole numbers with ',' between them, got 'a,b'"),
        (("--widths", "4"), "widths must be at least two"),
        (("--share-rate", "2"), "share_rate must be above 0 and at most 1, got 2.0"),
        (("--budget", "bops=0.01%"), "no policy fits"),
        (("--budget", "bops=W4A4", "--budget", "bops=W3A3"), "gmpq searches one policy; give one --budget, got 2"),
        (("--proxy", "nothing:at_all"), "nothing"),
        (("--proxy", "digits?limit=30"), "a proxy needs at least three batches"),
    ],
)
def test_bad_settings_are_one_line(run, digits_flags, words, message, capsys):
    assert run("gmpq", *digits_flags, *QUICK, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_the_study_goes_on_where_it_was(run, digits_flags, tmp_path: Path, capsys, monkeypatch):
    from bitwright.gmpq import facts, search

    monkeypatch.setattr(facts, "TOPS", (0.25, 0.5, 1.0))
    monkeypatch.setattr(facts, "SIZES", (0.4, 1.0))
    monkeypatch.setattr(facts, "POLICIES", 8)
    words = ("gmpq", *digits_flags, *QUICK[:-1], "1", "--study", "-o", "out")
    assert run(*words) == 0
    out = capsys.readouterr().out
    found = Facts.from_dict(json.loads((tmp_path / "out" / "gmpq-study.json").read_text()))
    assert [f.verdict == "not measured" for f in found.findings].count(True) == 4
    assert {f.verdict for f in found.findings} <= {"holds", "does not hold", "undecided", "not measured"}
    assert "0.733" in out
    monkeypatch.setattr(search, "_Work", None)  # nothing is searched again
    assert run(*words) == 0
    assert capsys.readouterr().out == out

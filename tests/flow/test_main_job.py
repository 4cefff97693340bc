from __future__ import annotations

import csv
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch

from bitwright.data import DataSets, load_data
from bitwright.data.adopt import as_dataset
from bitwright.errors import ImpossibleBudget, InvalidInput, MissingExtra, StoreError
from bitwright.flow import run
from bitwright.report import RunReport
from bitwright.session import session as session_module
from bitwright.settings import Settings
from bitwright.store import RunStore
from bitwright.values import Front, Policy, SensitivityTable

QUICK = Settings(
    calibration_samples=64,
    score_samples=32,
    holdout_samples=64,
    points=5,
    rounds=2,
    bits=(2, 3, 4, 6, 8),
    runtime="none",
    budget=("bops=W4A4", "size=30%"),
)


@pytest.fixture(scope="module")
def data() -> DataSets:
    return load_data("digits?limit=160")


@pytest.fixture(scope="module")
def done(digits_model, data, tmp_path_factory) -> tuple[Path, RunReport]:
    folder = tmp_path_factory.mktemp("run")
    return folder, run(digits_model, data, folder, QUICK)


def test_everything_is_written_and_reads_back(done) -> None:
    folder, report = done
    assert {path.name for path in folder.iterdir()} == {
        "bitwright.sqlite",
        "front.json",
        "policy.json",
        "report.html",
        "report.json",
        "sensitivity.csv",
        "sensitivity.json",
    }
    assert Policy.load(folder / "policy.json").bits == report.chosen.policy.bits
    assert RunReport.from_json((folder / "report.json").read_text()).to_dict() == report.to_dict()
    table = SensitivityTable.from_json((folder / "sensitivity.json").read_text())
    assert (table.method, table.samples, table.bits) == ("margin-fit", 32, (2, 3, 4, 6, 8))
    rows = list(csv.DictReader((folder / "sensitivity.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(table.sites) * 5
    row = next(r for r in rows if (r["method"], r["site"], r["bits"]) == ("margin-fit", "layer1.conv1.weight", "4"))
    assert float(row["harm"]) == table.at("layer1.conv1.weight", 4)


def test_the_chosen_policy_keeps_its_budget_and_each_entry_has_a_candidate(done) -> None:
    _, report = done
    limit = 4 * 4 * sum(op.macs for op in report.sites.operations)
    assert report.chosen.policy.name == "bops=W4A4"
    assert 0 < report.chosen.costs["bops"] <= limit
    other = next(m for m in report.alternatives if m.policy.name == "size=30%")
    assert other.costs["size"] <= 0.3 * report.float_costs["size"]
    assert {"W8A8", "W4A4"} <= {m.policy.name for m in report.baselines}


def test_figures_are_of_the_evaluation_data_and_ranks_of_held_out_data(done) -> None:
    folder, report = done
    assert {m.verdict.samples for m in report.measured} == {160}
    assert {c.verdict.samples for c in report.front} == {160}
    ranked = Front.from_json((folder / "front.json").read_text())
    assert {c.verdict.samples for c in ranked} == {64}
    kl = [c.verdict.kl.value for c in ranked]
    assert kl == sorted(kl, reverse=True)
    assert any("held-out calibration samples" in note for note in report.notes)
    assert not any("asked for" in note for note in report.notes)


def test_predictions_are_compared_with_what_was_measured(done) -> None:
    _, report = done
    assert [a.method for a in report.agreements] == ["margin-fit", "fit"]
    for agreement in report.agreements:
        assert len(agreement.pairs) >= 5
        assert agreement.spearman.low <= agreement.spearman.value <= agreement.spearman.high


def test_a_second_run_measures_nothing_again(done, digits_model, data, monkeypatch) -> None:
    folder, report = done
    monkeypatch.setattr(session_module, "evaluate", None)
    monkeypatch.setattr("bitwright.flow.scores.sensitivities", None)
    again = run(digits_model, data, folder, QUICK)
    assert again.chosen.to_dict() == report.chosen.to_dict()
    assert again.front.to_dict() == report.front.to_dict()


def test_what_an_earlier_run_wrote_and_this_one_does_not_is_gone(done, digits_model, data) -> None:
    folder, report = done
    with RunStore(folder) as store, store.results("run") as place:
        for name in ("scales.json", "policy.json"):
            (place / name).write_text("of another run")
    run(digits_model, data, folder, QUICK)
    assert not (folder / "scales.json").exists()
    assert Policy.load(folder / "policy.json") == report.chosen.policy


def test_a_run_that_stops_at_the_last_file_leaves_the_earlier_ones(
    done, digits_model, data, tmp_path: Path, monkeypatch
) -> None:
    shutil.copytree(done[0], tmp_path, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.*[!e]") if "sqlite" not in path.name}
    monkeypatch.setattr("bitwright.flow.outputs.render", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(digits_model, data, tmp_path, QUICK.model_copy(update={"budget": ("bops=W8A8",)}))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.*[!e]") if "sqlite" not in path.name} == before


def test_another_job_in_the_same_folder_is_refused(done, digits_model, data) -> None:
    with RunStore(done[0]) as store:
        store.own("another", "bitwright sweep")
        with pytest.raises(StoreError, match="is in use by `bitwright sweep` .*--output"):
            run(digits_model, data, done[0], QUICK)


def test_a_stopped_run_goes_on_from_what_it_has(done, digits_model, data, tmp_path: Path, monkeypatch, stored) -> None:
    evaluate, calls = session_module.evaluate, []

    def stopping(*args, **kwargs):
        calls.append(args[1])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(session_module, "evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(digits_model, data, tmp_path, QUICK)
    assert sorted(kind for _, kind in stored(tmp_path)) == 2 * ["sensitivity"] + 3 * ["verdict"]
    assert not (tmp_path / "report.json").exists()
    first = list(calls[:3])
    report = run(digits_model, data, tmp_path, QUICK)
    assert not any(policy.bits == early.bits for policy in calls[4:12] for early in first)
    assert report.chosen.to_dict() == done[1].chosen.to_dict()


def test_the_evaluation_data_takes_no_part_in_any_choice(done, digits_model, data, tmp_path: Path) -> None:
    inputs, targets = data.evaluation.read(0, 40)
    wrong = DataSets(data.calibration, as_dataset((torch.rand_like(inputs), targets.flip(0)), "wrong"))
    report = run(digits_model, wrong, tmp_path, QUICK)
    assert report.chosen.policy.bits == done[1].chosen.policy.bits
    assert report.chosen.verdict.accuracy.value < done[1].chosen.verdict.accuracy.value


def test_without_a_budget_the_cheapest_that_holds_the_target(digits_model, data, tmp_path: Path) -> None:
    steps = []
    settings = QUICK.model_copy(update={"budget": (), "target_drop": 2.0, "cost": "size", "repairs": ()})
    report = run(digits_model, data, tmp_path, settings, progress=lambda *told: steps.append(told))
    ranked = Front.from_json((tmp_path / "front.json").read_text())
    chosen = next(c for c in ranked if c.policy.bits == report.chosen.policy.bits)
    assert 100 * (1 - chosen.verdict.agreement.value) <= 2.0
    cheaper = [c for c in ranked if c.costs["size"] < chosen.costs["size"]]
    assert cheaper
    assert 100 * (1 - cheaper[-1].verdict.agreement.value) > 2.0
    assert "loses at most 2 points of accuracy" in report.notes[0]
    names = list(dict.fromkeys(name for name, _, _ in steps))
    assert names[:4] == ["draw samples", "capture", "calibrate", "score sites"]
    for name in names:
        last = [told for told in steps if told[0] == name][-1]
        assert last[1] == last[2]


def test_an_impossible_budget_says_what_is_possible_before_anything_is_measured(
    digits_model, data, tmp_path: Path, stored
) -> None:
    with pytest.raises(ImpossibleBudget, match="smallest possible is size="):
        run(digits_model, data, tmp_path, QUICK.model_copy(update={"budget": ("size=1%",)}))
    assert "verdict" not in {kind for _, kind in stored(tmp_path)}
    with pytest.raises(InvalidInput, match="unknown cost 'bop' in the budget"):
        run(digits_model, data, tmp_path, QUICK.model_copy(update={"budget": ("bop=W4A4",)}))


@pytest.mark.parametrize(("package", "extra"), [("plotly", "report"), ("onnxruntime", "onnx"), ("onnx_ir", "onnx")])
def test_a_missing_extra_is_found_out_before_the_work(
    digits_model, data, tmp_path: Path, monkeypatch, package: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(
        MissingExtra, match=rf"'{package.replace('_', '-')}' is needed .* pip install 'bitwright\[{extra}\]'"
    ):
        run(digits_model, data, tmp_path, QUICK.model_copy(update={"runtime": "onnxruntime"}))
    assert not list(tmp_path.iterdir())


def test_the_report_says_where_it_ran(done) -> None:
    environment = done[1].environment
    assert environment["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert environment["threads"] == str(torch.get_num_threads())
    assert json.dumps(environment)

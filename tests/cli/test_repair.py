from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.cli.repair import actions
from bitwright.errors import InvalidInput
from bitwright.flow.repairing import Repaired
from bitwright.repair import REPAIRS
from bitwright.values.recipe import Action, Recipe

QUICK = ("--calibration-samples", "48", "--batch-size", "32")


def test_repairs_are_applied_in_order_and_the_recipe_is_exported_as_simulated(
    run, digits_flags, tmp_path: Path, capsys
) -> None:
    words = ("repair", "fold,cle,bias", *digits_flags, *QUICK, "--policy", "W2A4", "-o", "out")
    assert run(*words, "--set", "cle.absorb=false") == 0
    out = capsys.readouterr().out
    found = Repaired.from_dict(json.loads((tmp_path / "out" / "repairs.json").read_text()))
    assert [report.name for report in found.reports] == ["fold", "cle", "bias"]
    assert found.recipe.actions == (
        Action("repair", {"name": "fold"}),
        Action("repair", {"name": "cle", "absorb": False}),
        Action("repair", {"name": "bias"}),
    )
    assert found.helps
    assert found.after.kl.value < found.before.kl.value
    assert Recipe.load(tmp_path / "out" / "recipe.json") == found.recipe
    assert out.index("fold:") < out.index("cle:") < out.index("bias:")
    for word in ("needed   48 calibration samples", "changed  ", "cost     ", "capture has folded 5 batch norms"):
        assert word in out
    assert "W2A4, repaired *" in out
    assert "The repairs help. KL to float on held-out calibration samples: " in out
    # The same command finds everything in the store.
    assert run(*words, "--set", "cle.absorb=false") == 0
    assert capsys.readouterr().out == out
    # Sizes are those that the job's runtime stores: 2 bits take 4 in ONNX, and 2 where there is no runtime.
    (tmp_path / "bitwright.toml").write_text('runtime = "none"\n')
    assert run(*words, "--set", "cle.absorb=false") == 0
    packed = capsys.readouterr().out
    assert [line for line in out.splitlines() if line not in packed] != []
    assert out.partition("Figures")[0] == packed.partition("Figures")[0]
    (tmp_path / "bitwright.toml").unlink()
    # The file computes what was simulated.
    recipe = tmp_path / "out" / "recipe.json"
    assert run("evaluate", *digits_flags, *QUICK, "--recipe", recipe, "--json", "-o", "out") == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["figures"]["accuracy"] == found.after.to_dict()["figures"]["accuracy"]
    assert run("export", *digits_flags, *QUICK, "--recipe", recipe, "-o", "out") == 0
    samples = found.after.samples
    assert f"on {samples} of {samples} inputs with its graph" in " ".join(capsys.readouterr().out.split())


def test_repairs_go_on_from_a_recipe(run, digits_flags, tmp_path: Path, capsys) -> None:
    assert run("repair", "granularity", *digits_flags, *QUICK, "--policy", "W2A8", "-o", "a") == 0
    capsys.readouterr()
    recipe = tmp_path / "a" / "recipe.json"
    assert run("repair", "bias", *digits_flags, *QUICK, "--recipe", recipe, "-o", "b") == 0
    names = [action.options["name"] for action in Recipe.load(tmp_path / "b" / "recipe.json").actions]
    assert names == ["granularity", "bias"]
    assert "\ngranularity:" not in capsys.readouterr().out
    assert run("repair", "cle", *digits_flags, *QUICK, "--recipe", tmp_path / "b" / "recipe.json") == 2
    assert "repair 'cle' cannot follow 'bias'" in capsys.readouterr().err


def test_one_step_for_each_weight_can_be_refined(run, digits_flags, capsys) -> None:
    words = ("repair", "granularity", *digits_flags, *QUICK, "--policy", "W3A8", "--quantizer", "edge-tensor")
    assert run(*words, "-o", "out") == 0
    out = capsys.readouterr().out
    assert "changed  6 places: " in out
    assert "from 1 to" in out


def test_list_names_every_repair_with_what_it_needs_changes_and_costs(run, capsys) -> None:
    assert run("repair", "--list") == 0
    out = capsys.readouterr().out
    for name in REPAIRS:
        assert f"\n{name}: " in out
    assert out.count("  needs     ") == out.count("  changes   ") == out.count("  costs     ") == len(REPAIRS)
    assert "options   activations=false, absorb=true, relu6=auto" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "error: name the repairs, e.g. `bitwright repair gptq`"),
        (("adaround,cle",), "repair 'cle' cannot follow 'adaround': it rescales weights and activations"),
        (("blocks,cle",), "repair 'cle' cannot follow 'blocks'"),
        (("bais",), "got 'bais'; did you mean 'bias'"),
        (("bias,bias",), "repair 'bias' is named twice"),
        (("bias", "--set", "bias.methd=analytic"), "has no option 'methd'; did you mean 'method'"),
        (("bias", "--set", "method=analytic"), "--set must have the form REPAIR.OPTION=VALUE"),
        (("bias", "--set", "cle.absorb=false"), "is for the repair 'cle', which is not among bias"),
        (
            ("bias", "--set", "bias.policy=W4A8"),
            "leave out --set bias.policy=W4A8",
        ),
        (("fold", "--set", "fold.x=1"), "repair 'fold' has no option 'x' (it has none)"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_computed(run, words, message, capsys) -> None:
    assert run("repair", *words) == 2  # without a model: nothing is loaded
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_recipe_and_policy_exclude_each_other(run, digits_flags, tmp_path: Path, capsys) -> None:
    from bitwright.values import Policy

    path = tmp_path / "recipe.json"
    Recipe(Policy({"linear.weight": 4})).save(path)
    for verb in ("repair bias", "evaluate", "export"):
        assert run(*verb.split(), *digits_flags, *QUICK, "--recipe", path, "--policy", "W4A8") == 2
        assert "a recipe has its own policy" in capsys.readouterr().err


def test_options_are_read_as_json_else_as_text() -> None:
    (clip,) = actions("clip", ["clip.sites=a,b", "clip.samples=16"])
    assert clip.options == {"name": "clip", "sites": ["a", "b"], "samples": 16}
    (ranges,) = actions(" ranges ", ['ranges.sites={"fc.weight": "output"}', "ranges.activations=minmax"])
    assert ranges.options == {"name": "ranges", "sites": {"fc.weight": "output"}, "activations": "minmax"}
    with pytest.raises(InvalidInput, match="repairs must have the form NAME or NAME,NAME, got ','"):
        actions(",", [])


@pytest.mark.parametrize(("text", "sites"), [("1", ["1"]), ("1,fc", ["1", "fc"]), ('["1"]', ["1"]), ("fc", ["fc"])])
def test_sites_are_names_even_where_these_are_numbers(text: str, sites: list[str]) -> None:
    (found,) = actions("put", [f"put.sites={text}"])
    assert found.options["sites"] == sites

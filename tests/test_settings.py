from __future__ import annotations

import inspect

import pytest

import bitwright as bw
from bitwright.errors import InvalidInput
from bitwright.search import refine
from bitwright.settings import DEFAULT_DROP, DEFAULTS, NAMED, Settings, names_of


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"bits": "4,x"}, r"^bits must be whole numbers with ',' between them, got '4,x'$"),
        ({"bits": "4,"}, r"^bits must be whole numbers with ',' between them, got '4,'$"),
        ({"bits": "4x8"}, r"^bits must be whole numbers with ',' between them, got '4x8'$"),
        ({"bits": (4, 1)}, r"^bits holds a value that must be greater than or equal to 2, got 1$"),
        ({"bits": ()}, r"^bits must be a list with at least one entry"),
        ({"repairs": "gptq,,bias"}, r"^repairs must be names with commas between them, or none, got 'gptq,,bias'$"),
        ({"repairs": 3}, r"^repairs must be a list, got 3$"),
        ({"cost": "bop"}, r"^cost must be one of size, bops, packed, got 'bop'; did you mean 'bops'\?$"),
        ({"points": 1e99}, r"^points must be a whole number, got 1e\+99$"),
        ({"points": "many"}, r"^points must be a whole number, got 'many'$"),
        ({"bits": []}, r"^bits must be a list with at least one entry, got \[\]$"),
        ({"target_drop": "little"}, r"^target_drop must be a number, got 'little'$"),
        ({"budget": [1]}, r"^budget holds a value that must be text, got 1$"),
        ({"task": 5}, r"^task must be the name of a task, module:Class, or a task, got 5$"),
        ({"quantizer": "weight-only?size=3"}, r"^quantizer must be given with an option that it has, group_size, got"),
        ({"quantizer": "linear?size=3"}, r"^quantizer must be given without options, got 'linear\?size=3'$"),
        ({"quantizer": "linear?size"}, r"^quantizer must be a name, or a name with options, NAME\?OPTION=VALUE, got"),
        ({"quantizer": 3}, r"^quantizer must be a name or a PT2E Quantizer, got 3$"),
        ({"loss": 3}, r"^loss must be a function, or module:function, got 3$"),
        ({"pointz": 3}, r"^unknown setting 'pointz'; did you mean 'points'\?$"),
        ({"seed": -1, "points": 1}, r"^points must be .*, got 1 \(and 1 more\)$"),
    ],
)
def test_a_bad_setting_is_one_line(given: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Settings(**given)
    assert "\n" not in str(caught.value)


def test_lists_are_read_from_text() -> None:
    made = Settings(bits=" 8, 2,8 ", repairs="bias, gptq", budget="size=60%,bops=30%")
    assert (made.bits, made.repairs) == ((2, 8), ("bias", "gptq"))
    assert made.budget == ("size=60%,bops=30%",)
    assert Settings(bits=4, repairs="none").model_dump(include={"bits", "repairs"}) == {"bits": (4,), "repairs": ()}


def test_the_python_functions_have_the_same_defaults() -> None:
    def default(function: object, name: str) -> object:
        return inspect.signature(function).parameters[name].default  # type: ignore[arg-type]

    assert default(bw.sensitivity, "bits") == DEFAULTS.bits == (2, 3, 4, 5, 6, 8)
    assert default(bw.sensitivity, "method") == DEFAULTS.method
    assert default(bw.search, "points") == DEFAULTS.points == 20
    assert default(bw.search, "cost") == DEFAULTS.cost
    assert default(refine, "rounds") == DEFAULTS.rounds == 4
    assert default(bw.search, "evaluations") is default(refine, "evaluations") is DEFAULTS.evaluations is None
    assert default(bw.calibrate, "ranges") == DEFAULTS.ranges == "mse"
    assert default(bw.debug, "target_drop") == DEFAULT_DROP == DEFAULTS.drop
    assert default(bw.export, "runtime") == DEFAULTS.runtime


def test_defaults_are_among_the_names() -> None:
    for name in NAMED:
        default = getattr(DEFAULTS, name, ())
        assert {*(default if isinstance(default, tuple) else [default])} - {None} <= set(names_of(name))

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

from bitwright.errors import BitwrightError, InvalidInput, InvalidPolicy
from bitwright.values import Budget, Candidate, Front, Policy, SensitivityTable
from bitwright.values.json import As, Value, parsed


@dataclass(frozen=True)
class Part(Value):
    numbers: tuple[float, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.numbers) > 3:
            raise InvalidPolicy(f"numbers must be at most 3, got {len(self.numbers)}")


@dataclass(frozen=True, eq=False)
class Whole(Value, kind="whole", version=4):
    name: str
    parts: tuple[Part, ...] = ()
    one: Part | None = None
    array: Annotated[Any, As(np.asarray, "an array")] = None
    options: Mapping[str, Any] = field(default_factory=dict)


def there_and_back(value: Whole) -> Whole:
    text = json.dumps(value.to_dict(), allow_nan=False)
    assert json.loads(value.to_json()) == json.loads(text)
    return Whole.from_json(text)


def test_nested_values_arrays_and_what_is_not_finite_go_there_and_back() -> None:
    part = Part((1.5, -math.inf, math.nan), {"a": 2})
    whole = Whole("w", (part, Part()), part, np.arange(6).reshape(2, 3), {"x": [1, {"y": None}], "z": (True, "s")})
    again = there_and_back(whole)
    assert again.parts[1] == Part()
    assert again.parts[0].numbers[:2] == again.one.numbers[:2] == part.numbers[:2]
    assert math.isnan(again.one.numbers[2])
    assert again.one.kinds == {"a": 2}
    assert np.array_equal(again.array, whole.array)
    assert again.options == {"x": [1, {"y": None}], "z": [True, "s"]}
    assert there_and_back(Whole("w", options={"f": np.float32(0.5), "t": np.zeros(2)})).options == {
        "f": 0.5,
        "t": [0, 0],
    }


def test_each_entry_and_each_row_is_a_line() -> None:
    text = Whole("w", (Part((1, 2)), Part()), None, np.eye(2)).to_json()
    assert text.splitlines() == [
        "{",
        '  "bitwright": "whole",',
        '  "version": 4,',
        '  "name": "w",',
        '  "parts": [',
        '    {"numbers": [1, 2], "kinds": {}},',
        '    {"numbers": [], "kinds": {}}',
        "  ],",
        '  "one": null,',
        '  "array": [',
        "    [1.0, 0.0],",
        "    [0.0, 1.0]",
        "  ],",
        '  "options": {}',
        "}",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 5}, r"^x: version must be 4, got 5; make it again"),
        ({"bitwright": "policy"}, "^x: bitwright must be 'whole', got 'policy'"),
        ({"name": None}, "^x: name must be a valid string, got None$"),
        ({"nam": "w"}, "^x: nam is not known here$"),
        ({"parts": [{}, {"numbers": [1, "y"]}]}, r"^x: parts\[1\]\.numbers\[1\] must be a valid number, .*, got 'y'$"),
        ({"parts": [{}, {"number": [1]}]}, r"^x: parts\[1\]\.number is not known here$"),
        ({"one": {"kinds": {"a.b": "c"}}}, r"^x: one\.kinds\.a\.b must be a valid integer, .*, got 'c'$"),
        ({"one": []}, r"^x: one must be an object, got \[\]$"),
        ({"array": [[1], [1, 2]]}, r"^x: array must be an array, got \[\[1\], \[1, 2\]\]$"),
    ],
)
def test_a_fault_is_one_line_with_place_and_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        Whole.from_dict({**Whole("w").to_dict(), **change}, "x")
    assert "\n" not in str(caught.value)


def test_missing_entries_and_other_things_than_objects() -> None:
    with pytest.raises(InvalidInput, match="^the whole: name is missing$"):
        Whole.from_dict({})
    with pytest.raises(InvalidInput, match="^the whole must be an object, got 3$"):
        Whole.from_json("3")
    with pytest.raises(InvalidInput, match="^the whole is not valid JSON: "):
        Whole.from_json("{")


def test_the_checks_of_a_value_keep_their_kind_and_get_a_place() -> None:
    with pytest.raises(InvalidPolicy, match=r"^the whole: parts\[0\]: numbers must be at most 3, got 4$"):
        Whole.from_dict({"name": "w", "parts": [{"numbers": [1, 2, 3, 4]}]})
    data = Front((Candidate(Policy({"a": 4}), 0.1, {}, (Budget("bops", 1.0),)),), "fit", "u", "bops").to_dict()
    data["candidates"][0]["policy"]["bits"]["a"] = 1
    with pytest.raises(InvalidPolicy, match=r"^the front: candidates\[0\]\.policy: bits must be .*got 1 for site 'a'"):
        Front.from_dict(data)
    table = SensitivityTable("fit", "u", ("a",), (4, 8), np.ones((1, 2))).to_dict()
    with pytest.raises(InvalidInput, match=r"^the sensitivity table: harm must have shape .* = \(1, 2\), got \(1, 1\)"):
        SensitivityTable.from_dict({**table, "harm": [[1.0]]})
    with pytest.raises(InvalidInput, match="the harm of site 'a' is not finite"):
        SensitivityTable.from_dict({**table, "harm": [["nan", "inf"]]})


def test_files(tmp_path) -> None:
    path = tmp_path / "new" / "whole.json"
    Whole("ü").save(path)
    assert Whole.load(path).name == "ü"
    path.write_text("[")
    with pytest.raises(BitwrightError, match=r"the whole file '.*whole.json' is not valid JSON"):
        Whole.load(path)


def test_pydantic_is_imported_when_something_is_read() -> None:
    code = """
import sys
from bitwright.values import Policy
text = Policy({"a": 4}).to_json()
assert "pydantic" not in sys.modules
assert Policy.from_json(text).bits == {"a": 4}
assert "pydantic" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "is not valid JSON: the key 'c' is there twice"),
        ('{"a": NaN}', "is not valid JSON: NaN is no number in JSON"),
        ('{"a": -Infinity}', "is not valid JSON: -Infinity is no number in JSON"),
        ('{"a": 1e999}', "is not valid JSON: the number 1e999 is too large"),
        (f'{{"a": {"9" * 5000}}}', "is not valid JSON: a number has 5000 digits, more than 40"),
        ('{"a": "\\ud800"}', "is not valid JSON: a part of a character is not text"),
        ("[" * 100_000, "is not valid JSON: "),
        ("[" * 65 + "]" * 65, "is more than 64 levels deep"),
    ],
)
def test_what_json_can_hold_but_no_file_of_ours(text: str, fault: str) -> None:
    with pytest.raises(InvalidPolicy) as caught:
        Policy.from_json(text)
    assert f"the policy {fault}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_within_the_bounds_is_read_as_it_is() -> None:
    text = '{"a": ["\\ud83d\\ude00", 1e308, ' + "9" * 40 + ', ""]}'
    assert parsed(text, "it") == {"a": ["😀", 1e308, int("9" * 40), ""]}
    assert parsed("[" * 64 + "]" * 64, "it")
    assert parsed("7", "it") == 7


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policy.json")
    with pytest.raises(InvalidPolicy, match="cannot read the policy file .*: it is not an ordinary file"):
        Policy.load(tmp_path / "policy.json")


def test_a_file_beyond_all_sizes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "policy.json").open("wb") as file:
        file.truncate((1 << 28) + 1)  # takes no room on the disk
    with pytest.raises(InvalidPolicy, match="it has 268,435,457 bytes, more than the 268,435,456 that are read"):
        Policy.load(tmp_path / "policy.json")

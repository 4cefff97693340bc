from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from bitwright.errors import InvalidPolicy, PolicyMismatch
from bitwright.values import FLOAT, Policy, Site, Sites, check_bits

SITES = Sites(
    (Site("x", "activation", (1, 4)), Site("a.weight", "weight", (2, 4)), Site("a", "activation", (1, 2))), (), "cafe"
)


@pytest.mark.parametrize("bits", [2, 16, np.int64(4), torch.tensor(8)])
def test_whole_numbers_of_any_library_are_bits(bits):
    value = check_bits(bits, "a")
    assert type(value) is int
    assert Policy({"a": bits}).bits == {"a": value}


@pytest.mark.parametrize("bits", [1, 0, -4, 17, 32])
def test_bits_out_of_range_name_site_and_value(bits):
    with pytest.raises(InvalidPolicy, match=f"bits must be between 2 and 16, got {bits} for site 'a.weight'.*float"):
        Policy({"a.weight": bits})


@pytest.mark.parametrize("bits", [4.0, "8", True, [4], 2.5, np.float64(4)])
def test_bits_that_are_no_whole_number(bits):
    with pytest.raises(InvalidPolicy, match="bits must be a whole number between 2 and 16, got .* for site 'a'"):
        Policy({"a": bits})


def test_float_sites_are_not_kept():
    policy = Policy({"x": 4, "a": None, "a.weight": "float"})
    assert dict(policy.bits) == {"x": 4}
    assert policy["a"] is None
    assert policy["x"] == 4
    assert (list(policy), len(policy)) == (["x"], 1)


def test_a_policy_cannot_be_changed_and_does_not_follow_its_source():
    source = {"x": 4}
    policy = Policy(source)
    source["x"] = 8
    assert policy["x"] == 4
    with pytest.raises(TypeError):
        policy.bits["x"] = 8
    with pytest.raises(AttributeError):
        policy.name = "other"


def test_policies_are_equal_when_their_bits_are():
    one, other = Policy({"x": 4, "a": 8}, "cafe", "one"), Policy({"a": 8, "x": 4}, "", "other")
    assert one == other
    assert hash(one) == hash(other)
    assert one != Policy({"x": 4, "a": 7})
    assert pickle.loads(pickle.dumps(one)) == one


def test_uniform():
    policy = Policy.uniform(SITES, weights=4, activations=8)
    assert dict(policy.bits) == {"x": 8, "a.weight": 4, "a": 8}
    assert (policy.name, policy.graph_hash) == ("W4A8", "cafe")
    assert dict(Policy.uniform(SITES, weights=4).bits) == {"a.weight": 4}
    assert Policy.uniform(SITES, weights=4).name == "W4Afloat"
    assert not Policy.uniform(SITES)
    assert dict(Policy.uniform(SITES.weights, weights=3).bits) == {"a.weight": 3}
    with pytest.raises(InvalidPolicy, match="got 1 for site 'every weight'"):
        Policy.uniform(SITES, weights=1)


def test_replaced():
    policy = Policy.uniform(SITES, 4, 8)
    changed = policy.replaced({"x": 4, "a": None}, "mine")
    assert dict(changed.bits) == {"x": 4, "a.weight": 4}
    assert (changed.name, changed.graph_hash) == ("mine", "cafe")


class TestChecks:
    def test_a_policy_that_fits(self):
        for policy in (FLOAT, Policy({"x": 4}), Policy({"x": 4}, "cafe"), Policy.uniform(SITES, 4, 4)):
            policy.check(SITES)
        Policy({"x": 4}, "beef").check(Sites(SITES.sites))  # sites of no graph

    def test_an_unknown_site(self):
        with pytest.raises(
            InvalidPolicy, match="names site 'a.wieght'.*3 sites of this graph; did you mean 'a.weight'"
        ):
            Policy({"a.wieght": 4}).check(SITES)

    def test_another_graph(self):
        with pytest.raises(PolicyMismatch, match="made for graph beef, this graph is cafe; .*remove 'graph'"):
            Policy({"x": 4}, "beef").check(SITES)


class TestFiles:
    def test_one_site_a_line_in_the_order_of_the_policy(self):
        text = Policy({"x": 8, "a.weight": 4}, "cafe", "W4A8").to_json()
        lines = text.splitlines()
        assert '    "x": 8,' in lines
        assert '    "a.weight": 4' in lines
        assert lines.index('    "x": 8,') < lines.index('    "a.weight": 4')
        assert json.loads(text)["bits"] == {"x": 8, "a.weight": 4}

    @pytest.mark.parametrize("policy", [Policy.uniform(SITES, 4, 8), FLOAT, Policy({'odd "name"\n': 4}, "", "ü")])
    def test_there_and_back(self, policy, tmp_path):
        policy.save(tmp_path / "policy.json")
        assert Policy.load(tmp_path / "policy.json") == policy
        assert Policy.from_json(policy.to_json()) == policy

    def test_float_may_be_written_out(self):
        assert dict(Policy.from_json('{"bits": {"x": 4, "a": "float", "b": null}}').bits) == {"x": 4}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "policy is not valid JSON"),
            ("[" * 100_000, "policy is not valid JSON"),
            ("[]", r"the policy must be an object, got \[\]"),
            ('{"name": "W4A4"}', "bits must be an object that maps site names to bit widths, got nothing"),
            ('{"bits": [4]}', r"bits must be an object that maps site names to bit widths, got \[4\]"),
            ('{"bits": {}, "graf": "cafe"}', "the policy: graf is not known here"),
            ('{"bits": {}, "version": 2}', "policy: version must be 1, got 2"),
            (
                '{"bits": {}, "bitwright": "recipe"}',
                "the policy: bitwright must be 'policy', got 'recipe'",
            ),
            ('{"bits": {"x": 1}}', "got 1 for site 'x'"),
            ('{"bits": {"x": 4.5}}', "got 4.5 for site 'x'"),
        ],
    )
    def test_unusable_text(self, text, message):
        with pytest.raises(InvalidPolicy, match=message):
            Policy.from_json(text)

    def test_a_file_that_is_not_there_or_no_text(self, tmp_path):
        with pytest.raises(InvalidPolicy, match=r"cannot read the policy file '.*gone.json': No such file"):
            Policy.load(tmp_path / "gone.json")
        (tmp_path / "noise.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(InvalidPolicy, match=r"the policy file '.*noise.json' is not a text file"):
            Policy.load(tmp_path / "noise.json")


@pytest.mark.parametrize("bits", [5, [5], "W4A4", {1: 4}, None])
def test_what_maps_no_names_to_widths(bits) -> None:
    with pytest.raises(InvalidPolicy, match="bits must be an object that maps site names to bit widths, got"):
        Policy(bits)

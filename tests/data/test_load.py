"""Data specs: the table of kinds, the options, and what is said about a wrong one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bitwright.data import DATA, load_data
from bitwright.data import load as data_module
from bitwright.errors import InvalidInput, MissingExtra


def test_digits_are_split_once_and_for_all():
    digits = load_data("digits")
    assert (len(digits.calibration), len(digits.evaluation)) == (1297, 500)
    assert digits.calibration.classes == digits.evaluation.classes == 10
    x, y = digits.calibration.read(0, 1297)
    assert x.shape == (1297, 1, 8, 8)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert torch.bincount(y).min() > 100
    assert digits.calibration.fingerprint() == load_data("digits").calibration.fingerprint()
    assert digits.calibration.fingerprint() != digits.evaluation.fingerprint()


def test_digits_parts_share_no_sample():
    from sklearn.datasets import load_digits

    digits = load_data("digits")
    read = torch.cat([part.read(0, len(part))[0] for part in (digits.calibration, digits.evaluation)])
    rows = {tuple(row) for row in (read.reshape(-1, 64) * 16).int().tolist()}
    original = load_digits().data.astype(int)
    assert len(read) == len(original)
    assert rows == {tuple(row) for row in original.tolist()}


def test_options_are_applied():
    both = load_data("digits?limit=20&shuffle=5&mean=0.5&std=0.25")
    assert (len(both.calibration), len(both.evaluation)) == (20, 20)
    plain = load_data("digits?limit=20&shuffle=5").calibration
    x, y = both.calibration.read(0, 20)
    torch.testing.assert_close(x, (plain.read(0, 20)[0] - 0.5) / 0.25)
    assert y.tolist() == plain.read(0, 20)[1].tolist()
    assert y.tolist() != load_data("digits?limit=20").calibration.read(0, 20)[1].tolist()
    unshuffled = load_data("digits?limit=20&shuffle=none").calibration
    assert unshuffled.fingerprint() == load_data("digits?limit=20").calibration.fingerprint()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cifr10:/tmp", r"unknown data 'cifr10'; did you mean 'cifar10'\? \(there are: digits, cifar10:DIR, "),
        ("zzz", r"unknown data 'zzz' \(there are"),
        ("", r"unknown data ''"),
        ("digits:/tmp", r"digits takes no path, got 'digits:/tmp'"),
        ("mnist", r"mnist needs a path: mnist:DIR"),
        ("npz:", r"npz needs a path: npz:FILE"),
        ("npz:/no/such.npz", r"no file at /no/such\.npz \(data 'npz:/no/such\.npz'\)"),
        ("cifar10:/no/such", r"no folder at /no/such"),
        ("digits?limt=3", r"unknown option 'limt' in 'digits\?limt=3'; did you mean 'limit'\? \(known: limit, shuffle"),
        ("digits?size=3", r"unknown option 'size'"),
        ("digits?limit", r"option 'limit' in 'digits\?limit' needs a value: limit=VALUE"),
        ("digits?limit=", r"needs a value"),
        ("digits?limit=3&limit=4", r"option 'limit' is given twice"),
        ("digits?limit=0", r"limit must be a whole number, at least 1, got '0' in 'digits\?limit=0'"),
        ("digits?limit=1.5", r"limit must be a whole number"),
        ("digits?shuffle=yes", r"shuffle must be a whole number, at least 0, got 'yes'"),
        ("digits?mean=a", r"mean must be numbers with commas between, got 'a'"),
        ("digits?mean=nan", r"mean must be numbers"),
        ("digits?std=0.5,0", r"std must be positive numbers with commas between, got '0\.5,0'"),
        ("imagefolder:/tmp?size=64&resize=32", r"resize must be a whole number, at least 64, got '32'"),
    ],
)
def test_wrong_specs(spec, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        load_data(spec)
    assert "\n" not in str(caught.value)


def test_every_kind_is_documented():
    assert list(DATA) == ["digits", "cifar10", "mnist", "imagefolder", "npz"]
    for source in DATA.values():
        assert f"| ``{source.form}`` |" in data_module.__doc__
    assert DATA["imagefolder"].options == {"size": 224, "resize": None}
    assert DATA["npz"].options == {}


def test_home_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.savez(tmp_path / "d.npz", x=np.zeros((4, 3), np.float32), y=np.arange(4))
    assert len(load_data("npz:~/d.npz").calibration) == 2


def test_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path):
    import sys

    from bitwright.data import digits

    digits._read.cache_clear()
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"scikit-learn.*pip install 'bitwright\[digits\]'"):
        load_data("digits")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtra, match=r"pillow.*pip install 'bitwright\[images\]'"):
        load_data(f"imagefolder:{tmp_path}")


def test_importing_the_zoo_imports_no_optional_package():
    import subprocess
    import sys

    code = (
        "import sys, bitwright.data; "
        "print([m for m in ('sklearn', 'PIL', 'safetensors', 'pandas', 'torchvision') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

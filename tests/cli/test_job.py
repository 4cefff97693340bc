from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.cli.job import JOB_FILE, Job, load_job, parse_pins
from bitwright.errors import InvalidJob


def write(folder: Path, text: str) -> Path:
    path = folder / JOB_FILE
    path.write_text(text, encoding="utf-8")
    return path


def test_every_key_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path,
        'model = "net:build"\nweights = "w.safetensors"\ntrust = true\ndata = "cifar10:d"\ninputs = [3, 32, 32]\n'
        "batch_size = 32\ncalibration_samples = 100\nscore_samples = 50\nholdout_samples = 40\n"
        "points = 9\nrounds = 2\nevaluations = 30\nminutes = 1.5\nranges = 'minmax'\nmethod = 'fit'\n"
        "bits = [8, 4, 4]\nbudget = ['bops=W4A4', 'size=60%']\ncost = 'size'\nquantizer = 'x86'\nruntime = 'none'\n"
        "returns = ['logits']\n"
        "output = 'out'\nseed = 3\nthreads = 2\ndevice = 'cuda'\ntarget_drop = 0.5\nrepairs = 'bias'\n"
        "task = 'dense?ignore=255'\nmetric = 'net:metric'\n"
        "[pins]\n'conv1.weight' = 8\nfc = 'float'\n",
    )
    job = load_job()
    assert job.model_dump() == {
        "model": "net:build",
        "weights": Path("w.safetensors"),
        "trust": True,
        "data": "cifar10:d",
        "inputs": (3, 32, 32),
        "batch_size": 32,
        "calibration_samples": 100,
        "score_samples": 50,
        "holdout_samples": 40,
        "points": 9,
        "rounds": 2,
        "evaluations": 30,
        "minutes": 1.5,
        "ranges": "minmax",
        "method": "fit",
        "bits": (4, 8),
        "budget": ("bops=W4A4", "size=60%"),
        "target_drop": 0.5,
        "repairs": ("bias",),
        "returns": ("logits",),
        "loss": None,
        "task": "dense?ignore=255",
        "metric": "net:metric",
        "cost": "size",
        "pins": {"conv1.weight": 8, "fc": "float"},
        "quantizer": "x86",
        "runtime": "none",
        "output": Path("out"),
        "seed": 3,
        "threads": 2,
        "device": "cuda",
    }


def test_no_job_file_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_job() == Job()
    assert load_job(model="a:b").model == "a:b"


def test_flags_win_and_pins_add_up(tmp_path: Path) -> None:
    path = write(tmp_path, "batch_size = 32\nseed = 1\n[pins]\na = 4\nb = 4\n")
    job = load_job(path, batch_size=8, pins=["b=8", "c=float"], bits="8,2", inputs="3x8x8", seed=None, budget=[])
    assert (job.batch_size, job.seed, job.bits, job.inputs) == (8, 1, (2, 8), (3, 8, 8))
    assert job.pins == {"a": 4, "b": 8, "c": "float"}


def test_paths_in_a_job_file_are_relative_to_it(tmp_path: Path) -> None:
    path = write(tmp_path, "weights='w.pt'\noutput='out'\ndata='cifar10:d?limit=5'\nmodel='m.pt2'\n")
    job = load_job(path)
    assert job.weights == tmp_path / "w.pt"
    assert job.output == tmp_path / "out"
    assert job.data == f"cifar10:{tmp_path}/d?limit=5"
    assert job.model == str(tmp_path / "m.pt2")
    assert load_job(path, output=Path("here")).output == Path("here")
    assert load_job(write(tmp_path, "data='digits'\nmodel='a:b'\noutput='/abs'")).output == Path("/abs")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed = 1\nbatchsize = 3",
            r"^unknown setting 'batchsize' \(.*bitwright.toml line 2\); did you mean 'batch_size'\?$",
        ),
        ("zzzzz = 3", r"^unknown setting 'zzzzz' .*line 1\); the settings are model, weights, trust, data"),
        ("bits = [4]\nbatchsize = 3\nseed = -1", r"^unknown setting 'batchsize'"),
        ("\n\nbatch_size = 0", r"^batch_size must be greater than or equal to 1, got 0 \(.*bitwright.toml line 3\)$"),
        ("batch_size = 'many'", r"^batch_size must be a whole number, got 'many' \(.*line 1\)$"),
        ("bits = [4, 1]", r"^bits holds a value that must be greater than or equal to 2, got 1 \("),
        ("threads = 1000000", r"^threads must be less than or equal to 1024, got 1000000 \("),
        ("bits = []", r"^bits must be a list with at least one entry, got \[\] \("),
        (
            "ranges = 'mean'",
            r"^ranges must be one of .*, mse, got 'mean' \(.*\); did you mean 'mse'\?$",
        ),
        ("[pins]\n'a.b' = 99", r"^pins\['a.b'\] must map sites to whole numbers of bits .*, got 99"),
        ("seed = -1\ntarget_drop = -1", r"^target_drop must be greater than or equal to 0, got -1 .*\(and 1 more\)$"),
        ("points = 1e99", r"^points must be a whole number, got 1e\+99 \(.*bitwright.toml line 1\)$"),
        ("points = 99999999999", r"^points must be less than or equal to 1000, got 99999999999 \("),
        (f"points = {'9' * 5000}", r"^the job file '.*' is not valid TOML: .*digits"),
        ("bits = " + "[" * 20_000, r"^the job file '.*' is not valid TOML: "),
        ("seed = 1\nmodel = a:b", r"^the job file '.*bitwright.toml' is not valid TOML: .*line 2"),
        ("[run]\nmodel = 'a'", r"^unknown setting 'run' \(.*line 1\)"),
    ],
)
def test_what_is_wrong_with_a_job_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidJob, match=message) as caught:
        load_job(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_what_is_wrong_with_a_flag_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match=r"batch_size must be .*, got 0 \(--batch-size\)$"):
        load_job(write(tmp_path, "batch_size = 3"), batch_size=0)


def test_a_missing_job_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidJob, match="cannot read the job file '.*none.toml': No such file"):
        load_job(tmp_path / "none.toml")


def test_required_settings() -> None:
    Job(model="a:b").require("model")
    with pytest.raises(InvalidJob, match=r"no data given: pass --data \(e.g. --data cifar10:DIR\) or set 'data' in"):
        Job(model="a:b").require("model", "data")


def test_pins_from_flags() -> None:
    assert parse_pins(["conv1.weight=8", "layer*=float", "a=b=4"]) == {"conv1.weight": 8, "layer*": "float", "a=b": 4}
    with pytest.raises(InvalidJob, match="a pin must have the form SITE=BITS or SITE=float, got 'conv1'"):
        parse_pins(["conv1"])


def test_a_job_written_as_a_file_reads_back(tmp_path: Path) -> None:
    job = Job(
        model="a:b",
        bits=(2, 4),
        budget=("size=60%",),
        pins={'x."y': 8, "z": "float"},
        inputs=(3, 8, 8),
        output=Path("/ö"),
    )
    text = job.to_toml()
    assert "seed" not in text
    assert load_job(write(tmp_path, text)) == job

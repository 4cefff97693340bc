"""A thousand malformed files: each is refused in one line or harmless; none hangs or raises a raw error."""

from __future__ import annotations

import hashlib
import json
import random
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.cli.job import load_job
from bitwright.errors import BitwrightError
from bitwright.report import RunReport, render, render_compare
from bitwright.report.terminal import compare_table, front_table, summary
from bitwright.values import Front, Policy, SensitivityTable
from bitwright.values.recipe import Recipe
from faults import mutations as mutate
from faults.small import captured, samples

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")]
MOST_SECONDS = 10.0
JOB = """
model = "net:build"
data = "digits"
budget = ["bops=W4A4"]
bits = [2, 4, 8]
points = 5
threads = 1
inputs = [1, 8, 8]
[pins]
"first.weight" = 8
"""


class Judge:
    """Uses files, and counts how that ends."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []

    def __call__(self, kind: str, use: Callable[[], object], must_refuse: str = "") -> None:
        begun = time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use()
            outcome = "accepted"
            if must_refuse:
                outcome = "WRONG"
                self.faults.append(f"{kind}: accepted: {must_refuse}")
        except BitwrightError as error:
            outcome = "refused"
            if "\n" in str(error):
                outcome = "RAW"
                self.faults.append(f"{kind}: more than one line: {error}")
        except Exception as error:
            outcome = "RAW"
            last = traceback.extract_tb(error.__traceback__)[-1]
            self.faults.append(f"{kind}: {type(error).__name__}: {str(error)[:150]} ({last.filename}:{last.lineno})")
        if time.monotonic() - begun > MOST_SECONDS:
            self.faults.append(f"{kind}: took {time.monotonic() - begun:.0f} s")
        self.counts[f"{kind} {outcome}"] += 1


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    made = Judge()
    yield made
    print(f"\n{request.node.name}:", ", ".join(f"{count} {what}" for what, count in sorted(made.counts.items())))


@pytest.fixture(scope="module")
def graph():
    return captured()


def use_policy(text: str, graph) -> None:
    policy = Policy.from_json(text)
    policy.check(graph.sites)
    Policy.from_json(policy.to_json())


def use_front(text: str, graph) -> None:
    front = Front.from_json(text)
    front_table(front, graph.sites)
    Front.from_json(front.to_json())


def use_table(text: str, graph) -> None:
    table = SensitivityTable.from_json(text)
    table.predict(Policy.uniform(graph.sites, table.bits[0], table.bits[-1]))
    table.checked().linearized(Policy.uniform(graph.sites, table.bits[0], table.bits[-1]))
    bw.search(graph.sites, table, points=2)
    SensitivityTable.from_json(table.to_json())


def use_report(text: str) -> None:
    report = RunReport.from_json(text)
    render(report)
    summary(report)
    compare_table([report, report], ["a", "b"])
    render_compare([report, report], ["a", "b"])
    RunReport.from_json(report.to_json())


def use_recipe(folder: Path, text: str, content: bytes | None, graph) -> None:
    path = folder / "recipe.json"
    if content is not None:
        data = json.loads(text)
        data["fitted"]["sha256"] = hashlib.sha256(content).hexdigest()
        (folder / data["fitted"]["file"]).write_bytes(content)
        text = json.dumps(data)
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    recipe = Recipe.load(path)
    made = bw.apply_recipe(graph.copy(), recipe, None if recipe.fitted is not None else [samples()[0]])
    with torch.no_grad():
        assert torch.isfinite(made(samples()[1][0][:4])).all(), "the network's outputs are not finite"


@pytest.mark.parametrize(("kind", "count"), [("policy", 150), ("front", 150), ("sensitivity", 150), ("report", 150)])
def test_json(kind: str, count: int, written: Path, judge: Judge, graph) -> None:
    text, draw = (written / f"{kind}.json").read_text(), random.Random(1)
    uses = {
        "policy": lambda made: use_policy(made, graph),
        "front": lambda made: use_front(made, graph),
        "sensitivity": lambda made: use_table(made, graph),
        "report": use_report,
    }
    uses[kind](text)
    for _ in range(count):
        made = mutate.broken_json(text, draw)
        judge(kind, lambda: uses[kind](made))  # noqa: B023 -- called at once
    judge(kind, lambda: uses[kind]("[" * 100_000), "deep")
    judge(kind, lambda: uses[kind](text.replace("{", '{"bitwright": "x", "bitwright": "y", ', 1)), "keys twice")
    assert not judge.faults, "\n".join(judge.faults)


def test_recipes(written: Path, judge: Judge, graph, tmp_path: Path) -> None:
    text, draw = (written / "recipe.json").read_text(), random.Random(2)
    (beside,) = written.glob("recipe-*.npz")
    content = beside.read_bytes()
    use_recipe(tmp_path, text, content, graph)
    for _ in range(120):
        made = mutate.broken_json(text, draw)
        judge("recipe", lambda: use_recipe(tmp_path, made, None, graph))  # noqa: B023
    for _ in range(60):
        data = mutate.broken_bytes(content, draw)
        judge("npz bytes", lambda: use_recipe(tmp_path, text, data, graph))  # noqa: B023
    for _ in range(150):
        data = mutate.broken_arrays(content, draw)
        judge("npz arrays", lambda: use_recipe(tmp_path, text, data, graph))  # noqa: B023
    bomb = mutate.bomb(400)
    judge("npz arrays", lambda: use_recipe(tmp_path, text, bomb, graph), "a bomb")
    for name, value in wrong_grids(content):
        data = mutate.with_arrays(content, **{name: value})
        judge("npz arrays", lambda: use_recipe(tmp_path, text, data, graph), f"{name}: {value}")  # noqa: B023
    assert not judge.faults, "\n".join(judge.faults)


def wrong_grids(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays that must never be taken: steps, zero points, grids and integers that no quantizer has."""
    import io

    with np.load(io.BytesIO(content)) as file:
        arrays = {name: file[name] for name in file.files if name != "bitwright"}
    seen = set()
    for name, array in arrays.items():
        kind = name.partition("/")[0]
        if kind in seen:
            continue
        seen.add(kind)
        wrong = {
            "scale": (0.0, -0.1, np.nan, np.inf),
            "zero": (0.5, 1e9, np.nan),
            "grid": (10**6,),
            "integers": (127,),
            "bias": (np.nan, np.inf),
            "weight": (np.nan, np.inf),
        }[kind]
        for value in wrong:
            made = array.copy() if array.dtype.kind == "f" or kind != "zero" else array.astype(np.float32)
            made.reshape(-1)[0] = value
            yield name, made
        yield name, np.concatenate([array.reshape(-1)] * 2)
        yield name, array.astype(np.complex64)
    assert {"scale", "zero", "grid", "integers"} <= seen


def test_jobs(judge: Judge, tmp_path: Path) -> None:
    draw, path = random.Random(3), tmp_path / "bitwright.toml"
    for _ in range(150):
        path.write_text(mutate.broken_text(JOB, draw), encoding="utf-8")
        judge("job", lambda: load_job(path).settings())
    for line in (
        "points = 1e99",
        "points = 99999999999999999999",
        f"points = {'9' * 5000}",
        "threads = 4097",
        "points = nan",
    ):
        path.write_text(f"{line}\n")
        judge("job", lambda: load_job(path).settings(), line)
    path.write_text("points = " + "[" * 20_000)
    judge("job", lambda: load_job(path).settings(), "deep")
    assert not judge.faults, "\n".join(judge.faults)

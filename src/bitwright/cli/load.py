"""From a job to what the commands work on: the model, the data, the graph, the session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.cli import specs
from bitwright.cli.job import Job
from bitwright.cli.progress import ProgressBars
from bitwright.errors import InvalidData, InvalidInput, first_line

if TYPE_CHECKING:
    from bitwright.data import DataSets
    from bitwright.graph import Graph
    from bitwright.session import Session
    from bitwright.store import RunStore
    from bitwright.values import Policy, Sites
    from bitwright.values.recipe import Recipe


def load_data(job: Job) -> DataSets:
    """The job's data."""
    job.require("data")
    return specs.load_data(job.data)


def load_model(job: Job) -> Any:
    """The job's model, on its device."""
    job.require("model")
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    model: Any = specs.load_model(job.model, job.weights, job.trust)
    if job.device != "cpu" and isinstance(model, torch.nn.Module):
        try:
            model = model.to(job.device)
        except (RuntimeError, AssertionError) as error:
            raise InvalidInput(
                f"the device '{job.device}' cannot be used: {first_line(error)}; take --device cpu"
            ) from None
    return model


def load_graph(job: Job) -> Graph:
    """The job's model, captured.

    Example inputs come from the data, or from ``inputs`` where the job has no data.
    """
    job.require("model")
    from bitwright.graph import capture

    model = load_model(job)
    own = getattr(model, "example_inputs", None)  # of an exported program
    if own and not job.data and job.inputs is None:
        return capture(model, own[0], quantizer=job.placement, returns=job.returns)
    return capture(model, example_inputs(job), quantizer=job.placement, returns=job.returns)


def example_inputs(job: Job) -> Any:
    """A batch of two samples, of the data or of zeros."""
    import torch

    from bitwright.data.inputs import as_tuple

    if job.data:
        data = load_data(job)
        inputs, _ = data.calibration.read(0, min(2, len(data.calibration)))
        check_shape(job, tuple(as_tuple(inputs)[0].shape[1:]), data.calibration.name)
        return inputs
    job.require("inputs")
    assert job.inputs is not None
    return torch.zeros(2, *job.inputs)


def check_shape(job: Job, shape: tuple[int, ...], name: str) -> None:
    """Raise :class:`InvalidData` where the job's ``inputs`` disagree with the data."""
    if job.inputs is not None and shape != job.inputs:
        raise InvalidData(
            f"inputs is {list(job.inputs)}, the samples of {name} have shape {list(shape)}; leave inputs out"
        )


@contextmanager
def opened(job: Job) -> Iterator[RunStore]:
    """The run store of a job, whose output folder is this command's alone."""
    from bitwright.cli.run import called
    from bitwright.store import RunStore, content_key

    job.require("model", "data")
    with RunStore(job.output) as store:
        store.own(content_key(job=job.echo(), folder=Path.cwd(), command=sys.argv[1:]), called())
        yield store


@contextmanager
def work(job: Job) -> Iterator[tuple[Session, RunStore]]:
    """The session of a job, its calibrated network with samples, under progress bars; and its run store."""
    from bitwright.session import Session, Steps

    with opened(job) as store, ProgressBars() as bars:
        yield Session.open(load_model(job), load_data(job), job.settings(), store, Steps(bars)), store


def load_policy(text: str | None, folder: Path, sites: Sites) -> Policy:
    """The policy that ``--policy`` names: a file, a uniform one such as ``W4A8``, ``float``, or the folder's own."""
    from bitwright.cost import uniform_policy
    from bitwright.store import folder as files
    from bitwright.values import Policy

    if text is None:
        files.read_output(folder, files.POLICY, "bitwright run")
        policy = Policy.load(folder / files.POLICY)
    elif not Path(text).exists() and (uniform := uniform_policy(text, sites)) is not None:
        policy = uniform
    else:
        policy = Policy.load(text)
    policy.check(sites)
    return policy


def load_recipe(path: str) -> Recipe:
    """The recipe that ``--recipe`` names; one line on stderr says where it has to be fitted again, and why."""
    import warnings

    from bitwright.cli.guard import say
    from bitwright.values.recipe import Recipe

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        recipe = Recipe.load(path)
    for warning in caught:
        say(f"note: {warning.message}")
    return recipe


def begin_with(recipe: str | None, policy: str | None) -> Recipe | None:
    """The recipe that a command goes on from; None where it begins with a policy."""
    if recipe is not None and policy is not None:
        raise InvalidInput(f"a recipe has its own policy; leave out --policy, got {policy}")
    return None if recipe is None else load_recipe(recipe)


def plain_recipe(job: Job, session: Session, policy: str | None, default: str) -> Recipe:
    """The policy of ``--policy``, or the output folder's, or the default, with nothing done to the network."""
    from bitwright.store import folder as files
    from bitwright.values.recipe import Recipe

    there = policy is not None or (job.output / files.POLICY).is_file()
    return Recipe(load_policy(policy if there else default, job.output, session.sites), job.ranges)


def tell_files(job: Job, fitted: Path | None, data: str, what: str = "fitted") -> None:
    """Where a recipe, what was fitted for it, and the figures were written."""
    from bitwright.store import folder as files

    print(f"\nFiles in {job.output}:")
    recipe = job.output / files.RECIPE
    print(f"  {files.RECIPE:<22}apply it: bitwright export --recipe {recipe} ... (also run and evaluate)")
    if fitted is not None:
        print(f"  {fitted.name:<22}what was {what} for it: keep the two together")
    print(f"  {data:<22}every figure as data")


def load_target(
    session: Session, policy: str | None, recipe: str | None, folder: Path, default: str | None = None
) -> tuple[Policy, Session]:
    """The policy that a command works on, and the plain session under the repairs that come with it."""
    wanted = begin_with(recipe, policy)
    if wanted is None:
        return load_policy(policy or default, folder, session.sites), session
    return wanted.policy, session.under(wanted)

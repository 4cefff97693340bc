"""Running the command line in this process, on the digits network with its weights in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitwright.cli.main import main


@pytest.fixture(scope="session")
def digits_flags(digits_model, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The flags that name the trained digits network and a part of its data."""
    path = tmp_path_factory.mktemp("weights") / "digits.pt"
    torch.save(digits_model.state_dict(), path)
    return ("--model", "bitwright.zoo:digits_net", "--weights", str(path), "--data", "digits?limit=120")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command in an empty current folder and gives its exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> int:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        return int(caught.value.code or 0)

    return call

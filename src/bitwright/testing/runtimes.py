"""The contract of a runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from bitwright.runtimes import RUNTIMES, Runtime, export
from bitwright.runtimes.runtime import ExportResult
from bitwright.testing.samples import Described, batches, calibrated
from bitwright.values import FLOAT, Policy


class RuntimeContract(Described[Runtime]):
    """What every runtime must do; derive from it and write :meth:`make`, whose runtime is registered.

    Attributes:
        steps: by how many steps of the last quantized value single outputs may differ from the simulation where the
            runtime optimises nothing; 0: not at all but for the rounding of float sums.
    """

    steps: float = 0.0

    def _exported(self, folder: str, policy: Policy) -> ExportResult:
        path = Path(folder) / f"model{self.make().suffix}"
        return export(calibrated(), path, runtime=self.make().name, policy=policy)

    def test_it_says_what_it_is(self) -> None:
        """Name, sentence, the name in sentences, version, suffix."""
        runtime = self.make()
        super().test_it_says_what_it_is()
        assert RUNTIMES[runtime.name] is runtime, "it must be registered"
        assert runtime.version().startswith(runtime.called), "the version starts with the name in sentences"
        assert runtime.suffix.startswith("."), f"a suffix starts with a dot, got '{runtime.suffix}'"

    def test_the_file_says_what_it_holds(self) -> None:
        """Its size, the graph and the policy."""
        graph = calibrated()
        policy = Policy.uniform(graph.sites, 4, 8)
        with tempfile.TemporaryDirectory() as folder:
            found = self._exported(folder, policy)
            assert found.bytes == found.path.stat().st_size
            assert found.float_bytes > 0
            metadata = self.make().load(found.path).metadata
        assert metadata["bitwright.graph"] == graph.graph_hash
        assert Policy.from_json(metadata["bitwright.policy"]).bits == policy.bits

    def test_it_gives_what_was_simulated(self) -> None:
        """In float and under policies, where it optimises nothing; with optimisations nearly always the same class."""
        graph = calibrated()
        for policy in (FLOAT, Policy.uniform(graph.sites, 8, 8), Policy.uniform(graph.sites, 3, 6)):
            with tempfile.TemporaryDirectory() as folder, torch.no_grad():
                found = self._exported(folder, policy)
                exact, fused = (self.make().load(found.path, optimised) for optimised in (False, True))
                for inputs, _ in batches():
                    simulated = graph.apply(policy)(inputs)
                    outputs = torch.from_numpy(exact(inputs)[0])
                    allowed = (1e-5 + self.steps * 2.0**-6) * float(simulated.abs().max())
                    difference = float((outputs - simulated).abs().max())
                    assert difference <= allowed, f"outputs differ by {difference:.3g} under {policy.name or 'float'}"
                    agree = float((torch.from_numpy(fused(inputs)[0]).argmax(1) == simulated.argmax(1)).float().mean())
                    assert agree >= 0.9, f"with optimisations only {agree:.0%} of the predictions agree"

    def test_random_inputs_can_be_run(self) -> None:
        """At several batch sizes."""
        with tempfile.TemporaryDirectory() as folder:
            session = self.make().load(self._exported(folder, Policy.uniform(calibrated().sites, 8, 8)).path)
            for batch in (1, 5):
                assert len(session(*session.random_inputs(batch))[0]) == batch

    def test_what_it_stores(self) -> None:
        """More bits never take fewer bytes, none take more than float, and the file holds at least that."""
        graph, runtime = calibrated(), self.make()
        widths = (2, 3, 4, 5, 6, 7, 8, 16)
        for site in graph.sites.weights:
            found = [runtime.weight_bytes(site, bits) for bits in widths]
            assert found == sorted(found), f"{site.name} takes {found} bytes at {widths} bits"
            assert found[0] >= site.numel * 2 / 8, "no fewer bytes than bits"
        for bits in (3, 8):
            stored = sum(runtime.weight_bytes(site, bits) for site in graph.sites.weights)
            with tempfile.TemporaryDirectory() as folder:
                size = self._exported(folder, Policy.uniform(graph.sites, bits, 8)).bytes
            assert stored <= size, f"{stored} bytes of weights are more than the file's {size}"

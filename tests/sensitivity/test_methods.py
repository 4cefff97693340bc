from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bitwright.errors import InvalidData, InvalidInput, InvalidPolicy
from bitwright.graph import calibrate, capture
from bitwright.sensitivity import sensitivities, sensitivity
from bitwright.sensitivity.gradients import gradient_moments
from bitwright.sensitivity.noise import noise_of_sites
from bitwright.sensitivity.rounding_errors import RoundingErrors
from bitwright.tasks import Classification
from bitwright.values import FLOAT, Policy
from norms import squared_norms


@pytest.fixture
def data(digits_data):
    return digits_data[0]


def margins(outputs):
    return Classification().margin(outputs)


def squared_error(outputs, targets):
    return 0.5 * (outputs[:, 0] - targets).square()


@pytest.fixture
def regression():
    """y = w x: the Fisher traces of weight and input are known."""
    torch.manual_seed(0)
    model = nn.Linear(5, 1, bias=False).double().eval()
    inputs, targets = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, dtype=torch.float64)
    graph = calibrate(capture(model, inputs[:2]), [(inputs, targets)])
    return graph, inputs, targets, model.weight.detach()


class TestFit:
    def test_linear_regression_has_the_traces_of_the_textbook(self, regression):
        """grad_w l = r x and grad_x l = r w, with the residual r = w x - y."""
        graph, inputs, targets, weight = regression
        residual = (inputs @ weight.T)[:, 0] - targets
        by_weight = residual.square() * inputs.square().sum(1)
        by_input = residual.square() * weight.square().sum()
        table = sensitivity(graph, [(inputs, targets)], "fit", (2, 4), noise="measured", loss=squared_error)
        assert table.sites == ("input", "weight")
        expected = np.array([float(by_input.mean()), float(by_weight.mean())])
        np.testing.assert_allclose(table.parts["trace"], expected, rtol=1e-12)
        errors = np.array([float(v.std() / 40**0.5) for v in (by_input, by_weight)])
        np.testing.assert_allclose(table.parts["trace_standard_error"], errors, rtol=1e-12)
        noise = noise_of_sites(graph, (2, 4))
        np.testing.assert_allclose(table.harm, expected[:, None] * noise, rtol=1e-12)
        np.testing.assert_allclose(table.standard_error, errors[:, None] * noise, rtol=1e-12)
        assert table.samples == 40

    def test_the_uniform_model_is_step_squared_over_12(self, regression):
        graph, inputs, targets, _ = regression
        table = sensitivity(graph, [(inputs, targets)], "fit", (3,), noise="uniform", loss=squared_error)
        steps = [float(q.grid(3).scale.double().square().mean()) for q in graph.quantizers.values()]
        np.testing.assert_allclose(table.harm[:, 0], table.parts["trace"] * np.array(steps) / 12, rtol=1e-12)
        assert table.notes == ("noise model: uniform",)

    def test_a_policy_costs_the_sum_over_its_sites(self, digits_graph, data):
        table = sensitivity(digits_graph, [data], "fit", (3, 8), samples=64)
        policy = Policy({"conv1.weight": 3, "layer1.relu2": 8})
        assert table.predict(policy) == pytest.approx(table.at("conv1.weight", 3) + table.at("layer1.relu2", 8))
        assert table.predict(FLOAT) == 0

    def test_a_mean_of_gradients_would_be_another_number(self, digits_graph, data):
        """The trap: the norm of the mean gradient is far smaller than the mean of the norms."""
        inputs, targets = data[0][:64], data[1][:64]
        (found,) = squared_norms(
            digits_graph, (inputs,), lambda o: functional.cross_entropy(o, targets, reduction="none")
        )
        weight = digits_graph.weight("linear.weight")
        weight.requires_grad_(True)
        loss = functional.cross_entropy(digits_graph(inputs), targets)
        (mean,) = torch.autograd.grad(loss, [weight])
        weight.requires_grad_(False)
        column = digits_graph.sites.names.index("linear.weight")
        assert float(found[:, column].mean()) > 3 * float(mean.square().sum())


class TestMarginFit:
    def test_margins_are_differences_of_the_two_largest_logits(self):
        assert margins(torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.0, 0.0]])).tolist() == [2.0, 0.0]

    def test_the_prediction_is_the_formula(self, digits_graph, data):
        inputs = data[0][:40]
        table = sensitivity(
            digits_graph, [(inputs, None)], "margin-fit", (2, 4), noise="measured", task="classification"
        )
        with torch.no_grad():
            m = margins(digits_graph(inputs)).double().numpy()
        norms = squared_norms(digits_graph, (inputs,), margins)[0].numpy()
        noise = noise_of_sites(digits_graph, (2, 4))
        policy = Policy.uniform(digits_graph.sites, 2, 4)
        columns = [0 if s.kind == "weight" else 1 for s in digits_graph.sites]
        variance = norms @ noise[np.arange(len(columns)), columns]
        chance = 0.5 * torch.erfc(torch.tensor(m / np.sqrt(2 * variance)))
        assert table.predict(policy) == pytest.approx(float(chance.mean()), rel=1e-4)
        assert table.predict(FLOAT) == 0
        assert 0 < table.predict(policy) < 1

    def test_first_order_products_are_the_measured_change_of_the_margin_at_8_bits(self, digits_graph, data):
        inputs = data[0][:128]
        graph = digits_graph
        with torch.no_grad():
            exact = graph(inputs)
        top = exact.topk(2, dim=1).indices

        def margin(outputs):
            picked = outputs.gather(1, top)
            return picked[:, 0] - picked[:, 1]

        (moments,) = gradient_moments(graph, (inputs,), [margin], RoundingErrors(graph, (8,)))
        predicted = moments.products[:, :, 0]
        measured = []
        with torch.no_grad():
            for site in graph.sites:
                with graph.applied(Policy({site.name: 8})):
                    measured.append((margin(graph(inputs)) - margin(exact)).double())
        measured = torch.stack(measured, 1)
        for column, site in enumerate(graph.sites.names):
            pair = torch.stack([predicted[:, column], measured[:, column]])
            assert torch.corrcoef(pair)[0, 1] > 0.9, site
            slope = float((pair[0] * pair[1]).sum() / pair[0].square().sum())
            assert slope == pytest.approx(1.0, abs=0.15), site

    def test_harmful_variances_of_white_errors_are_those_of_the_measured_model(self):
        from bitwright.sensitivity.margin_fit import harmful

        generator = np.random.default_rng(0)
        margin = np.ones(200_000)
        products = generator.normal(0, 0.3, (200_000, 1, 1))
        assert harmful(products, margin) == pytest.approx(np.array([[0.09]]), rel=0.02)

    def test_the_projected_prediction_is_the_formula(self, brute_products):
        """From products of single-sample backward passes, in float64."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double().eval()
        inputs = torch.randn(12, 6, dtype=torch.float64)
        graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
        bits = (2, 3, 8)
        table = sensitivity(graph, [(inputs, None)], "margin-fit", bits, task="classification")
        m = margins(model(inputs)).detach().numpy()
        products = brute_products(graph, (inputs,), lambda outputs, n: margins(outputs), bits).numpy()
        variances, shares = np.zeros((len(table.sites), 3)), (products**2).sum(2)
        for s in range(len(table.sites)):
            for b in range(3):
                change = products[:, s, b]
                rescaling = min((m @ change) / (m @ m), 0) * m
                variances[s, b] = np.mean(
                    [2 * min(max(c, c - r), 0) ** 2 for c, r in zip(change, rescaling, strict=True)]
                )
        variances = np.maximum.accumulate(variances[:, ::-1], axis=1)[:, ::-1]
        policy = Policy({site: bits[i % 3] for i, site in enumerate(table.sites)})
        columns = [i % 3 for i in range(len(table.sites))]
        variance = (shares / shares.mean(0)) @ variances[np.arange(len(columns)), columns]
        chance = 0.5 * torch.erfc(torch.tensor(m / np.sqrt(2 * variance)))
        assert table.predict(policy) == pytest.approx(float(chance.mean()), rel=1e-4)

    def test_it_needs_no_targets(self, digits_graph, data):
        with_targets = sensitivity(digits_graph, [(data[0][:40], data[1][:40])], bits=(4,))
        without = sensitivity(digits_graph, [data[0][:40]], bits=(4,), task="classification")
        np.testing.assert_array_equal(with_targets.harm, without.harm)


class TestSampling:
    @pytest.mark.parametrize("method", ["fit", "margin-fit"])
    def test_four_times_the_samples_halve_the_standard_error(self, method, digits_graph, data):
        # With the right classes the one sample that the network is least sure of holds most of FIT's traces, and the
        # error depends on whether it is among the few; with wrong ones every sample has its part.
        wrong = [(data[0], (data[1] + 1) % 10)]
        few, many = (sensitivity(digits_graph, wrong, method, (8,), samples=n, noise="measured") for n in (128, 512))
        assert (few.samples, many.samples) == (128, 512)
        relative = [t.parts["trace_standard_error"] / t.parts["trace"] for t in (few, many)]
        ratio = np.median(relative[0] / relative[1])
        assert 1.4 < ratio < 2.9
        # And the traces of the few are off by about as much as they say.
        off = (few.parts["trace"] - many.parts["trace"]) / few.parts["trace_standard_error"]
        assert np.median(np.abs(off)) < 2.5

    def test_a_tolerance_stops_early_and_is_met(self, digits_graph, data):
        table = sensitivity(digits_graph, [data], "margin-fit", (4,), tolerance=0.15)
        assert 32 <= table.samples < 512
        assert (table.parts["trace_standard_error"] <= 0.15 * table.parts["trace"]).all()
        strict = sensitivity(digits_graph, [data], "margin-fit", (4,), tolerance=1e-9)
        assert strict.samples == 512

    def test_the_split_into_batches_does_not_matter(self, digits_graph, data):
        inputs, targets = data[0][:100], data[1][:100]
        whole = sensitivities(digits_graph, [(inputs, targets)], ("fit", "margin-fit"), (4,))
        parts = sensitivities(
            digits_graph, zip(inputs.split(7), targets.split(7), strict=True), ("fit", "margin-fit"), (4,)
        )
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_allclose(one.harm, other.harm, rtol=1e-4)
            assert one.samples == other.samples == 100

    def test_methods_together_give_what_each_gives_alone(self, digits_graph, data):
        batch = [(data[0][:64], data[1][:64])]
        together = sensitivities(digits_graph, batch, ("margin-fit", "fit", "noise"), (3, 8))
        assert [t.method for t in together] == ["margin-fit", "fit", "noise"]
        for table in together:
            alone = sensitivity(digits_graph, batch, table.method, (3, 8))
            np.testing.assert_allclose(table.harm, alone.harm, rtol=1e-3)  # sums in another order

    def test_calls_leave_nothing_behind(self, digits_graph, digits_model, data):
        before = Policy.uniform(digits_graph.sites, 5, 5)
        digits_graph.apply(before)
        first = sensitivity(digits_graph, [data], "fit", (4,), samples=64)
        second = sensitivity(digits_graph, [data], "fit", (4,), samples=64)
        np.testing.assert_array_equal(first.harm, second.harm)
        assert digits_graph.policy == before
        assert all(p.grad is None for p in digits_graph.module.parameters())

    def test_more_bits_harm_less(self, digits_graph, data):
        for table in sensitivities(digits_graph, [data], ("fit", "margin-fit", "noise"), (2, 4, 8), samples=64):
            fewer, more = table.harm[:, :-1], table.harm[:, 1:]
            # Where no margin is near 0, Margin-FIT finds no harm at all.
            assert ((more < fewer) | (more == 0)).mean() > 0.95, table.method

    def test_progress_counts_samples(self, digits_graph, data):
        seen = []
        sensitivity(digits_graph, [data], "fit", (4,), samples=70, progress=lambda *a: seen.append(a))
        assert seen == [(32, 70), (64, 70), (70, 70)]

    def test_widths_come_back_sorted_each_once(self, digits_graph, data):
        assert sensitivity(digits_graph, [data], "fit", (8, 2, 8), samples=32).bits == (2, 8)

    def test_dense_outputs_average_over_positions(self):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 1)).eval()
        inputs, targets = torch.randn(6, 3, 4, 4), torch.randint(0, 5, (6, 4, 4))
        graph = calibrate(capture(model, inputs[:2]), [(inputs, targets)])
        table = sensitivity(graph, [(inputs, targets)], "fit", (4,))
        scaled = sensitivity(
            graph,
            [(inputs, targets)],
            "fit",
            (4,),
            loss=lambda o, t: functional.cross_entropy(o, t, reduction="none") * 2,
        )
        np.testing.assert_allclose(scaled.harm, 4 * table.harm, rtol=1e-4)


class TestBadInput:
    def test_a_mean_loss(self, digits_graph, data):
        with pytest.raises(InvalidInput, match=r"loss must return one number per sample.*reduction='none'"):
            sensitivity(digits_graph, [data], "fit", loss=functional.cross_entropy)

    def test_margins_of_dense_outputs(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
        inputs = torch.randn(4, 3, 4, 4)
        graph = calibrate(capture(model, inputs[:2]), [(inputs, None)])
        with pytest.raises(InvalidInput, match=r"margin-fit needs one decision for each sample.*use method='fit'"):
            sensitivity(graph, [(inputs, None)], task="dense")

    def test_one_sample(self, digits_graph, data):
        with pytest.raises(InvalidData, match="at least 2 samples to estimate a standard error, got 1"):
            sensitivity(digits_graph, [(data[0][:1], data[1][:1])], "fit")

    def test_no_data(self, digits_graph):
        with pytest.raises(InvalidData, match="batches are empty: sensitivity needs"):
            sensitivity(digits_graph, [])

    def test_no_targets_for_fit(self, digits_graph, data):
        with pytest.raises(InvalidData, match="targets are needed here"):
            sensitivity(digits_graph, [data[0]], "fit", task="classification")

    def test_targets_outside_the_classes(self, digits_graph, data):
        with pytest.raises(InvalidData, match="between 0 and 9"):
            sensitivity(digits_graph, [(data[0][:4], data[1][:4] + 10)], "fit")

    def test_nan_in_the_data(self, digits_graph, data):
        with pytest.raises(InvalidData, match="NaN or infinite"):
            sensitivity(digits_graph, [(data[0][:4] * float("nan"), data[1][:4])], "fit")

    def test_an_unknown_method(self, digits_graph, data):
        with pytest.raises(InvalidInput, match=r"method must be one of fit, margin-fit.*got 'marginfit'; did you mean"):
            sensitivity(digits_graph, [data], "marginfit")

    def test_an_unknown_noise_model(self, digits_graph, data):
        with pytest.raises(InvalidInput, match="noise must be one of .*got 'measure'; did you mean 'measured'"):
            sensitivity(digits_graph, [data], noise="measure")

    @pytest.mark.parametrize("bits", [(1,), (4, 17), (0,)])
    def test_bits_out_of_range(self, bits, digits_graph, data):
        with pytest.raises(InvalidPolicy, match="bits must be between 2 and 16"):
            sensitivity(digits_graph, [data], bits=bits)

    def test_no_bits(self, digits_graph, data):
        with pytest.raises(InvalidInput, match="bits must name at least one width"):
            sensitivity(digits_graph, [data], bits=())

    def test_not_calibrated(self, digits_model, data):
        graph = capture(digits_model, data[0][:2])
        with pytest.raises(InvalidInput, match=r"has no range yet; call bw.calibrate"):
            sensitivity(graph, [data])

    def test_a_loss_that_is_not_finite(self, digits_graph, data):
        with pytest.raises(InvalidData, match="the gradients of fit at site .* are not finite"):
            sensitivity(digits_graph, [data], "fit", loss=lambda o, t: (o[:, 0] * 0).sqrt(), samples=32)

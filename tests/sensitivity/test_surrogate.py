from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidData, InvalidInput, PolicyMismatch
from bitwright.sensitivity.surrogate import logit_surrogate
from bitwright.tasks import evaluate


@pytest.fixture(scope="module")
def linear_network():
    """Linear from end to end: changes by its weights' sites add up up to their products."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)).eval()
    x, y = torch.randn(40, 6), torch.randint(4, (40,))
    graph = bw.capture(model, x)
    return bw.calibrate(graph, [(x, y)]), [(x[:25], y[:25]), (x[25:], y[25:])]


def test_one_site_is_exact_and_sums_are_sums(linear_network):
    graph, data = linear_network
    found = logit_surrogate(graph, data, (3, 8))
    x = torch.cat([x for x, _ in data])
    for name in graph.sites.names:
        with graph.applied(bw.Policy({name: 3})):
            alone = graph(x).double().numpy()
        np.testing.assert_allclose(found.predicted_logits(bw.Policy({name: 3})), alone, atol=1e-6)
        verdict = evaluate(graph, bw.Policy({name: 3}), data, resamples=100)
        predicted = found.predict(bw.Policy({name: 3}))
        assert predicted.kl == pytest.approx(verdict.kl.value, rel=1e-4)
        assert predicted.loss == pytest.approx(verdict.loss.value, rel=1e-5)
        assert predicted.agreement == verdict.agreement.value
        assert predicted.accuracy == verdict.accuracy.value
    first, last = graph.sites.names[0], graph.sites.names[-1]
    both = bw.Policy({first: 3, last: 8})
    expected = found.logits + found.changes[0, 0] + found.changes[-1, 1]
    np.testing.assert_allclose(found.predicted_logits(both), expected, atol=1e-6)


def test_predictions_order_policies(digits_graph, digits_data):
    inputs, targets = digits_data[0]
    data = [(inputs[:128], targets[:128])]
    found = logit_surrogate(digits_graph, data, (3, 4, 8))
    rng = np.random.default_rng(0)
    policies = [bw.Policy({name: int(rng.choice([3, 4, 8])) for name in digits_graph.sites.names}) for _ in range(20)]
    from scipy.stats import spearmanr

    measured = [evaluate(digits_graph, policy, data, resamples=100).kl.value for policy in policies]
    assert spearmanr([found.predict(policy).kl for policy in policies], measured).statistic > 0.6


def test_float_predicts_nothing_lost_and_targets_may_be_missing(linear_network):
    graph, data = linear_network
    found = logit_surrogate(graph, [x for x, _ in data], (4,), samples=30)
    assert len(found.logits) == 30
    assert found.predict(bw.FLOAT) == found.predict(bw.Policy({}))
    assert found.predict(bw.FLOAT).kl == 0
    assert found.predict(bw.FLOAT).agreement == 1
    assert found.predict(bw.FLOAT).accuracy is None


def test_bad_input_is_one_line(linear_network):
    graph, data = linear_network
    found = logit_surrogate(graph, data, (4,))
    with pytest.raises(InvalidInput, match=r"bits \(4,\), not 5 for site"):
        found.predict(bw.Policy({graph.sites.names[0]: 5}))
    with pytest.raises(InvalidInput, match=r"no site '0.weigth'; did you mean '0.weight'"):
        found.predict(bw.Policy({"0.weigth": 4}))
    with pytest.raises(PolicyMismatch, match="made for graph other"):
        found.predict(bw.Policy({}, "other"))
    sites = len(graph.sites)
    with pytest.raises(InvalidInput, match="ask for samples=10 or fewer widths"):
        logit_surrogate(graph, data, (4,), kept_bytes=4 * sites * 4 * 10)
    with pytest.raises(InvalidData, match="the surrogate needs at least one batch"):
        logit_surrogate(graph, [])
    conv = bw.capture(nn.Conv2d(1, 3, 1).eval(), torch.randn(2, 1, 4, 4))
    with pytest.raises(InvalidInput, match=r"got shape \(2, 3, 4, 4\)"):
        logit_surrogate(bw.calibrate(conv, [torch.randn(2, 1, 4, 4)]), [torch.randn(2, 1, 4, 4)])

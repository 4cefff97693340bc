"""Attribution against brute force in float64, where its stage lies, and what its pieces do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidInput
from bitwright.gmpq.attribution import (
    Explainer,
    class_activation,
    entropy,
    grouped,
    imitation_distance,
    last_stage,
    normalized,
)
from bitwright.graph.walk import Walk
from bitwright.quantizers.mixture import Mixture
from bitwright.tasks import Classification, Detection
from bitwright.zoo import grid_detector, resnet20, unet

WIDTHS = (2, 3, 6)


def best(outputs):
    return outputs.max(1).values


@pytest.fixture
def images():
    return torch.randn(5, 3, 10, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.fixture
def network():
    torch.manual_seed(2)
    front = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU()
    return nn.Sequential(*front, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7)).double().eval()


@pytest.fixture
def supernet(network, images):
    graph = bw.calibrate(bw.capture(network, images[:2]), [(images, None)])
    graph.apply(bw.Policy.uniform(graph.sites, 6, 6))
    generator = torch.Generator().manual_seed(7)
    for name in graph.sites.names:
        mixture = Mixture(graph.quantizers[name], WIDTHS).double()
        with torch.no_grad():
            mixture.alpha.normal_(generator=generator)
        graph.put(name, mixture)
    return graph


def test_the_map_is_that_of_a_loop_over_samples_and_channels(network, images):
    found = Explainer(bw.capture(network, images[:2])).floating((images,), best)
    for image, mine in zip(images, found.map, strict=True):
        features = network[:4](image[None]).detach().requires_grad_()
        best(network[4:](features)).sum().backward()
        wanted = torch.zeros(5, 5, dtype=torch.float64)
        for channel in range(6):
            wanted += features.grad[0, channel].mean() * features.detach()[0, channel]
        torch.testing.assert_close(mine, wanted.clamp_min(0), rtol=1e-11, atol=1e-13)
        assert float(mine.max()) > 0
    torch.testing.assert_close(found.outputs, network(images).detach())


def test_it_can_be_learned_from(supernet, images):
    """Gradients against central differences, for shares behind which nothing is rounded on the way to the map."""
    explainer, weights = Explainer(supernet), torch.rand(5, 5, 5, dtype=torch.float64)

    def total():
        return (explainer((images,), best).map * weights).sum()

    total().backward()
    for name in (supernet.sites.activations[-2].name, "6.weight"):
        alpha = supernet.quantizers[name].alpha
        for i in range(len(WIDTHS)):
            ends = []
            for step in (1e-5, -1e-5, 0.0):
                with torch.no_grad():
                    alpha[i] += step - (ends[-1][1] if ends else 0.0)
                ends.append((float(total().detach()), step))
            wanted = (ends[0][0] - ends[1][0]) / 2e-5
            assert float(alpha.grad[i]) == pytest.approx(wanted, rel=1e-5, abs=1e-8)
        assert float(alpha.grad.abs().max()) > 1e-4
    moved = [mixture.moves.grad for mixture in supernet.quantizers.values() if mixture.moves is not None]
    assert all(float(gradient.abs().max()) > 0 for gradient in moved)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.block(tokens).mean(1))


@pytest.mark.parametrize(
    ("make", "shape", "name", "channels", "size"),
    [
        (resnet20, (3, 32, 32), "layer3.2.relu2", 64, (8, 8)),
        (grid_detector, (1, 64, 64), "neck.2", 64, (8, 8)),
        (unet, (3, 64, 64), None, 16, (64, 64)),
        (Attention, (3, 16, 16), "block.norm2", 8, (16,)),
    ],
)
def test_the_stage_is_the_last_place_that_everything_passes(make, shape, name, channels, size):
    inputs = torch.randn(2, *shape)
    graph = bw.capture(make().eval(), inputs)
    explainer = Explainer(graph)
    if name is not None:
        assert explainer.stage.name == name
    assert explainer.stage.tokens == (make is Attention)
    task = Classification() if make in (resnet20, Attention) else Detection(decode=lambda outputs: [])
    found = explainer.floating(graph.arranged((inputs,)), lambda out: task.explained(out, out))
    values, features = explainer._up_to((inputs,), {})
    assert explainer.stage.places(features).shape == (2, channels, *size)
    assert found.map.shape == (2, *size)


def test_a_network_without_places_is_refused():
    graph = bw.capture(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(2, 8))
    with pytest.raises(InvalidInput, match="no stage whose attribution could be compared.*method='loss'"):
        last_stage(graph, Walk(graph.module))


def test_the_best_box_is_explained():
    task = Detection(decode=lambda outputs: [], scores="classes")
    floats = {"boxes": torch.full((2, 4), 9.0), "classes": torch.tensor([[0.0, 3.0], [2.0, 1.0]])}
    own = {"boxes": torch.zeros(2, 4), "classes": torch.tensor([[5.0, 6.0], [7.0, 8.0]])}
    assert task.explained(own, floats).tolist() == [6.0, 7.0]
    with pytest.raises(InvalidInput, match="must be one of boxes, classes, got 'none'"):
        Detection(decode=lambda outputs: [], scores="none").explained(own, floats)


def test_the_class_that_float_predicts_is_explained():
    floats, own = torch.tensor([[0.0, 3.0], [2.0, 1.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    assert Classification().explained(own, floats).tolist() == [6.0, 7.0]


def test_grad_cam_leaves_out_what_speaks_against():
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, 1.0]]]])
    slopes = torch.tensor([[[[1.0, 3.0]], [[-1.0, -1.0]]]])  # means 2 and -1
    assert class_activation(features, slopes).tolist() == [[[0.0, 3.0]]]


def test_entropy_lies_between_one_place_and_all_alike():
    maps = torch.zeros(3, 4, 5)
    maps[0, 1, 2], maps[1] = 7.0, 0.2
    assert entropy(maps).tolist() == pytest.approx([0.0, math.log(20), 0.0])


def test_norms_are_one_and_nothing_stays_nothing():
    maps = torch.stack([torch.rand(3, 4), torch.zeros(3, 4)]).requires_grad_()
    found = normalized(maps)
    assert found.flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 0.0])
    found.sum().backward()
    assert bool(torch.isfinite(maps.grad).all())


@pytest.mark.parametrize("power", [1.0, 2.5, torch.tensor([0.5, 3.0, 1.0])])
@pytest.mark.parametrize("top", [0.25, 1.0])
def test_the_distance_is_that_of_a_loop(power, top):
    generator = torch.Generator().manual_seed(1)
    own, floats = (torch.rand(3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    found = imitation_distance(own, floats, power, top)
    for i in range(3):
        p = float(power[i]) if isinstance(power, torch.Tensor) else power
        wanted, mine = [v**p for v in floats[i].flatten().tolist()], own[i].flatten().tolist()
        wanted = [v / math.hypot(*wanted) for v in wanted]
        mine = [v / math.hypot(*mine) for v in mine]
        places = sorted(range(16), key=lambda j: -wanted[j])[: round(16 * top)]
        assert float(found[i]) == pytest.approx(sum((mine[j] - wanted[j]) ** 2 for j in places) / len(places))


def test_groups_are_as_large_as_their_values_are_alike():
    maps = torch.full((1, 4, 4), 1.0)
    maps[0, :2, :2] = torch.tensor([[8.0, 8.0], [8.2, 7.8]])
    maps[0, 3, 3] = 4.0
    found = grouped(maps, maps, 0.1)[0]
    assert torch.equal(found[:2, :2], torch.full((2, 2), 8.0))  # alike: one group
    assert torch.equal(found[2:, 2:], maps[0, 2:, 2:])  # an edge: single places
    assert torch.equal(grouped(maps, maps, 0.0), maps)
    assert grouped(maps, maps, 0.99)[0].unique().numel() == 1


def test_groups_of_any_size_and_dimension_keep_their_mean():
    generator = torch.Generator().manual_seed(1)
    for shape in ((7,), (5, 9), (3, 4, 5)):
        maps = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
        assert grouped(maps, maps, 0.2).flatten(1).mean(1).tolist() == pytest.approx(maps.flatten(1).mean(1).tolist())


def test_grouping_makes_fewer_rank_errors_of_a_noisy_map_with_even_regions():
    generator = torch.Generator().manual_seed(1)
    truth = torch.zeros(50, 8, 8)
    truth[:, 2:6, :4], truth[:, 4:, 6:] = 1.0, 0.5
    noisy = (truth + 0.2 * torch.randn(truth.shape, generator=generator)).clamp_min(0)

    def errors(maps):
        """Share of the pairs in the wrong order; a tie is half of one."""
        order = truth.flatten(1)[:, :, None] > truth.flatten(1)[:, None, :]
        apart = maps.flatten(1)[:, :, None] - maps.flatten(1)[:, None, :]
        return float((((apart < 0) + 0.5 * (apart == 0)) * order).sum() / order.sum())

    assert errors(grouped(noisy, noisy, 0.15)) < 0.75 * errors(noisy)
    assert errors(noisy) > 0.01

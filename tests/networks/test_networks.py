"""Networks map fields to fields, and start the same wherever they are built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prdp_hpc.grid.partition import Partition
from prdp_hpc.networks import MLP, ResNet, UNet, build_network

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=3)


def mlp(
    shape: list[int], hidden: list[int], activation: str = "relu", *, seed: int
) -> torch.nn.Module:
    return build_network(
        MLP,
        Partition.whole(shape, "dirichlet"),
        1,
        1,
        {"hidden": hidden, "activation": activation},
        seed=seed,
    )


def resnet(shape: list[int], *, seed: int) -> torch.nn.Module:
    return build_network(
        ResNet, Partition.whole(shape, "periodic"), 1, 1, {"channels": 4, "blocks": 1}, seed=seed
    )


def unet(shape: list[int], *, seed: int) -> torch.nn.Module:
    return build_network(
        UNet, Partition.whole(shape, "dirichlet"), 1, 1, {"channels": 4, "depth": 1}, seed=seed
    )


KINDS = {"mlp": MLP, "resnet": ResNet, "unet": UNet}
BUILDERS = [
    lambda seed: mlp([5], [7], seed=seed),
    lambda seed: resnet([5], seed=seed),
    lambda seed: unet([5], seed=seed),
]


@settings(deadline=None)
@given(SHAPES, st.integers(1, 3), st.integers(0, 3), st.lists(st.integers(1, 8), max_size=3))
def test_the_shape_of_the_field_stays(
    shape: list[int], channels: int, batch: int, hidden: list[int]
) -> None:
    network = build_network(
        MLP, Partition.whole(shape, "dirichlet"), channels, channels, {"hidden": hidden}, seed=1
    )
    assert network(torch.zeros(batch, channels, *shape)).shape == (batch, channels, *shape)


def test_more_features_out_are_more_channels() -> None:
    assert MLP(12, 24, [5])(torch.zeros(7, 1, 3, 4)).shape == (7, 2, 3, 4)


def test_samples_do_not_see_each_other_and_points_do() -> None:
    network = mlp([6], [16, 16], "tanh", seed=0)
    field = torch.rand(3, 1, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(field)[1].sum(), field)
    assert torch.equal(gradient[0], torch.zeros(1, 6))
    assert (gradient[1] != 0).all()


@pytest.mark.parametrize(
    ("name", "function"),
    [("relu", torch.relu), ("tanh", torch.tanh), ("gelu", torch.nn.functional.gelu)],
)
def test_layers_and_activations_alternate(
    name: str, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    network = mlp([4], [5, 6], name, seed=2)
    field = torch.randn(2, 1, 4)
    weights = list(network.parameters())
    expected = field.flatten(1)
    for layer in range(3):
        expected = expected @ weights[2 * layer].T + weights[2 * layer + 1]
        expected = function(expected) if layer < 2 else expected
    torch.testing.assert_close(network(field).flatten(1), expected)


def test_parameters_start_uniform_within_the_fan_in() -> None:
    network = mlp([400], [100], seed=0)
    for parameter, fan_in in zip(network.parameters(), (400, 400, 100, 100), strict=True):
        bound = 1 / math.sqrt(fan_in)
        assert parameter.abs().max() <= bound
        assert parameter.abs().max() > 0.9 * bound
        assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)


@pytest.mark.parametrize("build", BUILDERS, ids=list(KINDS))
def test_the_seed_alone_decides_and_no_generator_moves(
    build: Callable[[int], torch.nn.Module],
) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(100)
    second = build(3)
    other = build(4)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    # Normalisations start at 1 and 0, for any seed.
    drawn = [
        (a, b)
        for a, b in zip(first.parameters(), other.parameters(), strict=True)
        if len(a.unique()) > 1
    ]
    assert drawn
    assert not any(torch.equal(a, b) for a, b in drawn)


@pytest.mark.parametrize("build", BUILDERS, ids=list(KINDS))
def test_the_default_device_does_not_matter(build: Callable[[int], torch.nn.Module]) -> None:
    with torch.device("meta"):
        network = build(3)
    expected = build(3)
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), expected.parameters(), strict=True)
    )


MLP_OF = {"hidden": [5], "activation": "relu"}


@pytest.mark.parametrize(
    ("kind", "shape", "channels", "arguments", "message"),
    [
        (
            "mlp",
            [4],
            1,
            MLP_OF | {"activation": "swish"},
            r"'swish' is not known; choose one of relu, tanh, gelu",
        ),
        (
            "mlp",
            [4],
            1,
            MLP_OF | {"hidden": [5, 0]},
            "network.hidden must be an integer",
        ),
        ("mlp", [4, 0], 1, MLP_OF, "at least 1 point per axis"),
        ("mlp", [4], 0, MLP_OF, "1 channel"),
        (
            "resnet",
            [4],
            1,
            {"activation": "swish"},
            r"'swish' is not known; choose one of relu, tanh, gelu",
        ),
        ("resnet", [4], 1, {"channels": 0}, r"network\.channels must be an integer"),
        ("resnet", [4], 1, {"blocks": 0}, r"network\.blocks must be an integer"),
        ("resnet", [2, 2, 2, 2], 1, {}, "1 to 3 axes, not 4"),
        ("unet", [8], 1, {"depth": 0}, r"network\.depth must be an integer"),
        (
            "unet",
            [8, 12],
            1,
            {"depth": 3},
            r"network\.depth=3 does not fit: level 3: axis 1 of the periodic grid \(2, 3\)",
        ),
    ],
)
def test_a_network_that_cannot_be_built_is_refused(
    kind: str, shape: list[int], channels: int, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_network(
            KINDS[kind], Partition.whole(shape, "periodic"), channels, channels, arguments, seed=0
        )


@pytest.mark.parametrize("boundary", ["robin", ("periodic", "dirichlet")])
def test_an_unknown_boundary_is_refused(boundary: Any) -> None:
    with pytest.raises(
        ValueError, match=r"boundary must be one of .*, or one of them for each of 1 axes"
    ):
        Partition.whole((4,), boundary)


@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 2, 4), (4,), ()])
def test_a_field_of_another_grid_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="build it for this grid"):
        mlp([4], [3], seed=0)(torch.zeros(shape))


def test_outputs_that_fill_no_channel_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fill channels"):
        MLP(4, 6, [3])(torch.zeros(2, 1, 4))

"""Property: a network in another precision computes the same function, with complex numbers too."""

import copy

import pytest
import torch
from spectral_network import Spectral
from torch import nn

from prdp_hpc.networks.precision import in_precision, precision_of


@pytest.mark.parametrize("make", [lambda: Spectral(2, 2), lambda: nn.BatchNorm1d(2).eval()])
def test_only_the_precision_changes(make):
    torch.manual_seed(0)
    network, fields = make(), torch.randn(3, 2, 8)
    double = in_precision(copy.deepcopy(network), torch.float64)
    assert precision_of(double.state_dict().values()) is torch.float64
    torch.testing.assert_close(double(fields.double()).float(), network(fields))
    back = in_precision(double, torch.float32)
    for name, tensor in back.state_dict().items():
        assert tensor.dtype is network.state_dict()[name].dtype
        assert torch.equal(tensor, network.state_dict()[name])


def test_a_complex_number_has_the_precision_of_its_parts():
    assert precision_of([torch.zeros(1, dtype=torch.complex128)]) is torch.float64
    assert precision_of([torch.zeros(1, dtype=torch.int64)]) is torch.float32

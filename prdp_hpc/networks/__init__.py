"""Neural networks on fields of shape (batch, channels, *grid shape)."""

from prdp_hpc.networks.build import build_network
from prdp_hpc.networks.mlp import MLP
from prdp_hpc.networks.resnet import ResNet

__all__ = ["MLP", "ResNet", "build_network"]

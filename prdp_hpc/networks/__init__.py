"""Neural networks on fields (batch, channels, *shape): whole fields, or each rank's part."""

from prdp_hpc.networks.build import Network, build_network
from prdp_hpc.networks.convolutions import Convolution, Pooling, TransposedConvolution
from prdp_hpc.networks.mlp import MLP
from prdp_hpc.networks.normalisation import GroupNorm
from prdp_hpc.networks.resnet import ResNet
from prdp_hpc.networks.unet import UNet

__all__ = [
    "MLP",
    "Convolution",
    "GroupNorm",
    "Network",
    "Pooling",
    "ResNet",
    "TransposedConvolution",
    "UNet",
    "build_network",
]

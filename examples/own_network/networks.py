"""Two networks: a Fourier neural operator on whole fields, and a ConvNeXt on each rank's part."""

import torch
from pydantic import BaseModel, Field
from torch import nn

from prdp_hpc import Convolution


class SpectralLayer(nn.Module):
    """`σ(W u + F⁻¹ R F u)`: a map of each point, and one of the lowest 2-D Fourier modes."""

    def __init__(self, width, modes):
        super().__init__()
        self.modes, self.pointwise = modes, nn.Conv2d(width, width, 1)
        weights = torch.randn(2, width, width, modes, modes, 2) / width
        self.weights = nn.Parameter(weights)

    def forward(self, field):
        spectrum, low = torch.fft.rfft2(field), self.modes
        result = torch.zeros_like(spectrum)
        for half, rows in enumerate((slice(0, low), slice(-low, None))):
            kernel = torch.view_as_complex(self.weights[half].contiguous())
            result[:, :, rows, :low] = torch.einsum(
                "bihw,iohw->bohw", spectrum[:, :, rows, :low], kernel
            )
        return nn.functional.gelu(self.pointwise(field) + torch.fft.irfft2(result, field.shape[2:]))


class FNO(nn.Module):
    """A Fourier neural operator on whole fields, without any code for MPI."""

    class Config(BaseModel):
        """The keys of the section `network`."""

        width: int = Field(default=12, ge=1)
        modes: int = Field(default=4, ge=1)
        layers_: int = Field(default=2, ge=1, alias="layers")

    def __init__(self, in_channels, out_channels, width=12, modes=4, layers_=2):
        super().__init__()
        layers = [SpectralLayer(width, modes) for _ in range(layers_)]
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 1), *layers, nn.Conv2d(width, out_channels, 1)
        )

    def forward(self, field):
        return self.layers(field)


class Block(nn.Module):
    """A ConvNeXt block: a wide convolution, then two pointwise maps, around a residual."""

    def __init__(self, partition, width):
        super().__init__()
        self.layers = nn.Sequential(
            Convolution(partition, width, width), nn.Conv2d(width, 4 * width, 1), nn.GELU(),
            nn.Conv2d(4 * width, width, 1),
        )  # fmt: skip

    def forward(self, field):
        return field + self.layers(field)


class ConvNeXt(nn.Module):
    """A network on each rank's part of the fields; `Convolution` exchanges the halos."""

    works_on_parts = True

    @classmethod
    def build(cls, partition, in_channels, out_channels, width=12, blocks=2):
        network = cls()
        inner = [Block(partition, width) for _ in range(blocks)]
        network.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 1), *inner, nn.Conv2d(width, out_channels, 1)
        )
        return network

    def forward(self, field):
        return self.layers(field)

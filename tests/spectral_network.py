"""A user's Fourier network with complex parameters; FFTs and reshapes refuse an empty batch."""

import torch
from torch import nn


class Spectral(nn.Module):
    """One Fourier layer between two convolutions, in one dimension."""

    def __init__(self, in_channels, out_channels, width: int = 3, modes: int = 3):
        super().__init__()
        self.modes = modes
        self.lift = nn.Conv1d(in_channels, width, 1)
        self.project = nn.Conv1d(width, out_channels, 1)
        numbers = torch.randn(width, width, modes, dtype=torch.complex64)
        self.weight = nn.Parameter(numbers / width)

    def forward(self, fields):
        lifted = self.lift(fields)
        low = torch.fft.rfft(lifted)[..., : self.modes]
        mixed = torch.einsum("bim,iom->bom", low, self.weight)
        smooth = torch.fft.irfft(mixed, n=fields.shape[-1])
        return self.project(torch.relu(smooth + lifted)).reshape(len(fields), -1, fields.shape[-1])

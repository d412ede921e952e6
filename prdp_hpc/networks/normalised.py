"""A network between normalised states, for data whose channels have different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class NormalisedNetwork(nn.Module):
    """`y_c = σ_c net((x − μ) / σ)_c + b_c` for the C channels of a state.

    The means μ and standard deviations σ of the channels are stored with the parameters of the
    network. They are not buffers, which DDP would broadcast in each forward pass. Further input
    channels, after those of the state, are not changed.

    Parameters
    ----------
    network : torch.nn.Module
        Network from `(B, C + E, …)` to `(B, C, …)`, on whole fields or on parts.
    mean, std : sequence of float
        μ and σ, one per channel.
    predicts_state : bool, default True
        Whether the output is a state, with b = μ; otherwise it is a difference of two states, with
        b = 0.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc.networks.normalised import NormalisedNetwork
    >>> network = NormalisedNetwork(torch.nn.Identity(), mean=[5.0], std=[2.0])
    >>> network(torch.tensor([[[1.0, 5.0]]]))
    tensor([[[1., 5.]]])
    """

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        predicts_state: bool = True,
    ) -> None:
        super().__init__()
        self.network = network
        shift = mean if predicts_state else [0.0] * len(mean)
        numbers = [list(mean), list(std), list(shift)]
        self._numbers = torch.tensor(numbers, dtype=torch.float64)

    @property
    def works_on_parts(self) -> bool:
        """Whether the network works on the parts of fields, see `Network`."""
        return bool(getattr(self.network, "works_on_parts", False))

    @property
    def sharded_modules(self) -> list[str] | None:
        """The names of the network's `sharded_modules`, see `prdp_hpc.distributed.sharding`."""
        own = getattr(self.network, "sharded_modules", None)
        return None if own is None else [f"network.{name}" for name in own]

    def forward(self, fields: Tensor) -> Tensor:
        """Apply the network to states of shape `(B, C + E, …)`."""
        count, rest = self._numbers.shape[1], [1] * (fields.dim() - 2)
        mean, std, shift = self._numbers.to(fields).reshape(3, count, *rest)
        inside = (fields[:, :count] - mean) / std
        if fields.shape[1] > count:
            inside = torch.cat([inside, fields[:, count:]], dim=1)
        output: Tensor = self.network(inside).to(fields.dtype)
        scaled: Tensor = output * std + shift
        return scaled

    def as_dict(self, channels: Sequence[str]) -> dict[str, Any]:
        """Return the names of the channels, and their means and standard deviations."""
        mean, std, _ = self._numbers.tolist()
        return {"channels": list(channels), "mean": mean, "std": std}

    def get_extra_state(self) -> Tensor:
        """Return the numbers μ, σ and b, of shape `(3, C)`, for `state_dict`."""
        return self._numbers

    def set_extra_state(self, state: Tensor) -> None:
        """Load the result of `get_extra_state`."""
        self._numbers = state.to(self._numbers).clone()

    def _apply(self, fn: Any, recurse: bool = True) -> NormalisedNetwork:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._numbers = fn(self._numbers)
        return self

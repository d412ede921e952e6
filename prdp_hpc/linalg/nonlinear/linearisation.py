"""Products with the Jacobian of a torch function at one point, and with its transpose."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Linearisation:
    """A function of one vector, evaluated once and recorded; then `v ↦ J v` and `w ↦ Jᵀ w`.

    A product with Jᵀ is one backward pass; one with J is a backward pass through the backward pass,
    as a function of its cotangent. Neither evaluates the function again, and both are exact. If the
    function communicates, all of it is collective.

    Parameters
    ----------
    function : `u (n,) ↦ F(u) (n,)`, in torch.
    u : the point of the linearisation, `(n,)`.

    Attributes
    ----------
    depends : whether torch recorded that F depends on u, on this rank.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], u: Tensor) -> None:
        with torch.enable_grad():
            self._u = u.detach().clone().requires_grad_()
            self._result = function(self._u)
            self.depends = self._result.requires_grad
            if self.depends:
                self._cotangent = torch.zeros_like(self._result).requires_grad_()
                found = torch.autograd.grad(
                    self._result, self._u, self._cotangent, create_graph=True, allow_unused=True
                )[0]
                self._linear = torch.zeros_like(self._u) if found is None else found

    def product(self, v: Tensor) -> Tensor:
        """`J v`, without a gradient."""
        if not self._linear.requires_grad:
            return torch.zeros_like(v)
        (found,) = torch.autograd.grad(
            self._linear, self._cotangent, v, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(v) if found is None else found

    def transposed(self, w: Tensor) -> Tensor:
        """`Jᵀ w`, without a gradient."""
        (found,) = torch.autograd.grad(
            self._result, self._u, w, retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(w) if found is None else found

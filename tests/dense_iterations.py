"""K iterations of each KSP on dense matrices in torch, for autograd to differentiate."""

import torch
from torch import Tensor


def iterate(ksp: str, matrix: Tensor, inverse: Tensor, b: Tensor, iterations: int) -> Tensor:
    """The iterate `(n,)` after that many iterations from zero, preconditioned from the left with
    `inverse`.
    """
    return _METHODS[ksp](matrix, inverse, b, iterations)


def _richardson(matrix, inverse, b, iterations):
    x = torch.zeros_like(b)
    for _ in range(iterations):
        x = x + inverse @ (b - matrix @ x)
    return x


def _steepest_descent(matrix, inverse, b, iterations):
    x = torch.zeros_like(b)
    for _ in range(iterations):
        r = b - matrix @ x
        z = inverse @ r
        x = x + (r @ z) / (z @ matrix @ z) * z
    return x


def _cg(matrix, inverse, b, iterations):
    x, r = torch.zeros_like(b), b
    z = p = inverse @ r
    for _ in range(iterations):
        ap = matrix @ p
        alpha = (z @ r) / (p @ ap)
        x, following = x + alpha * p, r - alpha * ap
        z_following = inverse @ following
        p = z_following + (z_following @ following) / (z @ r) * p
        r, z = following, z_following
    return x


def _gmres(matrix, inverse, b, iterations):
    """The smallest preconditioned residual over the Krylov space."""
    r = inverse @ b
    basis = [r]
    for _ in range(iterations - 1):
        basis.append(inverse @ matrix @ basis[-1])
        basis[-1] = basis[-1] / basis[-1].norm().detach()
    space = torch.stack(basis, dim=1)
    image = inverse @ matrix @ space
    return space @ torch.linalg.solve(image.T @ image, image.T @ r)


def _bcgs(matrix, inverse, b, iterations):
    x, r = torch.zeros_like(b), inverse @ b
    shadow = p = r
    for _ in range(iterations):
        v = inverse @ matrix @ p
        alpha = (r @ shadow) / (v @ shadow)
        s = r - alpha * v
        t = inverse @ matrix @ s
        omega = (s @ t) / (t @ t)
        x, following = x + alpha * p + omega * s, s - omega * t
        beta = (following @ shadow) / (r @ shadow) * alpha / omega
        p = following + beta * (p - omega * v)
        r = following
    return x


_METHODS = {
    "richardson": _richardson,
    "steepest_descent": _steepest_descent,
    "cg": _cg,
    "gmres": _gmres,
    "bcgs": _bcgs,
}

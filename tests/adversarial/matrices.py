"""Matrices of many kinds from a NumPy generator: dense numbers, and which of them are stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Draw = np.random.Generator
Made = tuple[Any, Any]


def _mask(draw: Draw, n: int) -> Any:
    """Which entries are stored; the diagonal always."""
    return (draw.random((n, n)) < draw.uniform(0.2, 1.0)) | np.eye(n, dtype=bool)


def dominant(draw: Draw, n: int) -> Made:
    mask = _mask(draw, n)
    A = draw.normal(size=(n, n)) * mask
    np.fill_diagonal(A, np.abs(A).sum(axis=1) + draw.uniform(0.5, 2))
    return A, mask


def positive(draw: Draw, n: int) -> Made:
    mask = _mask(draw, n)
    mask = mask | mask.T
    A = draw.normal(size=(n, n)) * mask
    A = A + A.T
    np.fill_diagonal(A, 0.0)
    np.fill_diagonal(A, np.abs(A).sum(axis=1) + draw.uniform(0.5, 2))
    return A, mask


def laplacian(draw: Draw, n: int) -> Made:
    A = 2.0 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return A, A != 0


def m_matrix(draw: Draw, n: int) -> Made:
    """Upwind advection and diffusion."""
    wind = draw.uniform(0, 10)
    A = (2.1 + wind) * np.eye(n) - np.eye(n, k=1) - (1.0 + wind) * np.eye(n, k=-1)
    return A, A != 0


def indefinite(draw: Draw, n: int) -> Made:
    A, mask = positive(draw, n)
    flips = draw.choice([-1.0, 1.0], size=n)
    np.fill_diagonal(A, np.diag(A) * flips)
    return A, mask


def saddle(draw: Draw, n: int) -> Made:
    """Symmetric, indefinite, with zeros on the diagonal that are not stored."""
    A, _ = positive(draw, n)
    half = (n + 1) // 2
    A[half:, half:] = 0.0
    return A, A != 0


def skew(draw: Draw, n: int) -> Made:
    A = draw.normal(size=(n, n))
    A = A - A.T + draw.uniform(0, 1) * np.eye(n)
    return A, np.ones((n, n), dtype=bool)


def general(draw: Draw, n: int) -> Made:
    mask = draw.random((n, n)) < draw.uniform(0.1, 1.0)
    return draw.normal(size=(n, n)) * mask, mask


def permutation(draw: Draw, n: int) -> Made:
    A = np.eye(n)[draw.permutation(n)]
    return A, A != 0


def singular(draw: Draw, n: int) -> Made:
    """Of rank n − 1, nothing said about its nullspace."""
    A, mask = dominant(draw, n)
    row = draw.integers(n)
    A[row] = A[(row + 1) % n] if n > 1 else 0.0
    return A, mask | (A != 0)


def empty_row(draw: Draw, n: int) -> Made:
    A, mask = dominant(draw, n)
    row = draw.integers(n)
    A[row], mask[row] = 0.0, False
    return A, mask


def nothing(draw: Draw, n: int) -> Made:
    return np.zeros((n, n)), np.zeros((n, n), dtype=bool)


def identity(draw: Draw, n: int) -> Made:
    return np.eye(n), np.eye(n, dtype=bool)


def graph(draw: Draw, n: int) -> Made:
    """A graph's Laplacian: constants are its nullspace."""
    W = draw.uniform(0.5, 2.0, size=(n, n))
    W = np.triu(W, 1) + np.triu(W, 1).T
    A = np.diag(W.sum(axis=1)) - W
    return A, np.ones((n, n), dtype=bool)


def poisson(draw: Draw, n: int) -> Made:
    """Five-point stencil with varying coefficients on a strip of a few columns."""
    width = int(draw.integers(1, 4))
    A = np.zeros((n, n))
    for step in {1, width}:
        for i in range(n - step):
            A[i, i + step] = A[i + step, i] = -draw.uniform(0.2, 2)
    np.fill_diagonal(A, np.abs(A).sum(axis=1) + draw.uniform(0.1, 1))
    return A, A != 0


def gram(draw: Draw, n: int) -> Made:
    """Symmetric, positive definite, and not diagonally dominant."""
    G = draw.normal(size=(n, n))
    return G @ G.T / n + draw.uniform(0.3, 1) * np.eye(n), np.ones((n, n), dtype=bool)


def reflection(draw: Draw, n: int) -> Made:
    """Symmetric, with eigenvalues of both signs."""
    Q, _ = np.linalg.qr(draw.normal(size=(n, n)))
    A = (Q * (draw.uniform(0.5, 2, size=n) * draw.choice([-1.0, 1.0], size=n))) @ Q.T
    return (A + A.T) / 2, np.ones((n, n), dtype=bool)


def triangular(draw: Draw, n: int) -> Made:
    A, mask = dominant(draw, n)
    keep = np.tril if draw.random() < 0.5 else np.triu
    return keep(A), keep(mask)


def rotation(draw: Draw, n: int) -> Made:
    """Orthogonal, times a diagonal."""
    Q, _ = np.linalg.qr(draw.normal(size=(n, n)))
    return Q * draw.uniform(0.5, 2, size=n), np.ones((n, n), dtype=bool)


MATRICES: dict[str, Callable[[Draw, int], Made]] = {
    "dominant": dominant,
    "positive": positive,
    "laplacian": laplacian,
    "m_matrix": m_matrix,
    "indefinite": indefinite,
    "saddle": saddle,
    "skew": skew,
    "general": general,
    "permutation": permutation,
    "singular": singular,
    "empty_row": empty_row,
    "nothing": nothing,
    "identity": identity,
    "graph": graph,
    "poisson": poisson,
    "gram": gram,
    "reflection": reflection,
    "triangular": triangular,
    "rotation": rotation,
}
REGULAR = {
    "positive": ("positive", "laplacian", "identity", "poisson", "gram"),
    "indefinite": ("indefinite", "reflection"),
    "dominant": ("dominant", "m_matrix", "triangular"),
    "regular": ("skew", "permutation", "rotation"),
}
"""Matrices that have a solution to most digits, by what methods need of them."""


def with_kernel(draw: Draw, A: Any) -> tuple[Any, Any]:
    """A with a vector of both its nullspaces, and the vector."""
    z = draw.normal(size=len(A))
    P = np.eye(len(A)) - np.outer(z, z) / (z @ z)
    projected = P @ A @ P
    if (A == A.T).all():
        projected = (projected + projected.T) / 2
    return projected, z


def scaled(draw: Draw, A: Any, kind: str) -> Any:
    """Badly scaled in one of several ways."""
    size = 10.0 ** draw.uniform(-8, 8, size=len(A))
    if kind == "rows":
        return size[:, None] * A
    if kind == "columns":
        return A * size
    if kind == "both":
        root = np.sqrt(size)
        return root[:, None] * A * root
    return A * {"tiny": 1e-150, "small": 1e-20, "large": 1e20, "huge": 1e150}[kind]


UNIFORM_SCALES = ("tiny", "small", "large", "huge")
SCALES = ("rows", "columns", "both", "tiny", "small", "large", "huge")
VECTORS = ("normal", "zero", "tiny", "tiniest", "small", "large", "huge", "hugest", "unit", "ones")
BAD_VECTORS = ("nan", "inf")


def vector(draw: Draw, n: int, kind: str) -> Any:
    """One right-hand side."""
    plain = draw.normal(size=n)
    sizes = {
        "tiny": 1e-60,
        "tiniest": 1e-200,
        "small": 1e-20,
        "hundred": 1e2,
        "large": 1e20,
        "huge": 1e150,
        "hugest": 1e300,
    }
    if kind in sizes:
        return sizes[kind] * plain
    if kind == "zero":
        return np.zeros(n)
    if kind == "unit":
        return np.eye(n)[draw.integers(n)]
    if kind == "ones":
        return np.ones(n)
    if kind in BAD_VECTORS:
        plain[draw.integers(n)] = float(kind)
    return plain

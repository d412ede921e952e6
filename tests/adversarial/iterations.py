"""K steps of Krylov methods in dense NumPy, written to be read.

Each gives all iterates `x_1 … x_K` from zero for one right-hand side. `M` is the inverse of the
preconditioner as a dense matrix. There is no conjugation anywhere, so that a complex step of the
input gives the derivative of the map to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

ROUNDED = 1e-14

Matrix = Any
Iterates = list[Any]


def richardson(A: Matrix, M: Matrix, b: Any, K: int, scale: float = 1.0) -> Iterates:
    x, found = np.zeros_like(b), []
    for _ in range(K):
        x = x + scale * (M @ (b - A @ x))
        found.append(x)
    return found


def steepest_descent(A: Matrix, M: Matrix, b: Any, K: int, scale: float = 1.0) -> Iterates:
    x, r, found = np.zeros_like(b), b, []
    for _ in range(K):
        z = M @ r
        z = z / np.abs(z).max() if z.any() else z  # ⟨z, A z⟩ may overflow
        alpha = scale * (r @ z) / (z @ A @ z)
        x, r = x + alpha * z, r - alpha * (A @ z)
        found.append(x)
    return found


def cg(A: Matrix, M: Matrix, b: Any, K: int) -> Iterates:
    x, r, found = np.zeros_like(b), b, []
    z = M @ r
    p, rz = z, r @ z
    for _ in range(K):
        alpha = rz / (p @ A @ p)
        x, r = x + alpha * p, r - alpha * (A @ p)
        found.append(x)
        z = M @ r
        rz, before = r @ z, rz
        p = z + (rz / before) * p
    return found


def fcg(A: Matrix, M: Matrix, b: Any, K: int, most: int = 30) -> Iterates:
    """Conjugate gradients whose directions are made orthogonal to those before one by one, as a
    preconditioner needs that is not symmetric; how many are kept is Notay's rule.
    """
    x, r, found = np.zeros_like(b), b, []
    directions: list[Any] = []
    for k in range(K):
        p = M @ r
        count = max(1, k % (most + 1))
        for q in directions[-count:]:
            p = p - (p @ A @ q) / (q @ A @ q) * q
        directions.append(p)
        alpha = (p @ r) / (p @ A @ p)
        x, r = x + alpha * p, r - alpha * (A @ p)
        found.append(x)
    return found


def gmres(A: Matrix, M: Matrix, b: Any, K: int, right: bool = False, restart: int = 30) -> Iterates:
    """Minimal residual over the Krylov space, by an orthonormal basis and normal equations."""
    B = A @ M if right else M @ A
    start = np.zeros_like(b)
    found: Iterates = []
    while len(found) < K:
        r = b - A @ start
        r = r if right else M @ r
        beta = np.sqrt(r @ r)
        basis = [r / beta]
        for _ in range(min(restart, K - len(found))):
            whole = w = B @ basis[-1]
            for _twice in range(2):
                for v in basis:
                    w = w - (v @ w) * v
            V = np.stack(basis, axis=1)
            if abs(w @ w) <= ROUNDED**2 * abs(whole @ whole):
                # Only rounding is left, which is no direction: the space contains the solution.
                update = V @ np.linalg.solve(V.T @ B @ V, beta * np.eye(len(basis))[0])
                last = start + (M @ update if right else update)
                return found + [last] * (K - len(found))
            basis.append(w / np.sqrt(w @ w))
            H = np.stack(basis, axis=1).T @ B @ V
            e1 = np.zeros(len(basis), dtype=H.dtype)
            e1[0] = beta
            update = V @ _least_squares(H, e1)
            found.append(start + (M @ update if right else update))
        start = found[-1]
    return found


def _least_squares(H: Matrix, e: Any) -> Any:
    return np.linalg.solve(H.T @ H, H.T @ e)


def minres(A: Matrix, M: Matrix, b: Any, K: int) -> Iterates:
    """Minimal residual in the norm of M over the Krylov space of M A and M b."""
    found, basis = [], []
    w = M @ b
    for _ in range(K):
        for _twice in range(2):
            for v in basis:
                w = w - (v @ w) * v
        basis.append(w / np.sqrt(w @ w))
        V = np.stack(basis, axis=1)
        AV = A @ V
        found.append(V @ np.linalg.solve(AV.T @ M @ AV, AV.T @ M @ b))
        w = M @ (A @ basis[-1])
    return found


def minres_by_recurrence(A: Matrix, M: Matrix, b: Any, K: int) -> Iterates:
    """The same by the recurrence of Paige and Saunders, SIAM J. Numer. Anal. 12 (1975), whose
    vectors lose their orthogonality through rounding.
    """
    x = w = w_before = v_before = u_before = np.zeros_like(b)
    r, z, found = b, M @ b, []
    beta = eta = np.sqrt(r @ z)
    c = c_before = 1.0
    s = s_before = 0.0
    for _ in range(K):
        v, u = r / beta, z / beta
        r = A @ u
        alpha, z = u @ r, M @ r
        r, z = r - alpha * v - beta * v_before, z - alpha * u - beta * u_before
        v_before, u_before, beta_before = v, u, beta
        beta = np.sqrt(abs(r @ z))
        diagonal = c * alpha - c_before * s * beta_before
        first, second = s * alpha + c_before * c * beta_before, s_before * beta_before
        length = np.hypot(diagonal, beta)
        c_before, s_before, c, s = c, s, diagonal / length, beta / length
        w_before, w = w, (u - first * w - second * w_before) / length
        x, eta = x + c * eta * w, -s * eta
        found.append(x)
        if beta == 0.0:
            break
    return found


RECURRENCES = {"minres": minres_by_recurrence}
"""What methods compute whose references here are orthogonalised."""


def bcgs(A: Matrix, M: Matrix, b: Any, K: int, right: bool = False) -> Iterates:
    B = A @ M if right else M @ A
    r = b if right else M @ b
    x, shadow, p, rho, found = np.zeros_like(r), r, r, r @ r, []
    for _ in range(K):
        v = B @ p
        alpha = rho / (v @ shadow)
        s = r - alpha * v
        t = B @ s
        omega = (s @ t) / (t @ t)
        x = x + alpha * p + omega * s
        found.append(M @ x if right else x)
        r = s - omega * t
        rho, before = r @ shadow, rho
        p = r + (rho / before) * (alpha / omega) * (p - omega * v)
    return found


def preonly(A: Matrix, M: Matrix, b: Any, K: int) -> Iterates:
    return [M @ b] * K


def _sides(method: Callable[..., Iterates], **options: Any) -> list[Callable[..., Iterates]]:
    return [
        lambda A, M, b, K, right=right: method(A, M, b, K, right=right, **options)
        for right in (False, True)
    ]


def dense(ksp: str, options: dict[str, Any]) -> list[Callable[..., Iterates]]:
    """The maps `(A, M, b, K) -> iterates` that a KSP may stand for (its side is PETSc's choice);
    none if the method is not written here.
    """
    scale = float(options.get("ksp_richardson_scale", 1.0))
    if ksp == "richardson":
        return [lambda A, M, b, K: richardson(A, M, b, K, scale)]
    if ksp in ("gmres", "fgmres", "pgmres", "gcr"):
        restart = int(options.get(f"ksp_{'gcr' if ksp == 'gcr' else 'gmres'}_restart", 30))
        return _sides(gmres, restart=restart)
    if ksp in ("bcgs", "ibcgs", "fbcgs", "fbcgsr"):
        return _sides(bcgs)
    return {
        "steepest_descent": [lambda A, M, b, K: steepest_descent(A, M, b, K, scale)],
        "cg": [cg],
        "groppcg": [cg],
        "pipecg": [cg],
        "fcg": [fcg],
        "minres": [minres],
        "preonly": [preonly],
    }.get(ksp, [])


def ends_in_the_space(ksp: str, options: dict[str, Any], n: int) -> bool:
    """Whether exact iterations end after n steps, the dimension of the space: what comes later is
    made of rounding errors.
    """
    if ksp in ("richardson", "steepest_descent", "preonly", "chebyshev"):
        return False
    restarts = [int(options.get(f"ksp_{name}_restart", 30)) for name in ("gmres", "gcr")]
    return min(restarts) >= n

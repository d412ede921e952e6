"""Property: with every KSP and PC of this PETSc, a solve and its adjoint are right to the tolerance
or end in one of this package's errors; K iterations, beyond convergence, too.

They run in a separate process, because a failed PETSc call may end it.
"""

import json
import subprocess
import sys
from pathlib import Path

import torch

N = 12


def types(kind):
    from petsc4py import PETSc

    return sorted({str(v) for k, v in vars(getattr(PETSc, kind).Type).items() if k.isupper()})


def systems():
    """Name, matrix, promises."""
    from systems import dominant

    symmetric, other = dominant(N, symmetric=True), dominant(N)
    signs = torch.where(torch.arange(N) % 2 == 0, 1.0, -1.0)
    diagonal = torch.diag(symmetric.diagonal())
    yield "positive definite", symmetric, {"symmetric": True}
    yield "positive definite, not promised", symmetric, {}
    yield "not symmetric", other, {}
    yield (
        "indefinite",
        torch.diag(signs * symmetric.diagonal()) + 0.3 * (symmetric - diagonal),
        {"symmetric": True},
    )


def wrong(ksp, pc, level, matrix, promises):
    """A description of a wrong result, or None."""
    from systems import sparse

    from prdp_hpc import Solver, solve
    from prdp_hpc.errors import PrdpError

    draw = torch.Generator().manual_seed(3)
    whole, grad = torch.randn(2, 2, N, generator=draw, dtype=torch.float64)
    b = whole.clone().requires_grad_()
    operator, values = sparse(matrix, **promises)
    try:
        x = solve(operator, values, b, Solver(ksp, pc, level))
        found = [(x.detach() @ matrix.T - whole).norm() / whole.norm()]
        x.backward(grad)
        found.append((b.grad @ matrix - grad).norm() / grad.norm())
    except PrdpError as error:
        return None if len(str(error)) > 20 else f"too short: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[-100:]}"
    if level == 200 and (pc != "none" or ksp in ("richardson", "chebyshev")):
        return None  # K iterations need not converge with every preconditioner.
    return None if max(found) < 1e-5 else f"residuals {[float(f) for f in found]}"


def main(pairs):
    for ksp, pc in pairs:
        for name, matrix, promises in systems():
            for level in (1e-10, 200):
                outcome = wrong(ksp, pc, level, matrix, promises)
                if outcome is not None:
                    print(json.dumps([ksp, pc, name, level, outcome]))
    print(json.dumps("end"))


def test_every_method_is_right_or_says_so():
    pairs = [(ksp, pc) for ksp in types("KSP") for pc in ("none", "ilu")]
    pairs += [(ksp, pc) for pc in types("PC") for ksp in ("gmres", "preonly", "bcgs")]
    done = subprocess.run(
        [sys.executable, __file__, json.dumps(pairs)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parent.parent,
    )
    *found, last = [json.loads(line) for line in done.stdout.splitlines()] or [None]
    assert not found
    assert last == "end", done.stderr[-2000:]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main(json.loads(sys.argv[1]))

"""Savings of set-ups and iterations by a lagged preconditioner and an initial guess, for a
coefficient that changes slowly as in an inversion.

    python benchmarks/lag_and_guess.py [--quick]

`−∇·(κ ∇u) = f` on 128² points with 4 sources, solved 30 times forward and adjoint to rtol 1e-8 and
to 1e-3, where log κ is a Gaussian random field that moves by 3 % of its standard deviation a step.
All combinations reach the same tolerance. Set-ups and iterations are counted instead of seconds,
since they are the same on every machine.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import save, table
from prdp_hpc import Grid, Poisson, Solver

DRIFT, SOURCES = 0.03, 4
RTOLS = (1e-8, 1e-3)
PRECONDITIONERS = ("gamg", "icc")
LAGS = (None, 5, "auto")
GUESSES = ("zero", "last")


def gaussian_field(draw: np.random.Generator, n: int) -> Tensor:
    """A periodic random field `(n, n)` with mean 0 and variance 1 whose spectrum decreases with the
    third power of the wave number.
    """
    k = np.fft.fftfreq(n) * n
    decay = (1.0 + np.hypot(*np.meshgrid(k, k))) ** -3.0
    field = np.fft.ifft2(np.fft.fft2(draw.standard_normal((n, n))) * decay).real
    return torch.from_numpy((field - field.mean()) / field.std())


def drift(n: int, steps: int) -> list[Tensor]:
    """κ of each step."""
    draw = np.random.default_rng(0)
    first, second = gaussian_field(draw, n), gaussian_field(draw, n)
    angles = [DRIFT * step for step in range(steps)]
    return [torch.exp(math.cos(a) * first + math.sin(a) * second) for a in angles]


def count(
    pc: str, rtol: float, lag: Any, guess: str, n: int, kappas: list[Tensor]
) -> dict[str, Any]:
    """The counts of one combination over all steps."""
    solver = Solver("cg", pc, rtol, lag_preconditioner=lag, initial_guess=guess)
    poisson = Poisson(Grid((n, n)), solver)
    sources = np.random.default_rng(1)
    source = torch.stack([gaussian_field(sources, n) for _ in range(SOURCES)]).unsqueeze(1)
    target = Poisson(Grid((n, n)), Solver("cg", "gamg", 1e-10))(source)
    for kappa in kappas:
        leaf = kappa.clone().requires_grad_()
        poisson.diffusivity = leaf
        with solver.samples(range(SOURCES)):
            u = poisson(source)
        (u - target).square().sum().backward()
    forward, adjoint = solver.report.forward, solver.report.adjoint
    return {
        "pc": pc,
        "rtol": rtol,
        "lag": lag,
        "guess": guess,
        "set_ups": forward.set_ups + adjoint.set_ups,
        "forward_iterations": forward.iterations,
        "adjoint_iterations": adjoint.iterations,
        "kept_bytes": solver.last_solution_bytes,
    }


def main() -> None:
    """Count, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="32² points, 6 steps")
    quick = parser.parse_args().quick
    n, steps = (32, 6) if quick else (128, 30)
    kappas = drift(n, steps)
    results = [
        count(pc, rtol, lag, guess, n, kappas)
        for rtol in RTOLS
        for pc in PRECONDITIONERS
        for lag in LAGS
        for guess in GUESSES
    ]
    headers = ["rtol", "pc", "lag", "guess", "set-ups", "iterations forward", "adjoint"]
    keys = ("rtol", "pc", "lag", "guess", "set_ups", "forward_iterations", "adjoint_iterations")
    print(table(headers, [[str(result[key]) for key in keys] for result in results]))
    if not quick:
        save("lag_and_guess", {"n": n, "steps": steps, "results": results})


if __name__ == "__main__":
    main()

"""Property: the converged heat solver makes the trajectories of the authors' own solver."""

import h5py
import pytest
import torch
from mpi4py import MPI
from reference_data import reference

from prdp_hpc import Grid, Heat, Solver


@pytest.mark.parametrize("name", ["heat_1d", "heat_2d"])
def test_heat_steps_the_reference_trajectories(name):
    with h5py.File(reference(f"{name}.h5")) as file:
        steps = torch.from_numpy(file["validation/trajectories"][:])
        nu_dt = float(file.attrs["diffusivity_times_dt"])
    heat = Heat(
        Grid(tuple(steps.shape[2:]), comm=MPI.COMM_SELF), nu_dt, 1.0, Solver("preonly", "lu")
    )
    for now, after in zip(steps.unbind(1)[:-1], steps.unbind(1)[1:], strict=True):
        # Both ends of a step were rounded to float32.
        torch.testing.assert_close(heat(now), after, rtol=0, atol=2e-6 * now.abs().max().item())

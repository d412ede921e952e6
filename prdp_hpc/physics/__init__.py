"""Ready-made PDEs, each a differentiable stepper over a `Grid` and a `Solver`."""

from prdp_hpc.physics.allen_cahn import AllenCahn
from prdp_hpc.physics.boundaries import Dirichlet, Neumann, Robin
from prdp_hpc.physics.burgers import Burgers
from prdp_hpc.physics.heat import Heat
from prdp_hpc.physics.navier_stokes import NavierStokes
from prdp_hpc.physics.nonlinear_diffusion import NonlinearDiffusion
from prdp_hpc.physics.poisson import Poisson
from prdp_hpc.physics.stepper import Stepper

__all__ = [
    "AllenCahn",
    "Burgers",
    "Dirichlet",
    "Heat",
    "NavierStokes",
    "Neumann",
    "NonlinearDiffusion",
    "Poisson",
    "Robin",
    "Stepper",
]

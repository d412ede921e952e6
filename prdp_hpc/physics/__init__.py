"""Ready-made PDEs, each a differentiable stepper over a `Grid` and a `Solver`."""

from prdp_hpc.physics.allen_cahn import AllenCahn
from prdp_hpc.physics.boundaries import Dirichlet, Neumann, Robin
from prdp_hpc.physics.burgers import Burgers
from prdp_hpc.physics.heat import Heat
from prdp_hpc.physics.navier_stokes import NavierStokes
from prdp_hpc.physics.nonlinear_diffusion import NonlinearDiffusion
from prdp_hpc.physics.poisson import Poisson
from prdp_hpc.physics.rollout import rollout
from prdp_hpc.physics.stepper import Stepper
from prdp_hpc.physics.time_integration import BDF2, CNAB2, SBDF2, ThetaScheme

__all__ = [
    "BDF2",
    "CNAB2",
    "SBDF2",
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
    "ThetaScheme",
    "rollout",
]

"""Train neural networks through distributed PETSc solves that are only as accurate as training
needs.

The public names are loaded on first use, so that `prdp-hpc doctor` can report what is missing on a
machine where PETSc or torch cannot be imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from prdp_hpc.distributed import bootstrap

bootstrap.start()

_HOMES = {
    "ProcessMesh": "distributed.process_mesh",
    "Grid": "grid.structured",
    "SparseOperator": "linalg",
    "AssembledOperator": "linalg",
    "DistributedCells": "linalg",
    "ElementOperator": "linalg",
    "FunctionOperator": "linalg",
    "Solver": "linalg",
    "ShellPreconditioner": "linalg",
    "SolveReport": "linalg",
    "Refinement": "linalg",
    "SolveError": "linalg",
    "solve": "linalg",
    "solve_nonlinear": "linalg",
    "NonlinearSolver": "linalg",
    "NonlinearSolveError": "linalg",
    "ColouredJacobian": "linalg",
    "Heat": "physics",
    "Poisson": "physics",
    "AllenCahn": "physics",
    "Burgers": "physics",
    "NavierStokes": "physics",
    "NonlinearDiffusion": "physics",
    "Dirichlet": "physics",
    "Neumann": "physics",
    "Robin": "physics",
    "ThetaScheme": "physics",
    "BDF2": "physics",
    "SBDF2": "physics",
    "CNAB2": "physics",
    "rollout": "physics",
    "Coordinator": "refinement",
    "GradientCoordinator": "refinement",
    "MeasuredGradient": "refinement",
    "IterationLadder": "refinement",
    "ToleranceLadder": "refinement",
    "ExplicitLadder": "refinement",
    "ConstantSchedule": "refinement",
    "ManualSchedule": "refinement",
    "MLP": "networks",
    "ResNet": "networks",
    "UNet": "networks",
    "Convolution": "networks",
    "Network": "networks",
    "Stepper": "physics",
    "JoinedTrajectories": "data",
    "TrajectoryArrays": "data",
    "TrajectoryDataset": "data",
    "TrajectoryFile": "data",
    "WindowedDataset": "data",
    "Task": "tasks.task",
    "SupervisedTask": "tasks.supervised",
    "Recipe": "tasks.recipe",
    "Emulator": "tasks.emulator",
    "Corrector": "tasks.corrector",
    "Inverse": "tasks.inverse",
    "FieldInversion": "tasks.inversion.task",
    "Conductivity": "tasks.inversion.physics",
    "Experiments": "tasks.inversion.experiments",
    "PointObservations": "tasks.inversion.experiments",
    "FieldObservations": "tasks.inversion.experiments",
    "Positions": "tasks.inversion.positions",
    "H1Regularisation": "tasks.inversion.regularisation",
    "TotalVariation": "tasks.inversion.regularisation",
    "FieldUnknown": "tasks.inversion.unknown",
    "NetworkUnknown": "tasks.inversion.unknown",
    "CoordinateNetwork": "tasks.inversion.unknown",
    "LBFGS": "tasks.inversion.lbfgs",
    "Trainer": "training.trainer",
    "Checkpoints": "training.checkpoint",
    "EarlyStopping": "training.early_stopping",
    "Tracker": "training.trackers.tracker",
    "TrackedRun": "training.trackers.tracker",
    "TensorBoard": "training.trackers.tensorboard",
    "WandB": "training.trackers.wandb",
    "MLflow": "training.trackers.mlflow",
    "PreemptionWatch": "distributed.preemption",
    "load_config": "config",
    "train": "experiments.run",
    "evaluate": "experiments.evaluation",
    "export": "experiments.export",
    "load_network": "experiments.trained",
    "predict": "experiments.prediction",
}

if TYPE_CHECKING:
    # The same names for type checkers and editors, which do not run `__getattr__`.
    from prdp_hpc.config import load_config as load_config
    from prdp_hpc.data import JoinedTrajectories as JoinedTrajectories
    from prdp_hpc.data import TrajectoryArrays as TrajectoryArrays
    from prdp_hpc.data import TrajectoryDataset as TrajectoryDataset
    from prdp_hpc.data import TrajectoryFile as TrajectoryFile
    from prdp_hpc.data import WindowedDataset as WindowedDataset
    from prdp_hpc.distributed.preemption import PreemptionWatch as PreemptionWatch
    from prdp_hpc.distributed.process_mesh import ProcessMesh as ProcessMesh
    from prdp_hpc.experiments.evaluation import evaluate as evaluate
    from prdp_hpc.experiments.export import export as export
    from prdp_hpc.experiments.prediction import predict as predict
    from prdp_hpc.experiments.run import train as train
    from prdp_hpc.experiments.trained import load_network as load_network
    from prdp_hpc.grid.structured import Grid as Grid
    from prdp_hpc.linalg import AssembledOperator as AssembledOperator
    from prdp_hpc.linalg import ColouredJacobian as ColouredJacobian
    from prdp_hpc.linalg import DistributedCells as DistributedCells
    from prdp_hpc.linalg import ElementOperator as ElementOperator
    from prdp_hpc.linalg import FunctionOperator as FunctionOperator
    from prdp_hpc.linalg import NonlinearSolveError as NonlinearSolveError
    from prdp_hpc.linalg import NonlinearSolver as NonlinearSolver
    from prdp_hpc.linalg import Refinement as Refinement
    from prdp_hpc.linalg import ShellPreconditioner as ShellPreconditioner
    from prdp_hpc.linalg import SolveError as SolveError
    from prdp_hpc.linalg import Solver as Solver
    from prdp_hpc.linalg import SolveReport as SolveReport
    from prdp_hpc.linalg import SparseOperator as SparseOperator
    from prdp_hpc.linalg import solve as solve
    from prdp_hpc.linalg import solve_nonlinear as solve_nonlinear
    from prdp_hpc.networks import MLP as MLP
    from prdp_hpc.networks import Convolution as Convolution
    from prdp_hpc.networks import Network as Network
    from prdp_hpc.networks import ResNet as ResNet
    from prdp_hpc.networks import UNet as UNet
    from prdp_hpc.physics import BDF2 as BDF2
    from prdp_hpc.physics import CNAB2 as CNAB2
    from prdp_hpc.physics import SBDF2 as SBDF2
    from prdp_hpc.physics import AllenCahn as AllenCahn
    from prdp_hpc.physics import Burgers as Burgers
    from prdp_hpc.physics import Dirichlet as Dirichlet
    from prdp_hpc.physics import Heat as Heat
    from prdp_hpc.physics import NavierStokes as NavierStokes
    from prdp_hpc.physics import Neumann as Neumann
    from prdp_hpc.physics import NonlinearDiffusion as NonlinearDiffusion
    from prdp_hpc.physics import Poisson as Poisson
    from prdp_hpc.physics import Robin as Robin
    from prdp_hpc.physics import Stepper as Stepper
    from prdp_hpc.physics import ThetaScheme as ThetaScheme
    from prdp_hpc.physics import rollout as rollout
    from prdp_hpc.refinement import ConstantSchedule as ConstantSchedule
    from prdp_hpc.refinement import Coordinator as Coordinator
    from prdp_hpc.refinement import ExplicitLadder as ExplicitLadder
    from prdp_hpc.refinement import GradientCoordinator as GradientCoordinator
    from prdp_hpc.refinement import IterationLadder as IterationLadder
    from prdp_hpc.refinement import ManualSchedule as ManualSchedule
    from prdp_hpc.refinement import MeasuredGradient as MeasuredGradient
    from prdp_hpc.refinement import ToleranceLadder as ToleranceLadder
    from prdp_hpc.tasks.corrector import Corrector as Corrector
    from prdp_hpc.tasks.emulator import Emulator as Emulator
    from prdp_hpc.tasks.inverse import Inverse as Inverse
    from prdp_hpc.tasks.inversion.experiments import Experiments as Experiments
    from prdp_hpc.tasks.inversion.experiments import FieldObservations as FieldObservations
    from prdp_hpc.tasks.inversion.experiments import PointObservations as PointObservations
    from prdp_hpc.tasks.inversion.lbfgs import LBFGS as LBFGS
    from prdp_hpc.tasks.inversion.physics import Conductivity as Conductivity
    from prdp_hpc.tasks.inversion.positions import Positions as Positions
    from prdp_hpc.tasks.inversion.regularisation import H1Regularisation as H1Regularisation
    from prdp_hpc.tasks.inversion.regularisation import TotalVariation as TotalVariation
    from prdp_hpc.tasks.inversion.task import FieldInversion as FieldInversion
    from prdp_hpc.tasks.inversion.unknown import CoordinateNetwork as CoordinateNetwork
    from prdp_hpc.tasks.inversion.unknown import FieldUnknown as FieldUnknown
    from prdp_hpc.tasks.inversion.unknown import NetworkUnknown as NetworkUnknown
    from prdp_hpc.tasks.recipe import Recipe as Recipe
    from prdp_hpc.tasks.supervised import SupervisedTask as SupervisedTask
    from prdp_hpc.tasks.task import Task as Task
    from prdp_hpc.training.checkpoint import Checkpoints as Checkpoints
    from prdp_hpc.training.early_stopping import EarlyStopping as EarlyStopping
    from prdp_hpc.training.trackers.mlflow import MLflow as MLflow
    from prdp_hpc.training.trackers.tensorboard import TensorBoard as TensorBoard
    from prdp_hpc.training.trackers.tracker import TrackedRun as TrackedRun
    from prdp_hpc.training.trackers.tracker import Tracker as Tracker
    from prdp_hpc.training.trackers.wandb import WandB as WandB
    from prdp_hpc.training.trainer import Trainer as Trainer

__all__ = list(_HOMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prdp_hpc' has no attribute {name!r}")
    return getattr(import_module(f"prdp_hpc.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

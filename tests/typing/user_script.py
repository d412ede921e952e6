"""What a user's type checker finds in calls of this package; `make lint` checks it.

mypy must find each error that is ignored here, or it complains about the comment.
"""

import numpy as np
import scipy.sparse as sp
import torch

from prdp_hpc import (
    BDF2,
    CNAB2,
    LBFGS,
    MLP,
    SBDF2,
    AllenCahn,
    AssembledOperator,
    Burgers,
    Checkpoints,
    ColouredJacobian,
    Conductivity,
    ConstantSchedule,
    Convolution,
    CoordinateNetwork,
    Coordinator,
    Corrector,
    Dirichlet,
    DistributedCells,
    EarlyStopping,
    ElementOperator,
    Emulator,
    Experiments,
    ExplicitLadder,
    FieldInversion,
    FieldObservations,
    FieldUnknown,
    FunctionOperator,
    GradientCoordinator,
    Grid,
    H1Regularisation,
    Heat,
    Inverse,
    IterationLadder,
    JoinedTrajectories,
    ManualSchedule,
    MeasuredGradient,
    MLflow,
    NavierStokes,
    Network,
    NetworkUnknown,
    Neumann,
    NonlinearDiffusion,
    NonlinearSolveError,
    NonlinearSolver,
    PointObservations,
    Poisson,
    Positions,
    PreemptionWatch,
    ProcessMesh,
    Recipe,
    Refinement,
    ResNet,
    Robin,
    ShellPreconditioner,
    Solver,
    SolveReport,
    SparseOperator,
    Stepper,
    SupervisedTask,
    Task,
    TensorBoard,
    ThetaScheme,
    ToleranceLadder,
    TotalVariation,
    TrackedRun,
    Tracker,
    Trainer,
    TrajectoryArrays,
    TrajectoryDataset,
    TrajectoryFile,
    UNet,
    WandB,
    WindowedDataset,
    evaluate,
    export,
    load_config,
    load_network,
    predict,
    rollout,
    solve,
    solve_nonlinear,
    train,
)

mesh = ProcessMesh.from_world(grid_ranks="two")  # type: ignore[arg-type]
ProcessMesh.from_world(gradients="nccl")  # type: ignore[arg-type]
grid = Grid(shape="8 x 8")  # type: ignore[arg-type]
Grid((8, 8), boundary="open")  # type: ignore[arg-type]
Grid((8, 8), boundary=["periodic", "neumann"])
solver = Solver("cg", "gamg", Refinement(rtol=1e-8))
ShellPreconditioner("ilu")  # type: ignore[arg-type]
Solver(5)  # type: ignore[arg-type]
Solver("cg", differentiation="adjoint")  # type: ignore[arg-type]
Solver("cg", initial_guess="previous")  # type: ignore[arg-type]
Solver("batched_cg", precision="half")  # type: ignore[arg-type]
Refinement(rtol="1e-8")  # type: ignore[arg-type]
report: SolveReport = solver.reports  # type: ignore[attr-defined]
operator = SparseOperator.from_scipy(sp.eye(3).tocsr())
SparseOperator.from_scipy(np.eye(3))
SparseOperator.from_scipy([[1, 2.0], [3.0, 4]])
SparseOperator.from_scipy("matrix")  # type: ignore[arg-type]
SparseOperator.from_csr("pointers", [0], [1.0])  # type: ignore[arg-type]
SparseOperator("rows", [0], (1, 1))  # type: ignore[arg-type]
SparseOperator([0], [0], (1, 1), nullspace="constant")  # type: ignore[arg-type]
SparseOperator([0], [0], (1, 1), coordinates=[[0, 1.5]], comm="world")  # type: ignore[arg-type]
solve(operator, 1.0, torch.ones(3), solver)  # type: ignore[arg-type]
AssembledOperator(None, "assemble")  # type: ignore[arg-type]
DistributedCells([[0, 1]], n="two")  # type: ignore[arg-type]
ElementOperator([[0, 1]], n="two")  # type: ignore[arg-type]
ElementOperator([[0, 1]], 2, dirichlet="left")  # type: ignore[arg-type]
ElementOperator("cells", 2, dirichlet=range(1))  # type: ignore[arg-type]
ElementOperator([[0, 1]], 2, dirichlets=[0])  # type: ignore[call-arg]
SparseOperator.from_scipy(np.eye(3), symetric=True)  # type: ignore[call-arg]
SparseOperator.from_csr([0, 1], [0], [1.0], block_size="two")  # type: ignore[arg-type]
Grid((8,), comm="world")  # type: ignore[arg-type]
FunctionOperator("product", 8)  # type: ignore[arg-type]
Heat(grid, diffusivity="fast", dt=1.0, solver=solver)  # type: ignore[arg-type]
Poisson()  # type: ignore[call-arg]
newton = NonlinearSolver(solver, "tight")  # type: ignore[arg-type]
NonlinearSolver(solver, 1e-8, inner="newton", refines="outer")  # type: ignore[arg-type]
failed: NonlinearSolveError = newton.report  # type: ignore[assignment]
solve_nonlinear(lambda u: u, 1.0)  # type: ignore[arg-type]
ColouredJacobian.on_grid(grid, channels="two")  # type: ignore[arg-type]
NonlinearDiffusion(grid, 1.0, 0.1, solver)  # type: ignore[arg-type]
front: Stepper = AllenCahn(grid, 0.1, 0.5, newton)
Burgers(grid, viscosity=None, dt=1.0, solver=solver)  # type: ignore[arg-type]
NavierStokes()  # type: ignore[call-arg]
ladder = IterationLadder(start="one")  # type: ignore[arg-type]
ToleranceLadder(start="one")  # type: ignore[arg-type]
ExplicitLadder(levels=3)  # type: ignore[arg-type]
Coordinator(ladder, step_threshold="low")  # type: ignore[arg-type]
GradientCoordinator(ladder, theta="low")  # type: ignore[arg-type]
MeasuredGradient(torch.ones(3), variance="none")  # type: ignore[arg-type]
ConstantSchedule("five")  # type: ignore[arg-type]
ManualSchedule([1, 2])  # type: ignore[arg-type]
load_network(5)  # type: ignore[arg-type]


class Rotation:
    """A user-defined PDE."""

    channels = ("u", "v")

    def __init__(self, grid: Grid, solver: Solver) -> None:
        self.grid, self.solver = grid, solver

    def __call__(self, state: torch.Tensor) -> torch.Tensor:
        return state.flip(1)


class Named:
    """A class that lacks a part of the interface."""

    names = ("u",)


stepper: Stepper = Rotation(grid, solver)
no_stepper: Stepper = Named()  # type: ignore[assignment]
network: Network = MLP(8, 8, [4])
MLP(8, 8, [4], activation="sine")  # type: ignore[arg-type]
ResNet(grid.partition, in_channels="one", out_channels=1)  # type: ignore[arg-type]
UNet(grid.partition)  # type: ignore[call-arg]
Convolution("everywhere", 1, 1)  # type: ignore[arg-type]
data: TrajectoryDataset = TrajectoryFile("mine.h5")
arrays: TrajectoryDataset = TrajectoryArrays(np.ones((4, 3, 1, 8)), torch.ones(2, 3, 1, 8))
TrajectoryArrays("train.npy", "validation.npy")  # type: ignore[arg-type]
joined: TrajectoryDataset = JoinedTrajectories([data, arrays])
JoinedTrajectories(["a.h5", "b.h5"])  # type: ignore[list-item]
pairs: TrajectoryDataset = WindowedDataset(data, window=3, stride="two")  # type: ignore[arg-type]
no_data: TrajectoryDataset = np.zeros(3)  # type: ignore[assignment]
recipe = Recipe(batch_size=4, learning_rate=1e-2, optimizer=torch.optim.SGD)
Recipe(learningrate=1e-2)  # type: ignore[call-arg]
Recipe(precision="half", weight_decay_on="biases")  # type: ignore[arg-type]
emulator = Emulator(stepper, MLP(8, 8, [4]), data, mesh, recipe)
Emulator(stepper, "a network", data, mesh)  # type: ignore[arg-type]
Corrector(stepper, stepper, MLP(8, 8, [4]), data, mesh, unroll="two")  # type: ignore[arg-type]
Inverse(stepper, mesh=mesh)  # type: ignore[call-arg]
task: Task = emulator
learning: SupervisedTask = emulator
Checkpoints(folder=1)  # type: ignore[arg-type]
trainer = Trainer(emulator, Coordinator(ladder), folder="runs/mine", epochs=100)
Trainer(emulator, GradientCoordinator(ladder), folder="runs/mine", epochs=100)
Trainer(emulator, Coordinator(ladder), folder="runs/mine", epochs="many")  # type: ignore[arg-type]
Trainer(
    emulator,
    Coordinator(ladder),
    "runs/mine",
    epochs=100,
    steps=5000,
    validate_every="500 steps",
    checkpoint_every="10 minutes",
    early_stopping=EarlyStopping(patience=10),
    trackers=[TensorBoard(), WandB(project="mine", mode="offline"), MLflow()],
)
tracker: Tracker = WandB(tags=5)  # type: ignore[arg-type]
tracker.start(TrackedRun("mine", folder="runs/mine"))  # type: ignore[arg-type]
no_tracker: Tracker = Checkpoints("runs/mine")  # type: ignore[assignment]
EarlyStopping("soon")  # type: ignore[arg-type]
PreemptionWatch("world")  # type: ignore[arg-type]
train(load_config("mine.yaml"), resume="yes")  # type: ignore[arg-type]
evaluate(5)  # type: ignore[arg-type]
evaluate("runs/mine", checkpoint="newest")  # type: ignore[arg-type]
load_network("runs/mine", partition=grid.partition, checkpoint="best")
load_network("runs/mine", partition=grid)  # type: ignore[arg-type]
predict("runs/mine", steps=5, samples=[0])
predict(["runs/a", "runs/b"], checkpoint="best")
predict("runs/mine", samples="all")  # type: ignore[arg-type]
export("runs/mine", "onnx", out="network.onnx")
export("runs/mine")  # type: ignore[call-arg]
export("runs/mine", "pickle")  # type: ignore[arg-type]

darcy = Conductivity(Poisson(grid, solver))
sensors = PointObservations(Positions(grid, [[0.5]]))
Positions(grid)  # type: ignore[call-arg]
FieldObservations(5)  # type: ignore[arg-type]
pumping = Experiments(torch.ones(2, 8), sensors, torch.ones(2, 1), noise=1e-3)
Experiments(torch.ones(2, 8), sensors, torch.ones(2, 1))  # type: ignore[call-arg]
coordinates_to_field = NetworkUnknown(CoordinateNetwork(1), grid, mesh)
FieldUnknown(grid, mesh, start="anywhere")  # type: ignore[arg-type]
search: Task = FieldInversion(
    darcy,
    pumping,
    mesh,
    unknown=coordinates_to_field,
    regularisation=TotalVariation(grid, 1.0),
    optimizer=LBFGS,
)
FieldInversion(darcy, pumping, mesh, learning_rate="fast")  # type: ignore[arg-type]
H1Regularisation(grid, "strong")  # type: ignore[arg-type]

held = Poisson(grid, solver, boundaries=[(Dirichlet(1.0), Robin(2.0, 1.0))])
Poisson(grid, solver, boundaries=[(Neumann("much"), None)])  # type: ignore[arg-type]
heat_step = Heat(grid, 1e-2, 0.1, solver)
states = rollout(heat_step, torch.ones(1, 1, 8), steps=20, checkpoints=4)
rollout(heat_step, steps=20)  # type: ignore[call-arg]
ThetaScheme()  # type: ignore[call-arg]
BDF2(5, 0.1)  # type: ignore[arg-type]
BDF2(heat_step, 0.1)  # type: ignore[arg-type]
SBDF2(heat_step, dt=0.1)  # type: ignore[call-arg]
CNAB2(heat_step, dt=0.1)  # type: ignore[call-arg]

"""The workload of one training step, from a config."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from prdp_hpc.config import SupervisedConfig
from prdp_hpc.config.refinement import RefinementSection
from prdp_hpc.errors import InputError

VALUE, INDEX = 8, 4
"""Bytes of PETSc's numbers and of its column indices."""

VECTORS = {"richardson": 7.0, "steepest_descent": 10.0, "cg": 16.0, "bcgs": 30.0}
"""Reads and writes of vectors per iteration without the matrix product; those of GMRES depend on
its basis.
"""

REDUCTIONS = {"richardson": 0, "steepest_descent": 2, "cg": 2, "bcgs": 4, "gmres": 2, "fgmres": 2}
"""All-reduces per iteration."""

PRODUCTS = {
    "none": 0.0,
    "jacobi": 0.2,
    "bjacobi": 1.0,
    "ilu": 1.0,
    "sor": 1.0,
    "mg": 5.0,
    "gamg": 6.0,
    "constraint": 6.0,
}
"""Cost of a preconditioner in matrix products; for `constraint` that of the Fourier transforms."""


KRYLOV = {"richardson": 3, "steepest_descent": 5, "cg": 4, "bcgs": 8}
"""Vectors that a KSP stores, with right-hand side and solution; for GMRES they depend on its basis.
"""

STATES = {"richardson": 2, "steepest_descent": 2, "cg": 3, "bcgs": 5, "gmres": 1}
"""Vectors per stored state of an unrolled solve; it stores about as many states as the square root
of its iterations.
"""


@dataclass(frozen=True)
class Layer:
    """One layer of a network.

    Attributes
    ----------
    flops : FLOP per point of its level (for a dense layer: per sample); a multiplication with an
        addition counts as 2.
    parameters : number of parameters.
    channels_in, channels_out : input and output channels.
    level : number of times the grid was halved.
    width : width of the halo in points.
    reductions : all-reduces per evaluation.
    dense : whether the layer is dense, i.e. on whole fields.
    """

    flops: float
    parameters: int
    channels_in: int
    channels_out: int
    level: int = 0
    width: int = 0
    reductions: int = 0
    dense: bool = False


@dataclass(frozen=True)
class Workload:
    """The workload of a training step.

    Attributes
    ----------
    shape : points per axis.
    boundary : boundary type per axis.
    channels : number of fields of a state.
    batch : samples per step.
    solves : forward solves per sample and step; there are as many adjoint solves.
    rows : unknowns of a system per point.
    entries : matrix entries per point.
    iterations, adjoint_iterations : iterations per forward and adjoint solve.
    vectors : reads and writes of vectors per iteration.
    products : matrix products per iteration, including those of the preconditioner.
    reductions : all-reduces per iteration.
    transforms : Fourier transforms per iteration.
    assembled : whether each sample has a separate matrix.
    at_once : whether a batch is solved as one system.
    applications : evaluations of the network per sample and step.
    layers : layers of the network.
    whole : whether the network needs whole fields.
    stored : numbers per grid point of all trajectories, which each replica stores; 0 if they are
        streamed.
    value : bytes per number of the trajectories.
    krylov : vectors that the forward and adjoint KSPs of a system store.
    kept : vectors that a solve stores for its backward pass.
    matrices : matrices per step that do not depend on the samples.
    exchanged_fields : fields in double precision of which the replicas compute an all-reduce per
        step.
    sharded : whether the network is divided among all ranks.
    """

    shape: tuple[int, ...]
    boundary: tuple[str, ...]
    channels: int
    batch: int
    solves: int
    rows: int
    entries: int
    iterations: int
    adjoint_iterations: int
    vectors: float
    products: float
    reductions: int
    transforms: int
    assembled: bool
    at_once: bool
    applications: int
    layers: tuple[Layer, ...]
    whole: bool
    stored: int
    value: int
    krylov: float
    kept: float
    matrices: int = 0
    exchanged_fields: int = 0
    sharded: bool = False

    @property
    def zero_outside(self) -> bool:
        """Whether fields need no copy to add a halo on one rank, since a convolution itself pads
        with zeros.
        """
        return set(self.boundary) == {"dirichlet"}

    @property
    def points(self) -> int:
        """Number of points of the grid."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> int:
        """Number of parameters of the network."""
        return sum(layer.parameters for layer in self.layers)


@dataclass(frozen=True)
class PhysicsWorkload:
    """The workload of one time step of a PDE.

    A user-defined PDE declares it by the method `workload(shape)` of its model `Config`, which
    returns a mapping with any of these keys. Without this method a time step is measured.

    Attributes
    ----------
    channels : number of fields of a state.
    entries : matrix entries per point.
    rows : unknowns of a system per point.
    solves : linear solves per sample and step.
    one_matrix : whether all samples have the same matrix.
    network_inputs : number of further input fields for networks.
    """

    channels: int
    entries: int
    rows: int = 1
    solves: int = 1
    one_matrix: bool = False
    network_inputs: int = 0


def physics_workload(config: SupervisedConfig) -> PhysicsWorkload | None:
    """The workload that the PDE of a config declares, or None."""
    own = getattr(config.physics, "workload", None)
    return None if own is None else PhysicsWorkload(**own(tuple(config.grid.shape)))


def workload_of(
    config: SupervisedConfig,
    iterations: int | None = None,
    physics: PhysicsWorkload | None = None,
    layers: Sequence[Layer] | None = None,
) -> Workload:
    """The workload of one training step.

    `iterations` per solve default to the full level, or to the finest level of the ladder if the
    full level is a tolerance. `physics` and `layers` default to those that the PDE and the network
    of the config declare.

    Raises `InputError` if one of these is not known.
    """
    physics = physics or physics_workload(config)
    if physics is None:
        raise InputError("physics.pde: does not define its workload, and none was measured")
    found = layers or network_layers(config, physics)
    if found is None:
        raise InputError("network.kind: does not define its layers, and none were measured")
    dim, boundary = len(config.grid.shape), config.grid.boundary
    count = level_iterations(config.refinement, iterations)
    network_steps, solver_steps = config.sample_steps
    states = (config.data.train + config.data.validation) * (config.generated_steps + 1)
    if getattr(config.data, "in_memory", "auto") is False:
        states = 0
    return Workload(
        shape=config.grid.shape,
        boundary=boundary if isinstance(boundary, tuple) else (boundary,) * dim,
        channels=physics.channels,
        batch=config.training.batch_size,
        solves=solver_steps * physics.solves,
        rows=physics.rows,
        entries=physics.entries,
        iterations=count,
        adjoint_iterations=max(1, math.ceil(count * config.refinement.adjoint_factor)),
        vectors=_vectors(config, count),
        products=1.0 + PRODUCTS.get(config.solver.pc, 1.0),
        reductions=REDUCTIONS.get(config.solver.ksp, 2),
        transforms=2 if config.solver.pc == "constraint" else 0,
        assembled=not physics.one_matrix,
        at_once=physics.one_matrix
        and config.solver.ksp == "richardson"
        and config.solver.pc in ("jacobi", "none"),
        applications=network_steps,
        layers=tuple(found),
        whole=any(layer.dense for layer in found),
        stored=states * physics.channels,
        value=8 if config.training.precision == "float64" else 4,
        krylov=2.0 * _krylov(config, count),
        kept=_kept(config, count),
        sharded=config.parallel.shard_network,
    )


def input_channels(config: SupervisedConfig, physics: PhysicsWorkload) -> int:
    """The number of input channels of a network: those of the state and of `network_inputs`."""
    extra = {"coordinates": len(config.grid.shape), "physics": physics.network_inputs}
    return physics.channels + sum(extra[name] for name in config.network_inputs)


def network_layers(config: SupervisedConfig, physics: PhysicsWorkload) -> Sequence[Layer] | None:
    """The layers that the network of a config declares, or None."""
    own = getattr(config.network, "layers", None)
    if own is None:
        return None
    inside = input_channels(config, physics)
    return [Layer(**layer) for layer in own(tuple(config.grid.shape), inside, physics.channels)]


def level_iterations(refinement: RefinementSection, given: int | None) -> int:
    """The iterations per solve: `given`, those of the full level, or of the finest level of the
    ladder; `InputError` if both are tolerances.
    """
    if given is not None:
        return given
    ladder = refinement.ladder.build()
    for level in (refinement.full_level, ladder.level(ladder.top)):
        if isinstance(level, int):
            return level
    raise InputError(
        "the levels of refinement are tolerances: give --iterations, the number of iterations per "
        "solve"
    )


def _krylov(config: SupervisedConfig, iterations: int) -> float:
    method = config.solver.ksp
    if "gmres" not in method:
        return KRYLOV.get(method, 8.0)
    return (2.0 if method == "fgmres" else 1.0) * min(iterations, _restart(config)) + 4.0


def _kept(config: SupervisedConfig, iterations: int) -> float:
    if config.solver.differentiation == "implicit":
        return 1.0
    return 2.0 * math.sqrt(2.0 * iterations) * STATES.get(config.solver.ksp, 5)


def _restart(config: SupervisedConfig) -> int:
    return int(config.solver.petsc_options.get("ksp_gmres_restart") or 30)


def _vectors(config: SupervisedConfig, iterations: int) -> float:
    method = config.solver.ksp
    if "gmres" not in method:
        return VECTORS.get(method, 16.0)
    # Each new vector is orthogonalised against the previous ones, which are read once for the inner
    # products and once for the update.
    return 2.0 * min(iterations, _restart(config)) / 2 + 6.0

"""The work of one training step, counted from a config."""

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
"""Reads and writes of a vector in an iteration beside the matrix product; GMRES's depend on its
basis.
"""

REDUCTIONS = {"richardson": 0, "steepest_descent": 2, "cg": 2, "bcgs": 4, "gmres": 2, "fgmres": 2}
"""Sums over the ranks in an iteration."""

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
"""Cost of a preconditioner, in matrix products; of `constraint`, the Fourier transforms'."""


KRYLOV = {"richardson": 3, "steepest_descent": 5, "cg": 4, "bcgs": 8}
"""Vectors that a KSP keeps, with right-hand side and solution; GMRES's depend on its basis."""

STATES = {"richardson": 2, "steepest_descent": 2, "cg": 3, "bcgs": 5, "gmres": 1}
"""Vectors of a state of an unrolled solve, which keeps about the root of its iterations of them."""


@dataclass(frozen=True)
class Layer:
    """One layer of a network: per point of its level (a dense layer: per sample), multiplications
    and additions count as 2 FLOP.

    `level` is how often the grid was halved; `width` points of each side are exchanged, of
    `channels_in` channels; `reductions` are sums over the ranks; `parameters` belong to it.
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
    """A training step of a supervised config.

    Attributes
    ----------
    shape : points per axis; boundary : the kind of each axis's.
    channels : fields.
    batch : samples a step.
    solves : linear systems a sample and step of training, forward; as many adjoint.
    rows : unknowns of a system per point.
    entries : matrix entries per point.
    iterations, adjoint_iterations : of a solve.
    vectors : vector reads and writes an iteration; products : matrix products an iteration, the
        preconditioner's included;
        reductions : sums over ranks an iteration; transforms : Fourier transforms an iteration.
    assembled : whether each sample has a matrix of its own; at_once : whether a batch is solved as
        one system.
    applications : of the network, a sample and step.
    layers : the network's; whole : it sees whole fields.
    stored : numbers per grid point of all trajectories, which each replica holds; value : bytes of
        one.
    krylov : vectors that the KSPs of a system keep, forward and adjoint.
    kept : vectors that a solve keeps for its backward pass.
    matrices : that are assembled in a step whatever the samples, and kept.
    exchanged_fields : fields of the grid, in double precision, that the replicas sum in a step.
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

    @property
    def zero_outside(self) -> bool:
        """Whether no field is copied to give it neighbours on one rank: a convolution takes zeros
        by itself.
        """
        return set(self.boundary) == {"dirichlet"}

    @property
    def points(self) -> int:
        """Points of the grid."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> int:
        """Parameters of the network."""
        return sum(layer.parameters for layer in self.layers)


@dataclass(frozen=True)
class PhysicsWorkload:
    """What a step of a PDE solves.

    A PDE of one's own says so by the method `workload(shape)` of its model `Config`, which returns
    a mapping with any of these keys; without one, a step is measured.

    Attributes
    ----------
    channels : fields of a state.
    entries : matrix entries per point.
    rows : unknowns of a system per point.
    solves : linear systems a sample and step.
    one_matrix : whether all samples share one matrix; else each has one of its own.
    network_inputs : fields that it offers to networks beside the state.
    """

    channels: int
    entries: int
    rows: int = 1
    solves: int = 1
    one_matrix: bool = False
    network_inputs: int = 0


def physics_workload(config: SupervisedConfig) -> PhysicsWorkload | None:
    """The workload that the config's PDE defines; None where it defines none."""
    own = getattr(config.physics, "workload", None)
    return None if own is None else PhysicsWorkload(**own(tuple(config.grid.shape)))


def workload_of(
    config: SupervisedConfig,
    iterations: int | None = None,
    physics: PhysicsWorkload | None = None,
    layers: Sequence[Layer] | None = None,
) -> Workload:
    """The work of one step. `iterations` of a solve default to the full level, or the ladder's top
    where that is a tolerance. `physics` and `layers` default to what the config's PDE and network
    say of themselves.

    Raises `ValueError` where one of them is not known.
    """
    physics = physics or physics_workload(config)
    if physics is None:
        raise InputError("physics.pde: does not define its workload, and none was measured")
    found = layers or network_layers(config, physics)
    if found is None:
        raise InputError("network.kind: does not define its layers, and none were measured")
    dim, boundary = len(config.grid.shape), config.grid.boundary
    count = level_iterations(config.refinement, iterations)
    unroll = getattr(getattr(config, "corrector", None), "unroll", 1)
    stored = (config.data.train + config.data.validation) * (config.steps + 1) * physics.channels
    return Workload(
        shape=config.grid.shape,
        boundary=boundary if isinstance(boundary, tuple) else (boundary,) * dim,
        channels=physics.channels,
        batch=config.training.batch_size,
        solves=unroll * physics.solves,
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
        applications=unroll,
        layers=tuple(found),
        whole=any(layer.dense for layer in found),
        stored=stored,
        value=8 if config.training.precision == "float64" else 4,
        krylov=2.0 * _krylov(config, count),
        kept=_kept(config, count),
    )


def input_channels(config: SupervisedConfig, physics: PhysicsWorkload) -> int:
    """The channels that a network gets: the state's and those of `network_inputs`."""
    extra = {"coordinates": len(config.grid.shape), "physics": physics.network_inputs}
    return physics.channels + sum(extra[name] for name in config.network_inputs)


def network_layers(config: SupervisedConfig, physics: PhysicsWorkload) -> Sequence[Layer] | None:
    """The layers that the config's network defines; None where it defines none."""
    own = getattr(config.network, "layers", None)
    if own is None:
        return None
    inside = input_channels(config, physics)
    return [Layer(**layer) for layer in own(tuple(config.grid.shape), inside, physics.channels)]


def level_iterations(refinement: RefinementSection, given: int | None) -> int:
    """The iterations of a solve: as given, or those of the full level, or the ladder's top;
    `ValueError` where both are tolerances.
    """
    if given is not None:
        return given
    ladder = refinement.ladder.build()
    for level in (refinement.full_level, ladder.level(ladder.top)):
        if isinstance(level, int):
            return level
    raise InputError(
        "the refinement's levels are tolerances: give --iterations, the number of iterations that "
        "a solve takes"
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
    # Each new vector is made orthogonal to those before: read once for the products, once for the
    # update.
    return 2.0 * min(iterations, _restart(config)) / 2 + 6.0

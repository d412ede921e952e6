"""The work of one training step, counted from a config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from prdp_hpc.config import CorrectorConfig, SupervisedConfig
from prdp_hpc.config.networks import MLPSection, ResNetSection
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


def workload_of(config: SupervisedConfig, iterations: int | None = None) -> Workload:
    """The work of one step. `iterations` of a solve default to the full level, or the ladder's top
    where that is a tolerance.

    Raises `ValueError` where neither is a number of iterations.
    """
    dim, pde, boundary = len(config.grid.shape), config.physics.pde, config.grid.boundary
    count = _iterations(config, iterations)
    adjoint = max(1, math.ceil(count * config.refinement.adjoint_factor))
    channels = {"heat": 1, "burgers": dim, "navier_stokes": dim + 1}[pde]
    star = 2 * dim + 1
    picard = 1 if pde == "heat" else config.physics.picard_iterations  # type: ignore[union-attr]
    corrector = config.corrector.unroll if isinstance(config, CorrectorConfig) else 1
    coupled = pde == "navier_stokes"
    # Burgers solves a system for each component.
    systems = dim if pde == "burgers" else 1
    section, layers = config.network, network_layers(config, channels)
    return Workload(
        shape=config.grid.shape,
        boundary=boundary if isinstance(boundary, tuple) else (boundary,) * dim,
        channels=channels,
        batch=config.training.batch_size,
        solves=corrector * picard * systems,
        rows=channels if coupled else 1,
        entries=dim * (star + 2) + 2 * dim if coupled else star,
        iterations=count,
        adjoint_iterations=adjoint,
        vectors=_vectors(config, count),
        products=1.0 + PRODUCTS.get(config.solver.pc, 1.0),
        reductions=REDUCTIONS.get(config.solver.ksp, 2),
        transforms=2 if config.solver.pc == "constraint" else 0,
        assembled=pde != "heat",
        at_once=pde == "heat"
        and config.solver.ksp == "richardson"
        and config.solver.pc in ("jacobi", "none"),
        applications=corrector,
        layers=layers,
        whole=isinstance(section, MLPSection),
        stored=(config.data.train + config.data.validation) * (config.steps + 1) * channels,
        value=8 if config.training.precision == "float64" else 4,
        krylov=2.0 * _krylov(config, count),
        kept=_kept(config, count),
    )


def network_layers(config: SupervisedConfig, channels: int) -> tuple[Layer, ...]:
    """The layers of the config's network, as `networks/` builds them."""
    dim, section = len(config.grid.shape), config.network
    if isinstance(section, MLPSection):
        features = channels * math.prod(config.grid.shape)
        widths = [features, *section.hidden, features]
        return tuple(Layer(2.0 * a * b, a * b + b, a, b, dense=True) for a, b in pairwise(widths))
    if isinstance(section, ResNetSection):
        wide = section.channels
        convolutions = [
            _convolution(dim, channels, wide),
            *(_convolution(dim, wide, wide) for _ in range(2 * section.blocks)),
        ]
        return (*convolutions, _convolution(dim, wide, channels, kernel=1))
    return _unet_layers(dim, channels, section.channels, section.depth)


def _unet_layers(dim: int, channels: int, wide: int, depth: int) -> tuple[Layer, ...]:
    layers = _unet_level(dim, channels, wide, 0)
    for level in range(1, depth + 1):
        fine, coarse = wide * 2 ** (level - 1), wide * 2**level
        layers += [_convolution(dim, fine, coarse, level), *_unet_level(dim, coarse, coarse, level)]
    for level in reversed(range(depth)):
        fine, coarse = wide * 2**level, wide * 2 ** (level + 1)
        up = Layer(2.0 * coarse * fine, 2**dim * coarse * fine + fine, coarse, fine, level, width=1)
        layers += [up, *_unet_level(dim, 2 * fine, fine, level)]
    return (*layers, _convolution(dim, wide, channels, kernel=1))


def _unet_level(dim: int, channels: int, wide: int, level: int) -> list[Layer]:
    norm = Layer(10.0 * wide, 2 * wide, wide, wide, level, reductions=2)
    return [
        _convolution(dim, channels, wide, level),
        norm,
        _convolution(dim, wide, wide, level),
        norm,
    ]


def _convolution(dim: int, inside: int, outside: int, level: int = 0, kernel: int = 3) -> Layer:
    weights = kernel**dim * inside * outside
    return Layer(2.0 * weights, weights + outside, inside, outside, level, width=(kernel - 1) // 2)


def _iterations(config: SupervisedConfig, given: int | None) -> int:
    if given is not None:
        return given
    ladder = config.refinement.ladder.build()
    for level in (config.refinement.full_level, ladder.level(ladder.top)):
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

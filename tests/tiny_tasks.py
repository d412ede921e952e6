"""A process mesh, and tasks of tiny configs."""

import pytest

from prdp_hpc.config import validate
from prdp_hpc.distributed.process_mesh import ProcessMesh
from prdp_hpc.experiments.build import build_task
from prdp_hpc.linalg import Solver


@pytest.fixture(scope="module")
def mesh():
    mesh = ProcessMesh.from_world(1)
    yield mesh
    mesh.close()


@pytest.fixture
def make_task(mesh, tmp_path):
    """A new task of one of the configs in `tiny`, at a level, with the same parameters and data
    each time.
    """

    def make(content, level, **changes):
        config = validate(content(tmp_path, **changes), "here")
        given = config.solver
        solver = Solver(given.ksp, given.pc, initial_guess=given.initial_guess)
        task = build_task(config, mesh, solver)
        task.solver.refine(level)
        return task, config

    return make

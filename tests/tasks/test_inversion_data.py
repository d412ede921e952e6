"""Accuracy of the data of field inversions, from files and from configs: against dense algebra and
solutions that are known analytically; and that wrong files are reported.
"""

import h5py
import numpy as np
import pytest
import tiny
import torch
from test_inversion import dense_laplacian

from prdp_hpc.config import validate
from prdp_hpc.data import DataError
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_task
from prdp_hpc.grid.structured import Grid
from prdp_hpc.linalg import Solver
from prdp_hpc.physics import Dirichlet, Neumann, Poisson, Robin
from prdp_hpc.tasks.inversion.experiments import (
    Experiments,
    FieldObservations,
    PointObservations,
)
from prdp_hpc.tasks.inversion.physics import Conductivity
from prdp_hpc.tasks.inversion.positions import Positions
from prdp_hpc.tasks.inversion.task import FieldInversion

M = np.random.default_rng(1).normal(0, 0.3, (8, 8))


def write(path, arrays):
    """An HDF5 file, or one of NumPy's kinds."""
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array
    elif path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        np.save(path, arrays["log_permeability"])
    return str(path)


def task_with(mesh, folder, **changes):
    return build_task(validate(tiny.field_inversion(folder, **changes), "here"), mesh)


def solutions(sources):
    """The solutions `(E, 8, 8)` for the field M, by dense algebra."""
    matrix = dense_laplacian(np.exp(M), 1 / 9)
    return np.linalg.solve(matrix, sources.reshape(len(sources), -1).T).T.reshape(-1, 8, 8)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_whole_solutions_from_a_file(suffix, mesh, tmp_path):
    """Without a noise level in the file, it is relative to the root mean square of the data."""
    sources = np.random.default_rng(2).normal(size=(3, 8, 8))
    arrays = {"log_permeability": M, "sources": sources, "observations": solutions(sources)}
    own = {"file": write(tmp_path / f"own{suffix}", arrays), "noise": 0.25}
    task = task_with(mesh, tmp_path, experiments=own, validation={"experiments": 1})
    some = task._experiments
    assert isinstance(some.observe, FieldObservations)
    assert np.array_equal(some.data, arrays["observations"][:2])
    size = np.sqrt(np.mean(arrays["observations"] ** 2))
    assert float(some.noise) == pytest.approx(0.25 * size)
    with torch.no_grad():
        task.unknown.parameters[0].copy_(torch.from_numpy(M))
    found = task.validate()
    assert found["error_field"] == 0.0
    assert found["error"] < 1e-5


@pytest.mark.parametrize("points", [4, None])
@pytest.mark.parametrize("suffix", [".h5", ".npz", ".npy"])
def test_a_field_from_a_file_gives_the_data_of_dense_algebra(suffix, points, mesh, tmp_path):
    own = {"file": write(tmp_path / f"own{suffix}", {"log_permeability": M}), "noise": 1e-9}
    task = task_with(
        mesh, tmp_path, experiments={**own, "points": points}, validation={"experiments": 1}
    )
    some = task._experiments
    exact = torch.from_numpy(solutions(some.sources.numpy()))
    torch.testing.assert_close(some.data, some.observe(exact), rtol=1e-6, atol=1e-9)


def test_wells_and_sensors_of_a_config(mesh, tmp_path):
    """Wells and sensors that lie on grid points: columns and entries of the inverse."""
    wells = [
        [{"position": [3 / 9, 5 / 9], "rate": 2.0}],
        [{"position": [1 / 9, 8 / 9]}, {"position": [6 / 9, 2 / 9], "rate": -0.5}],
    ]
    sensors = [[2 / 9, 2 / 9], [7 / 9, 4 / 9]]
    own = {"file": write(tmp_path / "own.npy", {"log_permeability": M}), "noise": 1e-9}
    experiments = {**own, "count": None, "wells": wells, "points": sensors}
    task = task_with(mesh, tmp_path, experiments=experiments, validation={"experiments": 1})
    both = task._experiments.data, task._validation.data
    inverse = np.linalg.inv(dense_laplacian(np.exp(M), 1 / 9)).reshape(8, 8, 8, 8) * 81
    for found, some in zip(both, wells, strict=True):
        expected = [
            sum(
                well.get("rate", 1.0)
                * inverse[i, j][tuple(round(9 * x) - 1 for x in well["position"])]
                for well in some
            )
            for i, j in ((1, 1), (6, 3))
        ]
        np.testing.assert_allclose(found[0], expected, rtol=1e-6)


def test_equal_values_on_two_sides_and_no_sources_give_constant_solutions(mesh, tmp_path):
    values = [1.0, -2.0, 0.5]
    sides = [{"axis": 0, "end": end, "values": values} for end in ("low", "high")]
    fixed = {"low": {"kind": "dirichlet"}, "high": {"kind": "dirichlet"}}
    task = task_with(
        mesh,
        tmp_path,
        grid={"boundary": ["dirichlet", "neumann"]},
        physics={"boundaries": {"axis_0": fixed}},
        experiments={
            "count": None,
            "wells": [[{"position": [0.5, 0.5], "rate": 0.0}]] * 3,
            "noise": 1e-9,
            "sides": sides,
        },
        validation={"experiments": 1},
    )
    data = torch.cat([task._experiments.data, task._validation.data])
    expected = torch.tensor(values).double().reshape(3, 1).expand_as(data)
    torch.testing.assert_close(data, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("experiments", "message"),
    [
        ({"sides": [{"axis": 2, "end": "low", "values": [0.0] * 5}]}, "the grid has no axis 2"),
        ({"points": None, "reference_factor": 2}, "only for synthetic fields, wells and sensors"),
    ],
)
def test_what_the_grid_does_not_have_is_reported(experiments, message, mesh, tmp_path):
    with pytest.raises(InputError, match=message):
        task_with(mesh, tmp_path, experiments=experiments)


def test_sides_need_a_value_per_experiment_of_the_file(mesh, tmp_path):
    file = write(tmp_path / "own.h5", {"observations": np.ones((3, 8, 8))})
    sides = [{"axis": 0, "end": "low", "values": [0.0] * 5}]
    with pytest.raises(InputError, match="axis 0 low has 5 values for 3 experiments"):
        task_with(mesh, tmp_path, experiments={"file": file, "sides": sides})


def test_whole_solutions_have_no_sensors_to_hold_out(mesh, tmp_path):
    with pytest.raises(InputError, match=r"no sensors to hold out; give validation\.experiments"):
        task_with(
            mesh,
            tmp_path,
            experiments={"points": None},
            validation={"experiments": 0, "points": 0.2},
        )


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".npy"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((8, 7)), r"must have the shape \(8, 8\), not \(8, 7\)"),
        (np.ones(()), r"must have the shape \(8, 8\), not \(\)"),
        (np.full((8, 8), np.nan), "contains NaN or infinity"),
        (np.full((8, 8), np.inf, dtype=np.float32), "contains NaN or infinity"),
    ],
)
def test_wrong_arrays_of_a_file_are_named(suffix, array, message, mesh, tmp_path):
    file = write(tmp_path / f"own{suffix}", {"log_permeability": array})
    with pytest.raises(DataError, match=rf"own\{suffix}: log_permeability {message}"):
        task_with(mesh, tmp_path, experiments={"file": file})


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".npy"])
def test_files_that_cannot_be_read_are_named(suffix, mesh, tmp_path):
    file = tmp_path / f"own{suffix}"
    file.write_bytes(b"no array")
    with pytest.raises(DataError, match=rf"own\{suffix}: cannot be read"):
        task_with(mesh, tmp_path, experiments={"file": str(file)})


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_a_file_of_other_arrays_is_reported(suffix, mesh, tmp_path):
    file = write(tmp_path / f"own{suffix}", {"pressure": np.ones((8, 8))})
    with pytest.raises(DataError, match=r"contains none of .*log_permeability"):
        task_with(mesh, tmp_path, experiments={"file": file})


LINEAR = [(0, "low"), (0, "high"), (1, "low"), (1, "high")]


@pytest.mark.parametrize("boundary", ["dirichlet", "neumann"])
@pytest.mark.parametrize("shape", [(6, 5), (2, 2)])
def test_linear_fields_continue_to_sides_with_conditions(boundary, shape, mesh):
    grid = Grid(shape, boundary, mesh.grid_comm)
    points = np.random.default_rng(0).random((200, 2))
    points[:4] = [[0, 0], [1, 1], [0, 1], [1, 0]]
    x, y = grid.coordinates()
    found = Positions(grid, points, LINEAR).values((1.5 + 2 * x - 3 * y).double())
    np.testing.assert_allclose(found, 1.5 + points @ [2, -3], atol=1e-12)


def test_sides_of_another_grid_are_reported(mesh):
    with pytest.raises(InputError, match=r"linear_sides: \(1, 'low'\) is no side of this grid"):
        Positions(Grid((4,), comm=mesh.grid_comm), [[0.5]], [(1, "low")])


@pytest.mark.parametrize(
    ("boundary", "condition", "is_default"),
    [
        ("dirichlet", Dirichlet(0.0), True),
        ("dirichlet", Dirichlet(1.0), False),
        ("dirichlet", Dirichlet(torch.zeros(())), False),
        ("neumann", Neumann(), True),
        ("neumann", Neumann(0.5), False),
        ("neumann", Dirichlet(0.0), False),
        ("neumann", Robin(2.0), False),
    ],
)
@pytest.mark.parametrize("sensor", [0.02, 0.5])
def test_a_sensor_close_to_a_side_with_a_condition_must_be_covered(
    boundary, condition, is_default, sensor, mesh
):
    grid = Grid((8,), boundary, mesh.grid_comm)
    other = Dirichlet() if boundary == "neumann" else None
    physics = Conductivity(Poisson(grid, Solver(), boundaries=[(condition, other)]))
    sources, data = torch.ones(1, 8).double(), torch.ones(1, 1).double()

    def task(*linear_sides):
        observe = PointObservations(Positions(grid, [[sensor]], linear_sides))
        return FieldInversion(physics, Experiments(sources, observe, data, 0.1), mesh)

    task((0, "low"))
    if is_default or sensor == 0.5:
        task()
    else:
        with pytest.raises(InputError, match=r"sensor 0, .* low side of axis 0.*linear_sides="):
            task()

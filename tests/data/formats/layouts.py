"""Files of other programs' layouts with known states, as `docs/howto/formats.md` describes them.

`states` are (trajectories, states, channels, [z,] [y,] x), the order of this package.
"""

import json
import math

import h5py
import numpy as np


def known(trajectories=5, states=4, channels=1, shape=(4, 6), seed=0):
    """Random states of float32."""
    generator = np.random.default_rng(seed)
    return generator.standard_normal((trajectories, states, channels, *shape)).astype("float32")


def x_first(states):
    """The same with the axes of space in the order x, y, z."""
    space = range(3, states.ndim)
    return states.transpose(0, 1, 2, *reversed(space))


def centres(n, length=1.0, start=0.0):
    """Cell centres of an axis, as float32."""
    return (start + length * (np.arange(n) + 0.5) / n).astype("float32")


def pdebench(path, states, dt=0.01, lengths=None, start=0.0, devices=False, **attributes):
    """One array `tensor`, or those of compressible flow for several channels."""
    dim = states.ndim - 3
    stored = x_first(states)
    names = ["tensor"]
    if states.shape[2] > 1:
        names = ["density", "pressure", "Vx", "Vy", "Vz"][: states.shape[2]]
    with h5py.File(path, "w") as file:
        for channel, name in enumerate(names):
            array = stored[:, :, channel]
            file[name] = array[None] if devices else array
        for axis, name in enumerate("xyz"[:dim]):
            n = stored.shape[3 + axis]
            length = 1.0 if lengths is None else lengths[::-1][axis]
            file[f"{name}-coordinate"] = centres(n, length, start)
        file["t-coordinate"] = (dt * np.arange(states.shape[1] + 1)).astype("float32")
        file.attrs.update(attributes)
    return path


def pdebench_burgers(folder, states, nu, dt=0.01, **keys):
    """A file of Burgers' equation, whose viscosity is `nu` / π."""
    return pdebench(folder / f"1D_Burgers_Sols_Nu{nu:g}.hdf5", states, dt, Nu=nu, **keys)


def pdebench_darcy(path, coefficient, solution):
    """Darcy flow: `(trajectories, y, x)` of both."""
    swapped = [np.swapaxes(one, 1, 2) for one in (coefficient, solution)]
    with h5py.File(path, "w") as file:
        file["nu"], file["tensor"] = swapped[0], swapped[1][:, None]
        file["x-coordinate"] = centres(swapped[0].shape[1])
        file["y-coordinate"] = centres(swapped[0].shape[2])
        file.attrs["beta"] = 1.0
    return path


def pdebench_seeds(path, states, dt=0.05, length=2.0):
    """A group per seed, compressed, channels last."""
    dim = states.ndim - 3
    stored = np.moveaxis(x_first(states), 2, -1)
    with h5py.File(path, "w") as file:
        for seed, trajectory in enumerate(stored):
            name = f"{seed:04d}"
            file.create_dataset(f"{name}/data", data=trajectory, compression="lzf")
            for axis, word in enumerate("xy"[:dim]):
                file[f"{name}/grid/{word}"] = centres(stored.shape[2 + axis], length, -length / 2)
            file[f"{name}/grid/t"] = (dt * np.arange(stored.shape[1])).astype("float32")
            file[name].attrs["config"] = f"sim:\n  Du: 1E-3\n  k: 5E-3\n  seed: {seed}\n"
    return path


def pdebench_flow(path, states, force, dt=5e-3, last=None):
    """Incompressible flow: velocity and particles, and a force (trajectories, 2, y, x)."""
    stored = np.moveaxis(x_first(states), 2, -1)
    chunks = (1, 1, *stored.shape[2:-1])
    with h5py.File(path, "w") as file:
        for name, part in (("velocity", slice(0, 2)), ("particles", slice(2, 3))):
            array = stored[..., part]
            file.create_dataset(
                name, data=array, chunks=(*chunks, array.shape[-1]), compression="lzf", shuffle=True
            )
        file["force"] = force.transpose(0, 3, 2, 1)
        file["t"] = np.tile(dt * np.arange(states.shape[1]), (len(states), 1)).astype("float32")
        file.attrs["config"] = "NU: 0.01\nDT: 0.00005\ndomain_size:\n- 1\n- 1\n"
        file.attrs["latestIndex"] = states.shape[1] - 1 if last is None else last
    return path


NU = 0.01 * math.pi


def well(path, fields, dt=0.1, lengths=None, boundary=(), flags=None, **parameters):
    """One file of The Well from `{group: {name: array}}` with arrays as in the file; the first
    array has all axes. `boundary` has (name, axes, type).
    """
    flags = flags or {}
    first = next(iter(fields.get("t0_fields", fields.get("t1_fields")).values()))
    dims = "xyz"[: first.ndim - 2 - ("t0_fields" not in fields)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        name = parameters.pop("dataset_name", "known")
        file.attrs.update(
            dataset_name=name, grid_type="cartesian", n_spatial_dims=len(dims),
            n_trajectories=len(first), simulation_parameters=list(parameters), **parameters,
        )  # fmt: skip
        group = file.create_group("dimensions")
        group.attrs["spatial_dims"] = list(dims)
        group["time"] = (dt * np.arange(first.shape[1])).astype("float32")
        for axis, word in enumerate(dims):
            n = first.shape[2 + axis]
            group[word] = centres(n, 1.0 if lengths is None else lengths[::-1][axis])
        for name, axes, kind in boundary:
            made = file.create_group(f"boundary_conditions/{name}")
            made.attrs.update(associated_dims=list(axes), bc_type=kind)
        for rank in ("t0_fields", "t1_fields", "t2_fields"):
            made = file.create_group(rank)
            made.attrs["field_names"] = list(fields.get(rank, []))
            for word, array in fields.get(rank, {}).items():
                made[word] = array
                sample, time, space = flags.get(word, (True, True, [True] * len(dims)))
                made[word].attrs.update(sample_varying=sample, time_varying=time, dim_varying=space)
    return path


def apebench(folder, name, train, test=None, **info):
    """Both arrays and the JSON file; returns the latter."""
    np.save(folder / f"{name}_train.npy", x_first(train))
    if test is not None:
        np.save(folder / f"{name}_test.npy", x_first(test))
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"name": name, "info": info}))
    return path


def labelled(path, states, dt=0.1, length=1.0, names=None, **attributes):
    """A data set of xarray with one variable per channel; writes netCDF or Zarr by the suffix."""
    import xarray

    names = names or {}
    dim = states.ndim - 3
    space = [*reversed("xyz"[:dim])]
    dims = [names.get(axis, axis) for axis in ("sample", "time", *space)]
    sizes = dict(zip(space, states.shape[3:], strict=True))
    lengths = dict(zip(space, np.broadcast_to(length, dim), strict=True))
    coordinates = {names.get(axis, axis): centres(sizes[axis], lengths[axis]) for axis in space}
    coordinates[names.get("time", "time")] = dt * np.arange(states.shape[1])
    variables = {f"u{i}": (dims, states[:, :, i]) for i in range(states.shape[2])}
    data = xarray.Dataset(variables, coordinates, attributes)
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".zarr":
        data.to_zarr(path, zarr_format=2)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    return path

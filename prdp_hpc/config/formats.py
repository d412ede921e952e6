"""The keys of the formats of data files that `data.format` names, besides `hdf5`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from prdp_hpc.config.models import Count, Float, Section, as_number

Index = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, BeforeValidator(as_number), Field(ge=0, le=1, strict=True)]
Axis = Literal["x", "y", "z"]
NamedAxis = Literal["sample", "time", "channel", "x", "y", "z"]


class FormatSection(Section):
    """Keys of all formats of other programs; see docs/howto/formats.md."""

    validation: Index | Share | None = None
    """Trajectories for validation: number or share (float); null: 0.1, or own files."""
    test: Index | Share | None = None
    """Trajectories for the test: number or share (float); null: none, or own files."""
    exclude: tuple[Index, ...] = ()
    """Trajectories that are not used, numbered from 0 through the files of train."""
    exclude_validation: tuple[Index, ...] = ()
    """Trajectories of separate files for validation that are not used."""
    exclude_test: tuple[Index, ...] = ()
    """Trajectories of separate files for the test that are not used."""
    channels: tuple[str, ...] | None = None
    """Names of the channels, in the order of the PDE's channels; null: all."""
    subsample: Count = 1
    """Use every n-th point of each axis."""
    subsample_time: Count = 1
    """Use every n-th state; dt becomes n times as long."""
    segments: Count = 1
    """Parts of equal length in time of each trajectory; each is a trajectory."""


class StoredAxesSection(FormatSection):
    """Keys of formats whose axes have no names."""

    axes: tuple[Axis, ...] | None = None
    """Order of the axes of space in the file; null: x first."""


class PDEBenchSection(StoredAxesSection):
    """Files of PDEBench in any of its layouts."""

    component: ClassVar[str] = "prdp_hpc.data.formats.pdebench:PDEBench"

    kind: str = "pdebench"
    """Name of the format."""


class TheWellSection(StoredAxesSection):
    """Data of The Well: the folder of a set, which contains data/train, data/valid etc."""

    component: ClassVar[str] = "prdp_hpc.data.formats.the_well:TheWell"

    kind: str = "the_well"
    """Name of the format."""
    parameters: dict[str, Float] | None = None
    """Only files with these values, e.g. {Reynolds: 1e4}; null: all files."""


class APEBenchSection(StoredAxesSection):
    """Data of APEBench: NAME.json, NAME_train.npy or NAME_test.npy, or their folder."""

    component: ClassVar[str] = "prdp_hpc.data.formats.apebench:APEBench"

    kind: str = "apebench"
    """Name of the format."""


class NumPySection(FormatSection):
    """Arrays of NumPy in .npy or .npz files."""

    component: ClassVar[str] = "prdp_hpc.data.formats.numpy_files:NumPyArrays"

    kind: str = "numpy"
    """Name of the format."""
    layout: tuple[NamedAxis, ...] | None = None
    """Names of the arrays' axes; null: sample, time, channel, [z,] [y,] x."""


class LabelledSection(FormatSection):
    """Arrays with named axes, read by xarray."""

    kind: str
    """Name of the format."""
    variables: tuple[str, ...] | None = None
    """Variables that are the channels, in this order; null: all with an axis of time."""
    dims: dict[NamedAxis, str] | None = None
    """Names of the axes in the file, e.g. {time: t, x: lon}; others: as here."""
    group: str | None = None
    """Group in the file that contains the variables; null: the root."""


class NetCDFSection(LabelledSection):
    """Files of netCDF 4."""

    component: ClassVar[str] = "prdp_hpc.data.formats.labelled_arrays:NetCDF"

    kind: str = "netcdf"
    """Name of the format."""


class ZarrSection(LabelledSection):
    """Zarr stores, i.e. folders."""

    component: ClassVar[str] = "prdp_hpc.data.formats.labelled_arrays:Zarr"

    kind: str = "zarr"
    """Name of the format."""

"""XDMF descriptions of predicted trajectories, with which ParaView and VTK open the HDF5 file.

One XDMF file describes one sample as a time series on a rectilinear grid with the coordinates of
the grid's points. For each state the HDF5 file has views (virtual data sets, which contain no
numbers) with one field each, since not every reader of XDMF can select a part of a data set:

    /fields/sample_<i>/step_<s>/<group>_<channel>    (nz, ny, nx)
    /fields/sample_<i>/step_<s>/<group>_<vector>     (nz, ny, nx, 3), from velocity_x, velocity_y, …

The slowest axis is z. Axes that the grid does not have, have one point with the coordinate 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import h5py
import numpy as np
from numpy.typing import NDArray

from prdp_hpc.data.layout import DATASET
from prdp_hpc.files import write_text

FIELDS = "fields"
ZEROS = "fields/zeros"
AXES = "xyz"


@dataclass(frozen=True)
class FieldGroup:
    """A group of trajectories in the file.

    Attributes
    ----------
    channels : names of its channels; None for a channel without a view.
    states : number of states of each trajectory.
    prefix : prefix of the names of its fields.
    """

    channels: tuple[str | None, ...]
    states: int
    prefix: str


@dataclass(frozen=True)
class Description:
    """What the views and XDMF files of a data file have in common.

    Attributes
    ----------
    axes : coordinates of the grid's points, one array per axis, the last one x.
    times : time of each state.
    samples : the number by which each sample is known, in the order of the file.
    groups : groups of trajectories by name.
    dtype : type of the numbers in the file.
    """

    axes: Sequence[NDArray[np.float64]]
    times: Sequence[float]
    samples: Sequence[int]
    groups: Mapping[str, FieldGroup] = field(default_factory=dict)
    dtype: Any = np.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """Points of the grid per axis z, y, x."""
        sizes = tuple(len(axis) for axis in self.axes)
        return (1,) * (3 - len(sizes)) + sizes


def vectors(channels: Sequence[str | None]) -> dict[str, dict[int, int]]:
    """The vectors that channels `<name>_x`, `<name>_y`, … form: by name, the index of the channel
    of each component.
    """
    found: dict[str, dict[int, int]] = {}
    for index, channel in enumerate(channels):
        name, _, axis = (channel or "").rpartition("_")
        if name and len(axis) == 1 and axis in AXES:
            found.setdefault(name, {})[AXES.index(axis)] = index
    return found


def add_views(file: h5py.File, about: Description) -> None:
    """Add the views of all fields to a complete file of trajectories."""
    file.create_dataset(ZEROS, about.shape, about.dtype)  # never written: it takes no space
    for group, own in about.groups.items():
        source = h5py.VirtualSource(file[f"{group}/{DATASET}"])
        for row, sample in enumerate(about.samples):
            for step in range(own.states):
                folder = file.require_group(_folder(sample, step))
                for channel, name in enumerate(own.channels):
                    if name is not None:
                        _add_view(folder, own.prefix + name, source[row, step, channel], about)
                for name, components in vectors(own.channels).items():
                    places = {axis: source[row, step, c] for axis, c in components.items()}
                    _add_vector(folder, own.prefix + name, places, about)


def _add_view(folder: h5py.Group, name: str, source: Any, about: Description) -> None:
    layout = h5py.VirtualLayout(about.shape, about.dtype)
    layout[_inner(about)] = source
    # A missing part must not be read as zeros.
    folder.create_virtual_dataset(name, layout, fillvalue=np.nan)


def _add_vector(
    folder: h5py.Group, name: str, places: Mapping[int, Any], about: Description
) -> None:
    layout = h5py.VirtualLayout((*about.shape, 3), about.dtype)
    for component in range(3):
        if component in places:
            layout[(*_inner(about), component)] = places[component]
        else:
            layout[..., component] = h5py.VirtualSource(folder.file[ZEROS])
    folder.create_virtual_dataset(name, layout, fillvalue=np.nan)


def _inner(about: Description) -> tuple[Any, ...]:
    """The index of the grid's axes in an array with the axes z, y, x."""
    dim = len(about.axes)
    return (0,) * (3 - dim) + (slice(None),) * dim


def xdmf_path(data: Path, sample: int) -> Path:
    """The XDMF file of one sample, beside the data file."""
    return data.with_name(f"{data.stem}_{sample}.xdmf")


def write_xdmf(data: Path, about: Description) -> list[Path]:
    """Write the XDMF file of each sample; return their paths."""
    paths = [xdmf_path(data, sample) for sample in about.samples]
    for path, sample in zip(paths, about.samples, strict=True):
        write_text(path, _document(data.name, sample, about))
    return paths


def _document(data: str, sample: int, about: Description) -> str:
    root = ET.Element("Xdmf", Version="3.0")
    series = ET.SubElement(
        ET.SubElement(root, "Domain"),
        "Grid",
        Name=f"sample_{sample}",
        GridType="Collection",
        CollectionType="Temporal",
    )
    for step, time in enumerate(about.times):
        grid = ET.SubElement(series, "Grid", Name=f"step_{step}", GridType="Uniform")
        ET.SubElement(grid, "Time", Value=repr(float(time)))
        _geometry(grid, about)
        for own in about.groups.values():
            if step < own.states:
                where = f"{data}:/{_folder(sample, step)}"
                for name in filter(None, own.channels):
                    _attribute(grid, own.prefix + name, "Scalar", about.shape, where, about)
                for name in vectors(own.channels):
                    shape = (*about.shape, 3)
                    _attribute(grid, own.prefix + name, "Vector", shape, where, about)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _geometry(grid: ET.Element, about: Description) -> None:
    ET.SubElement(grid, "Topology", TopologyType="3DRectMesh", Dimensions=_words(about.shape))
    geometry = ET.SubElement(grid, "Geometry", GeometryType="VXVYVZ")
    missing = [np.zeros(1)] * (3 - len(about.axes))
    for axis in (*reversed(list(about.axes)), *missing):
        item = ET.SubElement(
            geometry,
            "DataItem",
            Format="XML",
            NumberType="Float",
            Precision="8",
            Dimensions=str(len(axis)),
        )
        item.text = _words(repr(float(x)) for x in axis)


def _attribute(
    grid: ET.Element, name: str, kind: str, shape: Sequence[int], where: str, about: Description
) -> None:
    attribute = ET.SubElement(grid, "Attribute", Name=name, AttributeType=kind, Center="Node")
    item = ET.SubElement(
        attribute,
        "DataItem",
        Format="HDF",
        NumberType="Float",
        Precision=str(np.dtype(about.dtype).itemsize),
        Dimensions=_words(shape),
    )
    item.text = f"{where}/{name}"


def _folder(sample: int, step: int) -> str:
    return f"{FIELDS}/sample_{sample}/step_{step:05d}"


def _words(values: Any) -> str:
    return " ".join(str(value) for value in values)

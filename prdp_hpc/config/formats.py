"""The keys of the formats of data files that `data.format` names, besides `hdf5`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from prdp_hpc.config.models import Count, Section, as_number

Index = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, BeforeValidator(as_number), Field(ge=0, le=1, strict=True)]
Axis = Literal["x", "y", "z"]
Group = Literal["train", "validation", "test"]


class FormatSection(Section):
    """Keys of all formats of other programs; see docs/howto/formats.md."""

    validation: Index | Share | None = None
    """Trajectories for validation: number or share (float); null: 0.1, or own files."""
    test: Index | Share | None = None
    """Trajectories for the test: number or share (float); null: none, or own files."""
    exclude: tuple[Index, ...] | dict[Group, tuple[Index, ...]] = ()
    """Trajectories that are not used: of the group train, or by group."""
    channels: tuple[str, ...] | None = None
    """Names of the channels, in the order of the PDE's channels; null: all."""
    axes: tuple[Axis, ...] | None = None
    """Order of the axes of space in the file; null: x first."""
    subsample: Count = 1
    """Use every n-th point of each axis."""
    subsample_time: Count = 1
    """Use every n-th state; dt becomes n times as long."""


class PDEBenchSection(FormatSection):
    """Files of PDEBench in any of its layouts."""

    component: ClassVar[str] = "prdp_hpc.data.formats.pdebench:PDEBench"

    kind: str = "pdebench"
    """Name of the format."""

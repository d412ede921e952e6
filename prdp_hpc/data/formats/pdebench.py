"""PDEBench: the layout of a file determines which of the sources below reads it.

- one array per variable: `prdp_hpc.data.formats.pdebench_arrays`;
- one group per seed: `prdp_hpc.data.formats.pdebench_seeds`;
- incompressible flow: `prdp_hpc.data.formats.pdebench_flow`.

Source: Takamoto et al., PDEBench, NeurIPS 2022, and its generators.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prdp_hpc.data.formats.hdf5_files import reading
from prdp_hpc.data.formats.pdebench_arrays import ArraySource, is_arrays
from prdp_hpc.data.formats.pdebench_flow import FlowSource, is_flow
from prdp_hpc.data.formats.pdebench_seeds import SeedSource, is_seeds
from prdp_hpc.data.formats.source import Source
from prdp_hpc.data.formats.trajectories import FormatTrajectories
from prdp_hpc.data.layout import DataError


class PDEBench(FormatTrajectories):
    """Files of PDEBench in any of its layouts.

    Space is stored x first. `dt` is that of the time coordinates, and the viscosity of Burgers'
    equation is ν = Nu / π. Darcy flow is a trajectory of two states: the coefficient a, and the
    solution u.

    Examples
    --------
    >>> import h5py
    >>> import numpy
    >>> from prdp_hpc.data.formats.pdebench import PDEBench
    >>> with h5py.File("1D_Burgers_Sols_Nu0.01.hdf5", "w") as file:
    ...     file["tensor"] = numpy.zeros((20, 5, 16), "float32")
    ...     file["x-coordinate"] = (numpy.arange(16) + 0.5) / 16
    ...     file["t-coordinate"] = 0.01 * numpy.arange(6)
    >>> data = PDEBench.open("1D_Burgers_Sols_Nu0.01.hdf5", shape=(16,))
    >>> data.count("train"), data.count("validation"), data.steps
    (18, 2, 4)
    >>> data.attributes["dt"], round(data.attributes["viscosity"], 6)
    (0.01, 0.003183)
    """

    suffixes = (".hdf5", ".h5")

    @classmethod
    def source(cls, file: Path, **keys: Any) -> Source:
        """Open a file of any layout."""
        with reading(file) as opened:
            if is_seeds(opened):
                return SeedSource(file)
            if is_flow(opened):
                return FlowSource(file)
            if is_arrays(opened):
                return ArraySource(file)
            content = ", ".join(sorted(opened)[:10]) or "nothing"
        raise DataError(
            f"{file}: is not a file of PDEBench, which would contain tensor, or density, pressure "
            "and Vx, or velocity and particles, or groups such as 0000 with data; it contains: "
            f"{content}"
        )

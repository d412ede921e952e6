"""APEBench: `<name>_train.npy`, `<name>_test.npy` and `<name>.json` with the name and the settings.

Arrays are (samples, steps + 1, channels, x[, y[, z]]); grids are periodic, with the left end and
without the right one.

Source: Koehler et al., APEBench, NeurIPS 2024, and its function `scrape_data_and_metadata`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prdp_hpc.data.formats.coordinates import rounded
from prdp_hpc.data.formats.numpy_files import ArraySource, mapped
from prdp_hpc.data.formats.source import Source
from prdp_hpc.data.formats.trajectories import FormatTrajectories
from prdp_hpc.data.layout import TEST, DataError

STORED = {dim: ("sample", "time", "channel", *"xyz"[:dim]) for dim in (1, 2, 3)}


class APEBench(FormatTrajectories):
    """Data of APEBench: one of its three files, or a folder with those of one scenario.

    The file of the training data is divided into training and validation; the other one is the
    group "test". All groups have as many steps as the shortest one. In scenarios with settings of
    difficulty (`diff`) the domain and the time step are 1. For Burgers' equation in 1-D `dt` and
    the viscosity are those of the equation with the coefficient 1 of `u u_x`.
    """

    suffixes = (".json", ".npy")

    @classmethod
    def sources_of_groups(
        cls, path: str | Path, shape: Sequence[int] | None, keys: dict[str, Any]
    ) -> dict[str, Sequence[Source]]:
        """Open the arrays of both groups."""
        folder, name = _scenario(Path(path))
        found: dict[str, Sequence[Source]] = {}
        info = _info(folder / f"{name}.json")
        for group in ("train", TEST):
            file = folder / f"{name}_{group}.npy"
            if file.is_file():
                found[group] = [_source(file, info)]
        if not found:
            raise DataError(f"{path}: there is neither {name}_train.npy nor {name}_test.npy")
        return found


def _source(file: Path, content: Mapping[str, Any]) -> Source:
    array = mapped(file)
    dim = array.ndim - 3
    if dim not in STORED:
        raise DataError(
            f"{file}: has shape {array.shape}, expected (samples, steps + 1, channels, x[, y[, z]])"
        )
    info: Any = content.get("info")
    settings = info if isinstance(info, dict) else {}
    scenario = str(content.get("name", file.stem))
    length = _number(settings, "domain_extent") if "_phy_" in f"_{scenario}" else 1.0
    points = array.shape[-1]
    return ArraySource(
        file,
        array,
        STORED[dim],
        numbers=_numbers(scenario, settings, dim, points),
        details={"scenario": scenario, **_pde(scenario, dim)},
        spacing=None if length is None else length / points,
        boundary="periodic",
    )


def _scenario(path: Path) -> tuple[Path, str]:
    """The folder and the name of the scenario."""
    if path.is_dir():
        names = sorted({_stem(file) for file in path.iterdir() if file.suffix in (".json", ".npy")})
        if len(names) != 1:
            raise DataError(
                f"{path}: must contain the files of one scenario, not of {len(names)}: "
                f"{', '.join(names[:5]) or 'none'}; give the file NAME.json as data.file"
            )
        return path, names[0]
    if not path.is_file():
        raise DataError(f"{path}: no such data file; give another data.file")
    return path.parent, _stem(path)


def _stem(file: Path) -> str:
    return re.sub(r"_(train|test)$", "", file.stem) if file.suffix == ".npy" else file.stem


def _info(path: Path) -> Mapping[str, Any]:
    """The content of the JSON file; empty if there is none."""
    if not path.is_file():
        return {"name": path.stem}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: must contain the keys name and info, not {type(found).__name__}")
    return found


def _number(settings: Mapping[str, Any], name: str) -> float | None:
    value = settings.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _pde(scenario: str, dim: int) -> dict[str, str]:
    """The PDE of ours that a scenario solves."""
    if scenario.endswith("_diff_diff") or scenario.endswith("_phy_diff"):
        return {"pde": "heat"}
    # In more dimensions the equation is the conservative one, which is not ours.
    if dim == 1 and scenario.endswith("_burgers"):
        return {"pde": "burgers"}
    return {}


def _numbers(scenario: str, settings: Mapping[str, Any], dim: int, points: int) -> dict[str, float]:
    """The time step and the coefficients of our PDEs.

    The settings of difficulty γ of diffusion and δ of convection are those for a domain and a time
    step of 1: the diffusivity is α = γ / (2 N² D), and the factor of u u_x is β = δ / (N D), where
    N is the number of points per axis and D that of axes. With the time β t this factor is 1.
    """
    physical = "_phy_" in scenario
    dt = _number(settings, "dt") if physical else 1.0
    alpha = _number(settings, "diffusion_coef" if physical else "diffusion_gamma")
    beta = _number(settings, "convection_coef" if physical else "convection_delta")
    pde = _pde(scenario, dim).get("pde")
    if dt is None or alpha is None or pde is None:
        return {} if dt is None or not physical else {"dt": dt}
    if not physical:
        alpha /= 2 * points**2 * dim
        beta = None if beta is None else beta / (points * dim)
    if pde == "heat":
        found = {"dt": dt, "diffusivity": alpha}
    else:
        found = {"dt": dt * abs(beta), "viscosity": alpha / abs(beta)} if beta else {}
    return {name: rounded(value, 1e-12 * value) for name, value in found.items()}

"""Exporting the network of a run for other programs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from mpi4py import MPI
from torch import Tensor, nn

from prdp_hpc.config import SupervisedConfig
from prdp_hpc.errors import InputError
from prdp_hpc.experiments.build import build_solver, network_inputs
from prdp_hpc.experiments.trained import (
    Checkpoint,
    load_network,
    run_content,
    trained_config,
    trained_state,
)
from prdp_hpc.files import atomic_path
from prdp_hpc.grid.structured import Grid
from prdp_hpc.networks.precision import in_precision, precision_of
from prdp_hpc.physics.stepper import made_stepper

Format = Literal["torch", "onnx", "safetensors"]
FORMATS: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx", "safetensors": ".safetensors"}
ONNX_OPSET = 18
TOLERANCE = 1e-4
"""Largest difference between onnxruntime and torch in float32, relative to the largest output."""


def export(
    folder: str | Path,
    format: Format,
    out: str | Path | None = None,
    *,
    checkpoint: Checkpoint = "last",
    components: Sequence[str] = (),
) -> dict[str, Any]:
    """Export the network of a run to a file that can be used without prdp-hpc.

    The exported program maps states `(B, C, *grid.shape)` to fields of the same shape: an
    emulator's next state, or a corrector's correction `net(v)` of a solver's step v, whose result
    is `v + net(v)`. The number B of samples is free. The further input fields of `network_inputs`
    are constants in the program, and the weights are the averaged ones if the run averages them.

    - `torch`: a program of `torch.export`, in the precision of the run, for `torch.export.load`.
    - `onnx`: in float32, for onnxruntime and others. Its output is compared with torch's.
    - `safetensors`: only the weights; the metadata have the config as JSON and the shapes.

    Parameters
    ----------
    folder : str or Path
        The run folder.
    format : {"torch", "onnx", "safetensors"}
        The format.
    out : str or Path, optional
        File to write. Default: `export/network` with the format's suffix in the run folder.
    checkpoint : {"last", "best"}, default "last"
        The checkpoint, see `load_network`.
    components : sequence of str, default ()
        Names of user-defined networks, PDEs and tasks of the run, see `load_network`.

    Returns
    -------
    dict
        `file`, `format`, `epoch`, `maps` (what the program computes), `precision`, and `checked`:
        the largest difference between the file's output and the network's, relative to the largest
        output; None for safetensors.

    Raises
    ------
    InputError
        If the folder has no readable checkpoint, if a package is missing, or if the network cannot
        be exported to this format.

    See Also
    --------
    load_network : Load the network of a run with prdp-hpc.

    Examples
    --------
    >>> import torch
    >>> from pathlib import Path
    >>> from prdp_hpc import export, train
    >>> text = '''
    ... task: emulator
    ... name: tiny
    ... grid: {shape: [8]}
    ... physics: {pde: heat, diffusivity: 0.1, dt: 0.01}
    ... network: {kind: mlp, hidden: [8]}
    ... data: {train: 4, validation: 2}
    ... training: {epochs: 1, batch_size: 2}
    ... '''
    >>> _ = Path("tiny.yaml").write_text(text)
    >>> summary = train("tiny.yaml")
    >>> found = export("runs/tiny", "torch")
    >>> program = torch.export.load(found["file"]).module()
    >>> program(torch.zeros(5, 1, 8)).shape
    torch.Size([5, 1, 8])
    """
    if format not in FORMATS:
        raise InputError(f"format: {format!r} is not known; choose one of {', '.join(FORMATS)}")
    content = run_content(folder)
    inputs = content.get("network_inputs") or []
    needed = ("network.kind", "physics.pde") if "physics" in inputs else ("network.kind",)
    config = trained_config(folder, components, needed)
    state = trained_state(folder, checkpoint)
    network = load_network(folder, components, checkpoint=checkpoint)
    inside, outside = state["task"]["channels"]
    dtype = torch.float32 if format == "onnx" else precision_of(network.parameters())
    path = Path(out) if out is not None else Path(folder) / "export" / f"network{FORMATS[format]}"
    metadata = _metadata(config, content, state, (inside, outside), dtype)
    if format == "safetensors":
        _write_safetensors(network, path, metadata)
        checked = None
    else:
        program = in_precision(Program(network, _inputs(config, inside, outside)), dtype).eval()
        example = torch.randn(
            2, outside, *config.grid.shape, generator=torch.Generator().manual_seed(0)
        ).to(dtype)
        write = _write_torch if format == "torch" else _write_onnx
        checked = write(program, example, path, metadata)
    return {
        "file": str(path),
        "format": format,
        "epoch": state["epoch"],
        "maps": metadata["maps"],
        "precision": metadata["precision"],
        "checked": checked,
    }


class Program(nn.Module):
    """A network with constant further input fields, `(E, *shape)`."""

    def __init__(self, network: nn.Module, inputs: Tensor | None) -> None:
        super().__init__()
        for parameter in network.parameters():
            # Convolutions have weights with the channels last, which files do not.
            parameter.data = parameter.data.contiguous()
        self.network = network
        self.register_buffer("inputs", inputs)

    def forward(self, state: Tensor) -> Tensor:
        """The network's output for states `(B, C, *shape)`."""
        if self.inputs is None:
            output: Tensor = self.network(state)
            return output
        inputs: Any = self.inputs
        fields = inputs.expand(state.shape[0], *inputs.shape)
        whole: Tensor = self.network(torch.cat([state, fields], dim=1))
        return whole


def _inputs(config: SupervisedConfig, inside: int, outside: int) -> Tensor | None:
    """The further input fields of the network on one rank."""
    if inside == outside or not config.network_inputs:
        return None
    section = config.grid
    grid = Grid(section.shape, section.boundary, MPI.COMM_SELF, section.length)
    stepper = None
    if "physics" in config.network_inputs:
        stepper = made_stepper(config.physics, grid, build_solver(config))
    return network_inputs(config, grid, stepper)


def _metadata(
    config: SupervisedConfig,
    content: dict[str, Any],
    state: dict[str, Any],
    channels: tuple[int, int],
    dtype: torch.dtype,
) -> dict[str, str]:
    """What the file contains, as texts. `content`: the whole config, also with the names of
    components that were not imported.
    """
    inside, outside = channels
    return {
        "format": "prdp-hpc network 1",
        "config": json.dumps(content),
        "name": config.name,
        "epoch": str(state["epoch"]),
        "maps": config.network_maps,
        "precision": str(dtype).removeprefix("torch."),
        "input": json.dumps(["B", inside, *config.grid.shape]),
        "output": json.dumps(["B", outside, *config.grid.shape]),
    }


def _write_torch(program: Program, example: Tensor, path: Path, metadata: dict[str, str]) -> float:
    exported = _exported(program, example, "torch")
    with atomic_path(path) as temporary:
        torch.export.save(exported, temporary, extra_files=dict(metadata))
    own = torch.export.load(path).module()
    return _compared(program, lambda state: own(state), example, path, 0.1)


def _exported(program: Program, example: Tensor, name: str) -> Any:
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            return torch.export.export(program, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:
        raise _not_exported(name, error) from error


def _write_onnx(program: Program, example: Tensor, path: Path, metadata: dict[str, str]) -> float:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        _needed(package)
    onnx, runtime = import_module("onnx"), import_module("onnxruntime")
    exported = _exported(program, example, "onnx")
    try:
        with warnings.catch_warnings():
            # Of torch's own code.
            warnings.simplefilter("ignore", FutureWarning)
            made: Any = torch.onnx.export(
                exported,
                input_names=["state"],
                output_names=["output"],
                opset_version=ONNX_OPSET,
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise _not_exported("onnx", error) from error
    model = made.model_proto
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString())
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(state: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"state": state.numpy()})[0])

    return _compared(program, run, example, path, TOLERANCE)


def _compared(
    program: Program, other: Callable[[Tensor], Tensor], example: Tensor, path: Path, most: float
) -> float:
    """The relative difference of two programs on 2 and on 3 samples; `InputError` if it is more
    than `most`, in which case the file is removed.
    """
    differences = []
    with torch.no_grad():
        for state in (example, torch.cat([example, -example[:1]])):
            expected, found = program(state), other(state)
            scale = float(expected.abs().max()) or 1.0
            differences.append(float((found - expected).abs().max()) / scale)
    largest = max(differences)
    if not largest <= most:
        path.unlink(missing_ok=True)
        raise InputError(
            f"{path}: the exported network differs from that of the run by {largest:.1e} of its "
            "largest output, so the file was removed: choose another format"
        )
    return largest


def _write_safetensors(network: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    _needed("safetensors")
    tensors = {
        name: tensor.detach().clone().contiguous() for name, tensor in network.state_dict().items()
    }
    # Its function save_file makes a file that only its owner can read.
    content = import_module("safetensors.torch").save(tensors, metadata)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _needed(package: str) -> None:
    try:
        import_module(package)
    except ImportError:
        raise InputError(
            f"export: needs the package {package}: pip install 'prdp-hpc[export]'"
        ) from None


def _not_exported(name: str, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(
        f"the network cannot be exported to {name} ({reason}): torch.export must be able to trace "
        "it, or choose --format safetensors"
    )

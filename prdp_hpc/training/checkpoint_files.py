"""Names of the checkpoints of a run, and reading one of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from prdp_hpc.training.checksummed import DamagedError, load_checksummed
from prdp_hpc.training.settings import CheckpointError

FORMAT = "prdp-hpc checkpoint 3"
NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.pt")
BEST = "best.pt"


def checkpoint_name(epoch: int, step: int) -> str:
    """The name of the checkpoint after `step` steps beyond `epoch` epochs."""
    return f"epoch_{epoch:04d}_step_{step:04d}.pt" if step else f"epoch_{epoch:04d}.pt"


def place_of(path: Path) -> tuple[int, int]:
    """Epoch and step in the name of a checkpoint."""
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the earliest first, without that of the lowest error."""
    found = folder.glob("epoch_*.pt")
    return sorted((path for path in found if NAME.fullmatch(path.name)), key=place_of)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; `CheckpointError` for a missing, damaged or other file."""
    advice = "remove the file and resume from the previous one, or start the run again"
    try:
        content = load_checksummed(path)
    except DamagedError as error:
        raise CheckpointError(f"{path}: {error}; {advice}") from error
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such checkpoint; run without resuming to start again"
        ) from error
    except Exception as error:  # a broken or foreign file can raise nearly anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({reason}); {advice}"
        ) from error
    if (
        not isinstance(content, dict)
        or content.get("format") != FORMAT
        or not {"epoch", "step", "fingerprint"} <= content.keys()
    ):
        raise CheckpointError(f"{path}: is not a checkpoint of this version of prdp-hpc; {advice}")
    return content

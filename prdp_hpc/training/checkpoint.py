"""Checkpoints of a training run: written whole, read without executing anything."""

from __future__ import annotations

import json
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prdp_hpc.errors import InputError
from prdp_hpc.files import atomic_path, remove_leftovers, to_json
from prdp_hpc.training.background import BackgroundWriter
from prdp_hpc.training.checksummed import DamagedError, load_checksummed, save_checksummed

FORMAT = "prdp-hpc checkpoint 3"
SHARE = 0.02
"""What saving may take of the time, see `Checkpoints.ready`."""
LONGEST_WAIT = 2.0
"""Seconds."""
NAME = re.compile(r"epoch_(\d+)(?:_step_(\d+))?\.pt")


class CheckpointError(InputError):
    """A checkpoint is missing, damaged, foreign or of other settings; the message names the file
    and what to do.
    """


class Checkpoints:
    """The checkpoints of one run, the last `keep` (default 2) of them kept.

    `folder/epoch_0003.pt` is the state after epoch 3, `folder/epoch_0003_step_0012.pt` that after
    12 steps of the epoch after it, of a run that had to leave. Each file carries a checksum of all
    its bytes (see `prdp_hpc.training.checksummed`).

    `settings` are those that a checkpoint must share with the run that loads it, nested as in the
    config; they are stored as the entry `fingerprint`, and a checkpoint of other settings raises
    `CheckpointError` on load. None: not checked. The entries `epoch`, `step`, `format` and
    `fingerprint` are the checkpoint's own. Write on one rank only.

    Attributes
    ----------
    saved : the epoch of the last checkpoint that was written or loaded; -1 before.
    """

    def __init__(
        self, folder: str | Path, keep: int = 2, settings: Mapping[str, Any] | None = None
    ) -> None:
        if keep < 1:
            raise InputError(f"keep at least 1 checkpoint, not {keep}")
        self.folder = Path(folder)
        self.keep = keep
        self.fingerprint = None if settings is None else fingerprint(settings)
        self.saved = -1
        self._writer = BackgroundWriter()
        self._started, self._cost = -LONGEST_WAIT, 0.0

    def save(self, epoch: int, state: Mapping[str, Any], step: int = 0) -> Path:
        """Write the state after `epoch` and `step` steps of the next one, then remove all but the
        last `keep`, and later ones.

        Later ones are left from before a resume. `state` holds tensors, numbers, strings, booleans,
        None, and dicts, lists or tuples of these; anything else raises `TypeError`, since it could
        not be read back.
        """
        path = self.save_soon(epoch, state, step)
        self.finish()
        return path

    def save_soon(
        self,
        epoch: int,
        state: Mapping[str, Any],
        step: int = 0,
        first: Callable[[], object] = lambda: None,
    ) -> Path:
        """Copy the state and write it in the background, after `first`; raises what went wrong with
        the one before.
        """
        self.finish()
        own = {"epoch": epoch, "step": step, "format": FORMAT, "fingerprint": self.fingerprint}
        self._started, start = time.monotonic(), time.perf_counter()
        content = _plain({**state, **own}, "state")
        copied = time.perf_counter() - start
        path = self.path(epoch, step)

        def write() -> None:
            # All of it, as if training waited: besides the processor's time it takes turns with
            # training at the interpreter.
            start = time.perf_counter()
            first()
            self._write(path, content)
            self._cost = copied + time.perf_counter() - start
            self.saved = epoch

        with self._explained():
            self._writer.submit(write)
        return path

    @property
    def ready(self) -> bool:
        """Whether to save now: none is being written, and saving takes at most 2 % of the time, or
        the last was 2 s ago.
        """
        return not self._writer.busy and time.monotonic() - self._started >= min(
            self._cost / SHARE, LONGEST_WAIT
        )

    def check(self) -> None:
        """Raise what went wrong with a checkpoint that was written in the background; does not
        wait.
        """
        with self._explained():
            self._writer.check()

    def finish(self) -> None:
        """Wait until the checkpoint that is being written is there; raises what went wrong with
        it.
        """
        with self._explained():
            self._writer.wait()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: the checkpoint cannot be written ({error.strerror or error}); the "
                "ones before are whole: "
                "make room, then go on with --resume"
            ) from error

    def path(self, epoch: int, step: int = 0) -> Path:
        """The file of the state after `epoch` and `step` steps of the next one."""
        return self.folder / (
            f"epoch_{epoch:04d}_step_{step:04d}.pt" if step else f"epoch_{epoch:04d}.pt"
        )

    def _write(self, path: Path, content: Any) -> None:
        remove_leftovers(self.folder / "epoch_*.pt")
        with atomic_path(path) as temporary:
            save_checksummed(content, temporary)
        earlier = [other for other in self._paths() if _place(other) <= _place(path)]
        for other in self._paths():
            if other not in earlier[-self.keep :]:
                other.unlink(missing_ok=True)

    def latest(self) -> Path | None:
        """The last checkpoint, or None where there is none."""
        paths = self._paths()
        return paths[-1] if paths else None

    def load(self, path: str | Path) -> dict[str, Any]:
        """The state in `path`, with its `epoch`, tensors on the CPU; raises `CheckpointError`."""
        return self._fitting(Path(path), _read(Path(path)))

    def load_latest(self) -> dict[str, Any] | None:
        """The state of the last readable checkpoint, or None where there is no file.

        A damaged file is passed over with a warning. Raises `CheckpointError` where all are
        damaged, or where the settings do not fit.
        """
        paths = self._paths()
        for path in reversed(paths):
            try:
                content = _read(path)
            except CheckpointError as error:
                warnings.warn(
                    f"{error}; trying the checkpoint before it", RuntimeWarning, stacklevel=2
                )
                continue
            return self._fitting(path, content)
        if paths:
            raise CheckpointError(
                f"{self.folder}: none of the {len(paths)} checkpoints can be read; start the run "
                "anew"
            )
        return None

    def _fitting(self, path: Path, content: dict[str, Any]) -> dict[str, Any]:
        saved = content["fingerprint"]
        if self.fingerprint is not None and saved != self.fingerprint:
            if not isinstance(saved, str):
                raise CheckpointError(
                    f"{path}: was saved without settings, so nothing says that it fits; start the "
                    "run anew"
                )
            try:
                check_fit(json.loads(saved), json.loads(self.fingerprint))
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
        self.saved = content["epoch"]
        return content

    def _paths(self) -> list[Path]:
        found = self.folder.glob("epoch_*.pt")
        return sorted((path for path in found if NAME.fullmatch(path.name)), key=_place)


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as one level: `{"training": {"epochs": 3}}` becomes `{"training.epochs":
    3}`.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": item for inner, item in flat_settings(value).items()}
        else:
            flat[str(key)] = value
    return flat


def fingerprint(settings: Mapping[str, Any]) -> str:
    """Settings as one line of text, the same for equal settings in any order."""
    return to_json(dict(sorted(flat_settings(settings).items())))


def check_fit(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` that lists each key whose value differs between two flat dicts of
    settings.
    """
    differing = [
        key
        for key in sorted({*saved, *now})
        if key not in saved or key not in now or saved[key] != now[key]
    ]
    if differing:
        shown = "; ".join(
            f"{key}: {_shown(saved, key)} in the checkpoint, {_shown(now, key)} now"
            for key in differing
        )
        raise CheckpointError(
            f"was saved with other settings ({shown}); set them back, or start a run of another "
            "name"
        )


def random_state() -> dict[str, Any]:
    """The states of torch's, NumPy's (legacy, global) and Python's generators on this rank, as
    tensors and plain values.

    The CUDA generators are included once this process has used CUDA.
    """
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    cuda_used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if cuda_used else [],
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
        "python": random.getstate(),
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set the generators to what `random_state` returned; states of GPUs that this process does not
    see are left out.
    """
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _shown(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "absent"


def _place(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _read(path: Path) -> dict[str, Any]:
    advice = "remove the file and resume from the one before it, or start the run anew"
    try:
        content = load_checksummed(path)
    except DamagedError as error:
        raise CheckpointError(f"{path}: {error}; {advice}") from error
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such checkpoint; run without resuming to start anew"
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


def _plain(value: object, where: str) -> Any:
    """A copy of `value` that `torch.load(weights_only=True)` reads back."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]  # type: ignore[arg-type, var-annotated]
        return items if type(value) is list else tuple(items)
    # Subclasses too are refused: a NumPy float is a float, but is stored as a NumPy object.
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(
        f"{where}: {type(value).__name__} cannot be kept in a checkpoint; convert it to a tensor "
        "or a plain value"
    )

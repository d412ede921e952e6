"""Checkpoints of a training run: written atomically, read without executing code."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prdp_hpc.files import atomic_path, remove_leftovers
from prdp_hpc.number_checks import check_count
from prdp_hpc.training.background import BackgroundWriter
from prdp_hpc.training.checkpoint_files import (
    BEST,
    FORMAT,
    checkpoint_name,
    checkpoint_paths,
    place_of,
    read_checkpoint,
)
from prdp_hpc.training.checksummed import plain_copy, save_checksummed
from prdp_hpc.training.settings import CheckpointError, check_fit, fingerprint

SHARE = 0.02
"""Maximum share of the run time for writing checkpoints, see `Checkpoints.ready`."""
LONGEST_WAIT = 2.0
"""Maximum delay of a checkpoint because of `SHARE`, in seconds."""


class Checkpoints:
    """The checkpoints of one run.

    `epoch_0003.pt` is the state after epoch 3, and `epoch_0003_step_0012.pt` the state after 12
    steps of the next epoch, and `best.pt` the state with the lowest error. Each file ends with a
    checksum of its bytes (see `prdp_hpc.training.checksummed`). The entries `epoch`, `step`,
    `format` and `fingerprint` of a state are added when it is saved. Only one rank may write.

    Parameters
    ----------
    folder : str or Path
        Folder of the checkpoints.
    keep : int, default 2
        Number of checkpoints to keep, the latest ones.
    settings : mapping, optional
        Nested settings, as in a config, that must be equal in a checkpoint and in the run that
        loads it. Default: settings are not checked.
    added : mapping, optional
        Settings that checkpoints of earlier versions do not have, with the values that they had,
        e.g. `{"training.ema": None}`. Default: none.

    Attributes
    ----------
    saved : tuple of int
        Epoch and step of the last checkpoint that was written or loaded; (-1, 0) before the first.

    Raises
    ------
    InputError
        If `keep` is below 1.

    Examples
    --------
    >>> import torch
    >>> from prdp_hpc import Checkpoints
    >>> checkpoints = Checkpoints("checkpoints", settings={"training": {"learning_rate": 0.1}})
    >>> checkpoints.save(3, {"theta": torch.ones(2)}).name
    'epoch_0003.pt'
    >>> state = checkpoints.load_latest()
    >>> state["epoch"], state["theta"].tolist()
    (3, [1.0, 1.0])
    """

    def __init__(
        self,
        folder: str | Path,
        keep: int = 2,
        settings: Mapping[str, Any] | None = None,
        added: Mapping[str, Any] | None = None,
    ) -> None:
        check_count("keep", keep)
        self.folder = Path(folder)
        self.keep = keep
        self.fingerprint = None if settings is None else fingerprint(settings)
        self._added = added
        self.saved = (-1, 0)
        self._best: dict[str, Any] | None = None
        self._writer = BackgroundWriter()
        self._started, self._cost = -LONGEST_WAIT, 0.0

    def save(self, epoch: int, state: Mapping[str, Any], step: int = 0) -> Path:
        """Write a state and remove old checkpoints.

        All but the last `keep` checkpoints are removed, and those of later epochs, which are from
        before a resume.

        Parameters
        ----------
        epoch : int
            Number of completed epochs.
        state : mapping
            Tensors, numbers, strings, booleans, None, and dicts, lists or tuples of these.
        step : int, default 0
            Number of completed steps of the next epoch.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        TypeError
            If the state contains an object of another type, which could not be read.
        CheckpointError
            If the file cannot be written.
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
        """Copy the state and write it in the background.

        Parameters
        ----------
        epoch : int
            Number of completed epochs.
        state : mapping
            As in `save`.
        step : int, default 0
            Number of completed steps of the next epoch.
        first : callable, optional
            Called in the background before the state is written. Default: nothing.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        TypeError
            If the state contains an object of another type.
        CheckpointError
            If the previous checkpoint could not be written.
        """
        self.finish()
        self._started, start = time.monotonic(), time.perf_counter()
        content = self._copy(epoch, state, step)
        copied = time.perf_counter() - start
        path, best = self.path(epoch, step), self._best
        self._best = None

        def write() -> None:
            # Count the whole time as if training waited, because this thread also holds the lock of
            # the interpreter.
            start = time.perf_counter()
            first()
            if best is not None:
                self._write_best(best)
            self._write(path, content)
            self._cost = copied + time.perf_counter() - start
            self.saved = (epoch, step)

        with self._explained():
            self._writer.submit(write)
        return path

    def keep_best(self, epoch: int, state: Mapping[str, Any], step: int = 0) -> None:
        """Copy the state with the lowest error so far, which the next checkpoint writes first.

        Parameters
        ----------
        epoch : int
            Number of completed epochs.
        state : mapping
            As in `save`.
        step : int, default 0
            Number of completed steps of the next epoch.

        Raises
        ------
        TypeError
            If the state contains an object of another type.
        """
        self._best = self._copy(epoch, state, step)

    def load_best(self) -> dict[str, Any] | None:
        """Load the state with the lowest error.

        Returns
        -------
        dict or None
            The state as in `load`, or None if there is no `best.pt`.

        Raises
        ------
        CheckpointError
            As `load`, if the file cannot be read or is of other settings.
        """
        path = self.folder / BEST
        return self._checked(path, read_checkpoint(path)) if path.exists() else None

    def _copy(self, epoch: int, state: Mapping[str, Any], step: int) -> dict[str, Any]:
        own = {"epoch": epoch, "step": step, "format": FORMAT, "fingerprint": self.fingerprint}
        copied: dict[str, Any] = plain_copy({**state, **own}, "state")
        return copied

    def _write_best(self, content: dict[str, Any]) -> None:
        remove_leftovers(self.folder / BEST)
        with atomic_path(self.folder / BEST) as temporary:
            save_checksummed(content, temporary)

    @property
    def ready(self) -> bool:
        """Whether to save now.

        This is the case if no checkpoint is being written, and if either saving takes at most 2 %
        of the time or the last checkpoint was started at least 2 s ago.
        """
        return not self._writer.busy and time.monotonic() - self._started >= min(
            self._cost / SHARE, LONGEST_WAIT
        )

    def check(self) -> None:
        """Raise the error of a checkpoint written in the background, without waiting.

        Raises
        ------
        CheckpointError
            If it could not be written.
        """
        with self._explained():
            self._writer.check()

    def finish(self) -> None:
        """Wait until the checkpoint in the background is written.

        Raises
        ------
        CheckpointError
            If it could not be written.
        """
        with self._explained():
            self._writer.wait()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(
                f"{self.folder}: the checkpoint cannot be written ({error.strerror or error}); "
                "earlier ones are intact: "
                "free disk space, then continue with --resume"
            ) from error

    def path(self, epoch: int, step: int = 0) -> Path:
        """Return the path of a checkpoint.

        Parameters
        ----------
        epoch : int
            Number of completed epochs.
        step : int, default 0
            Number of completed steps of the next epoch.

        Returns
        -------
        Path
            The file, which need not exist.
        """
        return self.folder / checkpoint_name(epoch, step)

    def _write(self, path: Path, content: Any) -> None:
        remove_leftovers(self.folder / "epoch_*.pt")
        with atomic_path(path) as temporary:
            save_checksummed(content, temporary)
        found = checkpoint_paths(self.folder)
        earlier = [other for other in found if place_of(other) <= place_of(path)]
        for other in found:
            if other not in earlier[-self.keep :]:
                other.unlink(missing_ok=True)

    def latest(self) -> Path | None:
        """Return the path of the last checkpoint.

        Returns
        -------
        Path or None
            The file, or None if there is no checkpoint.
        """
        paths = checkpoint_paths(self.folder)
        return paths[-1] if paths else None

    def load(self, path: str | Path) -> dict[str, Any]:
        """Load a checkpoint.

        Parameters
        ----------
        path : str or Path
            The file.

        Returns
        -------
        dict
            The state with tensors on the CPU, and the entries `epoch` and `step`.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, from another program or of other settings.
        """
        return self._fitting(Path(path), read_checkpoint(Path(path)))

    def load_latest(self) -> dict[str, Any] | None:
        """Load the last readable checkpoint.

        A damaged file is skipped with a warning.

        Returns
        -------
        dict or None
            The state as in `load`, or None if there is no checkpoint.

        Raises
        ------
        CheckpointError
            If all files are damaged, or if the settings differ.
        """
        paths = checkpoint_paths(self.folder)
        for path in reversed(paths):
            try:
                content = read_checkpoint(path)
            except CheckpointError as error:
                warnings.warn(
                    f"{error}; trying the previous checkpoint", RuntimeWarning, stacklevel=2
                )
                continue
            return self._fitting(path, content)
        if paths:
            raise CheckpointError(
                f"{self.folder}: none of the {len(paths)} checkpoints can be read; start the run "
                "again"
            )
        return None

    def _fitting(self, path: Path, content: dict[str, Any]) -> dict[str, Any]:
        self.saved = content["epoch"], content["step"]
        return self._checked(path, content)

    def _checked(self, path: Path, content: dict[str, Any]) -> dict[str, Any]:
        """The content, if it was saved with the settings of this run."""
        saved = content["fingerprint"]
        if self.fingerprint is not None and saved != self.fingerprint:
            if not isinstance(saved, str):
                raise CheckpointError(
                    f"{path}: was saved without settings, so they cannot be compared with those of "
                    "this run; start the run again"
                )
            try:
                check_fit(json.loads(saved), json.loads(self.fingerprint), self._added)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None
        return content

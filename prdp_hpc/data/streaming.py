"""The samples of a group, read from the data set when they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from mpi4py import MPI
from torch import Tensor

from prdp_hpc.data.group_reader import GroupReader
from prdp_hpc.data.samples import Ids
from prdp_hpc.distributed.call_ahead import CallAhead
from prdp_hpc.distributed.collective import call_together, share_or_end_job

AHEAD = 3
"""Number of batches that are read ahead. The first of them is waited for one step before it is
used.
"""


class ReadingThread:
    """The thread of a task that reads its data, one batch after the other.

    There is one thread, because HDF5 executes one call at a time, and a user-defined data set need
    not support several. A batch that the system has in its cache of files is read at once by the
    caller instead, unless it goes to a GPU: a rank has no second core, and to change between
    threads takes longer than this copy.

    Parameters
    ----------
    device : the device to which batches are moved; from pinned memory if it is a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, ThreadPoolExecutor(1, "prdp-hpc-data")
        self._on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None

    def submit(self, reader: GroupReader, ids: Ids) -> Future[Tensor]:
        """Begin to read the samples with these numbers."""
        if not self._on_gpu:
            read: Future[Tensor] = Future()
            try:
                found = reader.cached_samples(ids)
            except Exception as error:  # raised by `result`, like an error of the thread
                read.set_exception(error)
                return read
            if found is not None:
                read.set_result(found)
                return read
        return self._pool.submit(self._read, reader, ids)

    def result(self, reading: Future[Tensor]) -> Tensor:
        """Wait until a batch is read; raises the error of the thread."""
        found = reading.result()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(self._stream)
            found.record_stream(current)
        return found

    def close(self) -> None:
        """End the thread after the batch that it is reading."""
        self._pool.shutdown(cancel_futures=True)

    def _read(self, reader: GroupReader, ids: Ids) -> Tensor:
        found = reader.samples(ids, pinned=self._on_gpu)
        with torch.cuda.stream(self._stream) if self._on_gpu else nullcontext():
            return found.to(self._device, non_blocking=True)


class StreamedSamples:
    """Samples of a group that are read when they are needed, some batches ahead.

    Parameters
    ----------
    reader : reads the group.
    thread : the thread that reads.
    world : all ranks, which raise an error of one rank's thread together.
    """

    streamed, nbytes = True, 0

    def __init__(self, reader: GroupReader, thread: ReadingThread, world: MPI.Comm) -> None:
        self.reader, self.windows = reader, reader.windows
        self._thread, self._world = thread, world
        self._ahead: deque[tuple[Ids, Future[Tensor]]] = deque()
        self._sequence: Iterator[Ids] = iter(())
        self._step = -1
        self._next: tuple[Ids, CallAhead[Tensor]] | None = None
        self._current: tuple[Ids, Tensor] | None = None

    def follow(self, step: int, sequence: Callable[[], Iterator[Ids]]) -> None:
        """Read ahead the batches of the steps from `step` on, which `sequence()` yields, unless
        this is done already.
        """
        if step != self._step:
            self.close()
            self._step, self._sequence = step, sequence()
        self._fill()

    def advance(self) -> None:
        """Begin the next step: wait until its batch and the one after it are read; from the first
        `batch` then selects. Collective.
        """
        self._step += 1
        ids, read = self._next or self._read_next()
        self._fill()
        # The ranks agree on the next batch during this step.
        self._next = self._read_next() if self._ahead else None
        self._current = ids, read.result()

    def batch(self, ids: Ids) -> Tensor:
        """The samples with these numbers, `(b, window, C, *local_shape)`.

        Those of the current step are read already, all of them or a part; others are read now.
        Not collective, since the replicas may divide their batches into different numbers of parts.
        """
        if self._current is not None:
            there, batch = self._current
            if np.array_equal(there, ids):
                return batch
            rows = {int(sample): row for row, sample in enumerate(there)}
            if len(ids) and all(int(sample) in rows for sample in ids):
                return batch[torch.tensor([rows[int(sample)] for sample in ids])]
        try:
            return self._thread.result(self._thread.submit(self.reader, ids))
        except Exception as error:
            share_or_end_job(self._world, error)
            raise

    def batches(self, sequence: Iterable[Ids]) -> Iterator[Tensor]:
        """The samples of several batches, one after the other; collective, if the sequences of all
        ranks have the same length.
        """
        ahead: deque[Future[Tensor]] = deque()
        for ids in sequence:
            ahead.append(self._thread.submit(self.reader, ids))
            if len(ahead) > 1:
                yield self._result(ahead.popleft())
        while ahead:
            yield self._result(ahead.popleft())

    def close(self) -> None:
        """Discard the batches that were read ahead."""
        for _, reading in self._ahead:
            reading.cancel()
        self._ahead.clear()
        if self._next is not None:
            self._next[1].discard()
            self._next = None
        self._step, self._current, self._sequence = -1, None, iter(())

    def _read_next(self) -> tuple[Ids, CallAhead[Tensor]]:
        """The batch after those that were used, when it is read; collective."""
        ids, reading = self._ahead.popleft()
        return ids, CallAhead(self._world, partial(self._thread.result, reading))

    def _result(self, reading: Future[Tensor]) -> Tensor:
        return call_together(self._world, partial(self._thread.result, reading))

    def _fill(self) -> None:
        while len(self._ahead) < AHEAD:
            ids = next(self._sequence, None)
            if ids is None:
                return
            self._ahead.append((ids, self._thread.submit(self.reader, ids)))

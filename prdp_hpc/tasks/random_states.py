"""The random number generators of a process: seeds, and their states for checkpoints."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_generators(seed: int, replica: int, step: int = 0) -> None:
    """Seed the random generators of Python, NumPy and torch, with one stream per replica.

    The grid ranks of a replica have the same stream, so that a network on whole fields draws the
    same numbers on each of them, e.g. for dropout.
    """
    words = np.random.SeedSequence((seed, replica, step)).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    torch.manual_seed(int(words[2]))


def random_state() -> dict[str, Any]:
    """Return the states of the generators of torch, NumPy (legacy, global) and Python on this rank,
    as tensors and plain values.

    The CUDA generators are included if this process has used CUDA.
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
    """Restore the generators from the result of `random_state`, without states of GPUs that this
    process does not have.
    """
    torch.set_rng_state(state["torch"])
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state, device)
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


@contextmanager
def own_random_numbers() -> Iterator[None]:
    """Restore the generators after a block that may seed them and draw numbers."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)

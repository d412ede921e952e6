"""Binomial checkpointing (revolve): where to store states of a long differentiated computation.

With at most `c` stored states, including the first one, and every step computed at most `r` times,
`β(c, r) = C(c + r, c)` steps can be reversed. The splits below lead to the minimum number of steps,
`r·l − β(c + 1, r − 1)` besides the l steps that are differentiated, with the smallest r for which
`l ≤ β(c, r)`.

Source: Griewank and Walther, Algorithm 799: revolve, ACM TOMS 26 (2000).
"""

from __future__ import annotations

from math import comb


def reversible(checkpoints: int, repeats: int) -> int:
    """The maximum number of steps that can be reversed, β."""
    return comb(checkpoints + repeats, checkpoints) if repeats >= 0 and checkpoints >= 0 else 0


def repeats(steps: int, checkpoints: int) -> int:
    """The maximum number of times that a step is computed, besides its differentiation, r."""
    count = 0
    while reversible(checkpoints, count) < steps:
        count += 1
    return count


def extra_steps(steps: int, checkpoints: int) -> int:
    """The minimum number of steps besides those that are differentiated."""
    r = repeats(steps, checkpoints)
    return r * steps - reversible(checkpoints + 1, r - 1)


def split(steps: int, checkpoints: int) -> int:
    """The number of steps, of `steps` ≥ 2, to compute before the next state is stored."""
    r = repeats(steps, checkpoints)
    return min(reversible(checkpoints, r - 1), steps - reversible(checkpoints - 1, r - 1))


def default_checkpoints(steps: int) -> int:
    """The fewest checkpoints with which every step is computed at most twice besides its
    differentiation: about √(2 steps).
    """
    count = 1
    while reversible(count, 2) < steps:
        count += 1
    return count

"""Where to keep states of a long computation that is differentiated backwards: revolve.

With `c` states kept at a time, the first one included, and no step taken more than `r` times,
`β(c, r) = C(c + r, c)` steps can be reversed. Each split below leads to the fewest steps that are
possible, `r·l − β(c + 1, r − 1)` beside the l steps that are differentiated, with the smallest r
for which `l ≤ β(c, r)`.

Source: Griewank and Walther, Algorithm 799: revolve, ACM TOMS 26 (2000).
"""

from __future__ import annotations

from math import comb


def reversible(checkpoints: int, repeats: int) -> int:
    """β: the most steps that can be reversed."""
    return comb(checkpoints + repeats, checkpoints) if repeats >= 0 and checkpoints >= 0 else 0


def repeats(steps: int, checkpoints: int) -> int:
    """r: how often the step that is taken most often is taken, beside when it is
    differentiated.
    """
    count = 0
    while reversible(checkpoints, count) < steps:
        count += 1
    return count


def extra_steps(steps: int, checkpoints: int) -> int:
    """The fewest steps beside those that are differentiated."""
    r = repeats(steps, checkpoints)
    return r * steps - reversible(checkpoints + 1, r - 1)


def split(steps: int, checkpoints: int) -> int:
    """How many of `steps` ≥ 2 steps to take before the next state is kept."""
    r = repeats(steps, checkpoints)
    return min(reversible(checkpoints, r - 1), steps - reversible(checkpoints - 1, r - 1))


def default_checkpoints(steps: int) -> int:
    """The fewest with which no step is taken more than twice beside when it is differentiated:
    about √(2 steps).
    """
    count = 1
    while reversible(count, 2) < steps:
        count += 1
    return count

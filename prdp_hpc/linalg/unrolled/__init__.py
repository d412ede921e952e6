"""Differentiation through the iterations of a solve."""

from prdp_hpc.linalg.unrolled.function import unrolled_solve

__all__ = ["unrolled_solve"]

"""Nonparametric distribution of interval-censored times.

The maximum likelihood estimate puts its mass on innermost intervals and is found by
self-consistency (EM): Turnbull (1976) J R Stat Soc B 38:290-295,
doi:10.1111/j.2517-6161.1976.tb01597.x. Where it lies inside one of them the data do not tell. With
exact and right-censored times only, it is the Kaplan-Meier estimate.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

MOST = 20_000  # iterations


class Innermost(NamedTuple):
    """Intervals (low, high] that can hold mass; [low, high] where both are one day."""

    low: np.ndarray  # (m,)
    high: np.ndarray  # (m,), inf in the last after right-censored times
    inside: np.ndarray  # (n, m): may this time lie there?


def innermost(left: np.ndarray, right: np.ndarray) -> Innermost:
    """The innermost intervals of times in (left, right]; exact where both are equal.

    On one day an exact time comes first, then the ends of intervals, then the beginnings.
    """
    begin = [(x, 0 if x == y else 2) for x, y in zip(left, right, strict=True)]
    end = [(y, 1) for y in right]
    every = sorted({*begin, *end})
    pairs = [(a, b) for a, b in itertools.pairwise(every) if a[1] != 1 and b[1] == 1]
    inside = [
        [b <= low and high <= e for low, high in pairs] for b, e in zip(begin, end, strict=True)
    ]
    low, high = np.array([(a[0], b[0]) for a, b in pairs]).reshape(-1, 2).T
    return Innermost(low, high, np.array(inside, dtype=bool).reshape(len(begin), -1))


def masses(inside: np.ndarray, weights: np.ndarray, tolerance: float = 1e-10) -> np.ndarray:
    """Mass of every innermost interval, (..., m), for one or more weightings of times, (..., n)."""
    allowed = inside.astype(float)
    mass = np.full((*weights.shape[:-1], inside.shape[1]), 1 / inside.shape[1])
    total = weights.sum(-1, keepdims=True)
    for _ in range(MOST):
        likelihood = mass @ allowed.T
        share = np.divide(weights, likelihood, out=np.zeros_like(likelihood), where=weights > 0)
        before, mass = mass, mass * (share @ allowed) / total
        if np.abs(mass - before).max() < tolerance:
            break
    return mass

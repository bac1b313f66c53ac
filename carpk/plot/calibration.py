"""Figures of simulation-based calibration."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from carpk.plot.style import BLUE, GREY, INK, RED

if TYPE_CHECKING:
    from carpk.checks import SBC


def sbc(result: SBC) -> Figure:
    """ECDF of the ranks less uniform, a panel per quantity, with its simultaneous band.

    A curve that rises first: the posterior lies too high. Rising at both ends: it is too narrow.
    """
    names = list(result.ranks)
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(max(2.5 * columns, 5.5), 1.9 * rows + 1.2),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    share, low, high = (np.concatenate([[0.0], x, [0.0]]) for x in result.band())
    share[-1] = 1.0
    how = dict(zip(names, result.table["posterior"], strict=True))
    for axis in axes.flat[len(names) :]:
        axis.set_visible(False)
    for name, axis in zip(names, axes.flat, strict=False):
        off = name in result.off
        line = np.concatenate([[0.0], result.ecdf_difference(name), [0.0]])
        axis.fill_between(share, low, high, color=GREY, alpha=0.3, lw=0)
        axis.axhline(0.0, color=INK, lw=0.6)
        axis.step(share, line, where="post", color=RED if off else BLUE, lw=1.4)
        words = f"{name}: {how[name]}" if off else name
        axis.set_title(words, loc="left", fontsize=9, color=RED if off else INK)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.supxlabel("rank of the truth among the draws / number of draws", fontsize=9)
    figure.supylabel("ECDF - uniform", fontsize=9)
    head = "OK" if result.ok else "DO NOT TRUST"
    figure.suptitle(
        f"{head}: ranks in {result.simulations} simulated data sets\n"
        f"band: holds all curves at once in 95 % of the cases if calibrated",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    return figure

"""Colours and intervals of every figure."""

from carpk.inference import INTERVAL

BLUE, GREY, RED, INK = "#2a6fa8", "#9a9a9a", "#c23b22", "#222222"
WIDEST = (1e-2, 1e2)  # ratios beyond are drawn at the edge: one must not flatten the others
SPARE = ("#2e8b57", "#b8860b", "#7b4fa3")  # for more than three arms
LOW, HIGH = (1 - INTERVAL) / 2, (1 + INTERVAL) / 2

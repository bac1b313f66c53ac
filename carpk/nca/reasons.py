"""Why a parameter is missing: the sentence beside it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import numpy as np

from carpk.dosing.regimen import SAME
from carpk.errors import CarpkError
from carpk.nca.terms import interval_of
from carpk.nca.windows import Window

CLEARANCE = ("CLO", "CLFO", "VZO", "VZFO")
MEAN_TIME = ("MRTIVIFO", "MRTEVIFO")
PER_DOSE = ("CMAXD", "AUCLSTD", "AUCIFOD", *CLEARANCE)
TERMINAL = (
    *("LAMZ", "LAMZHL", "LAMZNPT", "LAMZLL", "LAMZUL", "LAMZSPN", "R2ADJ"),
    *("AUCIFO", "AUCPEO", "AUCIFP", "AUCPEP", "AUCIFOD", "AUCPBEO", "AUCPBEP"),
    *CLEARANCE,
    *MEAN_TIME,
)


def missing(parameters: Mapping[str, float], window: Window, extrapolate: float) -> dict[str, str]:
    """Parameter -> why it has no value, of those that have none."""
    absent = [n for n, x in parameters.items() if np.isnan(x) or (n == "LAMZNPT" and x == 0)]
    return {name: _why(name, window, extrapolate) for name in absent}


def _why(name: str, window: Window, extrapolate: float) -> str:
    interval = interval_of(name)
    if not window.t.size:
        return "no observation from this infusion to the next"
    if name in PER_DOSE and np.isnan(window.dose):
        return "dose not known, or not in one unit"
    if name in CLEARANCE + MEAN_TIME and window.residual:
        return "concentration left from the dose before"
    if name == "TABOVE":
        return "no LLOQ known"
    if interval is not None:
        return _no_area(interval, window, extrapolate)
    if not window.quantifiable.any():
        return "all concentrations BLQ"
    if name in TERMINAL:
        return _no_terminal_phase(window)
    return "no rise from the first quantifiable concentration to CMAX"


def _no_terminal_phase(window: Window) -> str:
    if window.chosen is not None:
        return "no decline over the chosen points"
    seen = window.quantifiable
    peak = np.argmax(np.where(seen, window.c, -np.inf))
    if seen[peak + 1 :].sum() < 3:
        return "fewer than 3 quantifiable concentrations after TMAX"
    return "no decline over the last quantifiable concentrations"


def _no_area(interval: tuple[float, float], window: Window, extrapolate: float) -> str:
    last = window.t[-1]
    if window.until < interval[1] * (1 - SAME):
        return f"next infusion on day {window.until:g}"
    if last >= interval[1] * (1 - SAME):
        seen = window.t[window.quantifiable]
        return f"BLQ dropped after day {seen[-1]:g}" if seen.size else "all concentrations BLQ"
    if interval[1] - last > extrapolate:
        return f"observations stop on day {last:g}, more than {extrapolate:g} day before"
    return f"observations stop on day {last:g} and no lambda z to extrapolate"


def told(reasons: Mapping[str, str]) -> str:
    """One text of all: "LAMZ LAMZHL: fewer than 3 ...; TABOVE: no LLOQ known"."""
    groups: dict[str, list[str]] = {}
    for name, why in reasons.items():
        groups.setdefault(why, []).append(name)
    return "; ".join(f"{' '.join(names)}: {why}" for why, names in groups.items())


def read(text: str) -> dict[str, str]:
    """Parameter -> why, of a text that `told` wrote."""
    groups = [group.partition(": ") for group in text.split("; ") if group]
    return {name: why for names, _, why in groups for name in names.split()}


def refuse_too_few(key: tuple[Hashable, int], window: Window) -> None:
    """Refuse chosen days that hold fewer than three quantifiable concentrations."""
    if window.chosen is None:
        return
    start, stop, _ = window.chosen
    seen = window.t[window.quantifiable]
    inside = (seen >= start - SAME) & (seen <= stop + SAME)
    if inside.sum() < 3:
        raise CarpkError(
            f"`lambda_z` of patient {key[0]!r}, infusion {key[1]}, holds {inside.sum()} "
            f"quantifiable concentrations from day {start:g} to {stop:g}, but needs 3 or more; "
            f"there are some on days {', '.join(f'{day:g}' for day in seen) or 'none'}."
        )

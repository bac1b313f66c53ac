"""Sampling days for a planned study."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from carpk._tables import as_frame
from carpk._types import Values
from carpk.errors import FitError
from carpk.information.design import Arms, PlannedArm, named, planned, size_of
from carpk.information.patients import patient_information
from carpk.information.result import SD_TO_LOG2, Identifiability, posterior, result_of
from carpk.population.population import Population

if TYPE_CHECKING:
    import pandas as pd

Spot = TypeVar("Spot")


@dataclasses.dataclass(frozen=True)
class SamplingTimes:
    """Days chosen for a planned study.

    Attributes:
        days: output -> chosen days, in all arms.
        arms: the arms with these days.
        before, after: what they tell without and with the chosen days.
        table: a row per chosen day: output, day, and `lost`, what leaving it out would cost of the
            criterion [bit].
        focus: the parameters that the days were chosen for; empty if for all.
    """

    days: Mapping[str, tuple[float, ...]]
    arms: Mapping[str, PlannedArm]
    before: Identifiability
    after: Identifiability
    table: pd.DataFrame
    focus: tuple[str, ...]

    def __repr__(self) -> str:
        chosen = "; ".join(f"{o} on days {', '.join(map(_g, d))}" for o, d in self.days.items())
        lines = [
            f"Add {chosen}. Expected gain over the prior: {self.before.gain:.1f} bits before, "
        ]
        lines[0] += f"{self.after.gain:.1f} after."
        change = self.before.compare(self.after)
        for name in self.focus:
            sds = "{this:.3g} before, {other:.3g} after".format_map(change.loc[name])
            lines.append(f"  {name}: posterior SD {sds}.")
        return "\n".join([*lines, self.table.to_string(index=False, float_format="{:.3g}".format)])


def _g(day: float) -> str:
    return f"{day:g}"


def sampling_times(
    population: Population,
    arms: Arms,
    candidates: Mapping[str, Sequence[float]],
    *,
    add: int,
    focus: Sequence[str] = (),
    at: Values | None = None,
) -> SamplingTimes:
    """The days worth adding to a planned study.

    One day after the other is added where it helps most, then days are exchanged as long as that
    helps (Fedorov's exchange). The criterion is the determinant of the expected posterior
    covariance of `focus`, all else unknown (D_s), or of everything (D). Predictions and
    sensitivities are computed once.

    Args:
        population: as in `identifiability`.
        arms: a planned arm, or several by name; their days are kept, and may be none.
        candidates: output -> days that could be added. A chosen day is added to every arm; an arm
            that has it already is not sampled twice.
        add: how many.
        focus: names of parameters, as `Identifiability.names` has them.
        at: as in `identifiability`.
    """
    arms = named(arms)
    spots = [(o, float(day)) for o, days in candidates.items() for day in sorted({*days})]
    every = {name: arm.also(candidates) for name, arm in arms.items()}
    who, columns = planned(population, every, at)
    arrays = patient_information(population, who, columns)

    def sampled(i: int, output: str, day: float) -> np.ndarray:
        spot = (who.time[i] == day) & (who.which[i] == who.outputs.index(output))
        here: np.ndarray = spot & who.mask[i]
        return here

    base = np.zeros_like(who.mask)
    for i, arm in enumerate(arms.values()):
        for output, days in arm.days.items():
            for day in days:
                base[i] |= sampled(i, output, float(day))
    at_spot = {s: np.stack([sampled(i, *s) for i in range(len(base))]) & ~base for s in spots}
    spots = [s for s in spots if at_spot[s].any()]
    if not 0 < add <= len(spots):
        raise FitError(
            f"sampling_times: `add` is {add}, but must be from 1 to {len(spots)}, the number of "
            "candidates that the arms do not have yet."
        )
    names = [c.name for c in columns]
    unknown = [name for name in focus if name not in names]
    if unknown:
        raise FitError(
            f"sampling_times: {unknown[0]!r} in `focus` is not a parameter of this population; "
            f"known are {', '.join(names)}."
        )
    aim = [names.index(n) for n in focus] or list(range(len(names)))
    sd = np.array([c.prior_sd for c in columns])

    def matrix(chosen: Sequence[tuple[str, float]]) -> np.ndarray:
        keep = base.copy()
        for s in chosen:
            keep |= at_spot[s]
        return arrays.matrix(keep)

    def bits(chosen: Sequence[tuple[str, float]]) -> float:
        covariance = posterior(matrix(chosen) * np.outer(sd, sd))[np.ix_(aim, aim)]
        return -float(SD_TO_LOG2 * np.linalg.slogdet(covariance)[1])

    chosen = exchanged(spots, add, bits)
    full = bits(chosen)
    rows = [(*s, full - bits([x for x in chosen if x != s])) for s in chosen]
    added = {o: tuple(d for name, d in chosen if name == o) for o in candidates}
    added = {o: d for o, d in added.items() if d}
    keep = base | np.any([at_spot[s] for s in chosen], axis=0)
    return SamplingTimes(
        days=added,
        arms={name: arm.also(added) for name, arm in arms.items()},
        before=result_of(population, columns, matrix([]), [size_of(who, base)]),
        after=result_of(population, columns, matrix(chosen), [size_of(who, keep)]),
        table=as_frame(rows, ["output", "day", "lost"]),
        focus=tuple(focus),
    )


def exchanged(
    spots: Sequence[Spot], size: int, value: Callable[[Sequence[Spot]], float]
) -> list[Spot]:
    """So many of the spots, in their order, with as high a value as exchanges of one reach."""

    def best(others: Sequence[Spot]) -> tuple[float, int]:
        return max((value([*others, s]), -i) for i, s in enumerate(spots) if s not in others)

    chosen: list[Spot] = []
    while len(chosen) < size:
        reached, i = best(chosen)
        chosen.append(spots[-i])
    kept = 0
    while kept < size:  # how many in a row no other spot is better than
        reached_now, i = best(chosen[1:])
        better = reached_now > reached + 1e-9
        chosen = [*chosen[1:], spots[-i] if better else chosen[0]]
        reached, kept = max(reached, reached_now), 0 if better else kept + 1
    return sorted(chosen, key=spots.index)

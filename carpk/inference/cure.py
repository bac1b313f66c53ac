"""A run of NUTS with automatic remedies: more draws, or smaller steps.

After the planned draws of `Nuts`, a fit asks two questions.

- Have the chains mixed? Where R-hat is above 1.01 or draws are too few, the same chains go on, a
  round of the planned draws at a time, with what they have adapted to.
- Were there divergences? Then a second run starts afresh, a quarter as far from an acceptance of 1.
  Without divergences it is the fit. Otherwise the two runs are compared: where they agree within
  Monte Carlo error in every quantity, the divergences cost nothing that can be seen.

Every decision follows from the draws alone: a run that was killed and resumed decides alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import scipy.stats
import xarray as xr

from carpk._arviz import az
from carpk.errors import FitError
from carpk.inference.checkpoints import Blocks
from carpk.inference.nuts import ChainDraws, Nuts, Position, Run
from carpk.verdict.chains import ESS_MIN, RHAT_MAX, by_element, mixing
from carpk.verdict.words import Cure

Starts: TypeAlias = Sequence[Iterable[Position]]

Labelled: TypeAlias = Callable[[Mapping[str, np.ndarray]], xr.Dataset]
"""Samples -> the quantities that are judged and compared, dims (chain, draw, ...)."""

LONGER = 4  # times the planned draws that a fit may take in all, unless told otherwise
SECOND = "second"  # of the second run: prefix of its files
NEARER = 4  # times nearer to an acceptance of 1 in the second run
APART = 1.5  # R-hat of chains that are not merely slow, if it does not fall
FALLEN = 0.9  # (R-hat - 1) over that of the round before, above which it has not fallen
PROBABILITIES = (0.05, 0.5, 0.95)  # of the quantiles in which two runs are compared
FALSE_ALARM = 0.01  # of that comparison, over all quantities


def counted(where: str, *, draws: int, max_draws: int | None, **others: int) -> dict[str, int]:
    """Numbers of draws, chains and so on, checked, with `max_draws` filled in.

    Args:
        where: whose arguments they are, for messages.
    """
    if max_draws is None and isinstance(draws, int):
        max_draws = LONGER * draws
    numbers: dict[str, int] = {}
    for name, number in {"draws": draws, **others, "max_draws": max_draws}.items():
        if not (isinstance(number, int) and number >= 1):
            raise FitError(
                f"{where}: {name} must be a whole number of at least 1, but is {number!r}."
            )
        numbers[name] = number
    if numbers["max_draws"] < draws:
        raise FitError(
            f"{where}: max_draws is {max_draws}, but must be at least draws, {draws}; with "
            "`max_draws=draws` a fit does not cure itself."
        )
    return numbers


@dataclasses.dataclass(frozen=True)
class RunDiagnostics:
    """Convergence diagnostics of a run so far.

    Attributes:
        draws: the run's.
        posterior: the same, labelled.
        rhat, ess: the worst of all quantities.
        divergences: how many.
    """

    draws: ChainDraws
    posterior: xr.Dataset
    rhat: float
    ess: float
    divergences: int

    @classmethod
    def at(cls, draws: ChainDraws, labelled: Labelled) -> RunDiagnostics:
        posterior = labelled(draws.samples)
        rhat, ess = mixing(posterior)
        worst = max((x for x in rhat.values() if math.isfinite(x)), default=math.nan)
        least = min((x for x in ess.values() if math.isfinite(x)), default=math.nan)
        return cls(draws, posterior, worst, least, int(draws.stats["diverging"].sum()))

    @property
    def mixed(self) -> bool:
        """R-hat and effective draws suffice, or are not defined."""
        return not (self.rhat > RHAT_MAX or self.ess < ESS_MIN)

    @property
    def size(self) -> int:
        """Draws per chain."""
        return int(self.posterior.sizes["draw"])

    @property
    def why(self) -> str:
        """Why chains go on."""
        if self.rhat > RHAT_MAX:
            return f"R-hat {self.rhat:.3f} above {RHAT_MAX}"
        return f"{self.ess:.0f} effective draws, below {ESS_MIN}"


class Budget:
    """Rounds of draws that may still be taken."""

    def __init__(self, rounds: int) -> None:
        self.left = rounds

    def take(self) -> bool:
        self.left -= 1
        return self.left >= 0


def cured(
    nuts: Nuts,
    starts: Callable[[int], Starts],
    *,
    max_rounds: int,
    seed: int,
    target_accept: float,
    labelled: Labelled,
    label: str,
    progress: bool = True,
    blocks: Blocks | None = None,
) -> tuple[ChainDraws, Cure]:
    """Draw; go on, or again, as far as the draws ask for it and the budget allows.

    Args:
        nuts: compiled for the planned draws.
        starts: number of the run, 0 or 1 -> positions for each chain.
        max_rounds: rounds of the planned draws per chain in all, both runs together; 1: no cure.
        seed: of the draws.
        target_accept: of the first run.
        labelled: samples -> the quantities that are judged and compared, dims (chain, draw, ...).
        label: of the progress bar.
        progress: show it.
        blocks: where draws are written.

    Returns:
        Draws, and what was done; empty where nothing was:
        told: in one sentence; agree: whether two runs agree, with divergences in both;
        divergences: of each run; target_accept: of the run that was kept; draws: per chain there.
    """
    told: list[str] = []
    budget = Budget(max_rounds)
    how: dict[str, Any] = {"labelled": labelled, "budget": budget, "told": told}
    how |= {"label": label, "progress": progress}
    run = nuts.run(starts(0), seed=seed, target_accept=target_accept, blocks=blocks)
    first = _grown(run, **how, leave=True)
    if first.draws.interrupted or not first.divergences or budget.left < 1:
        return first.draws, _done(first, target_accept, told, [first])
    higher = 1 - (1 - target_accept) / NEARER
    told.append(
        f"{first.divergences} divergences in {_total(first)} draws at target_accept "
        f"{target_accept:g}"
    )
    within = None if blocks is None else blocks.within(SECOND)
    again = nuts.run(starts(1), seed=seed + 1, target_accept=higher, blocks=within)
    again_label = f"{label}, again at target_accept {higher:g} ({told[-1]})"
    try:
        second = _grown(again, **how | {"label": again_label})
    except KeyboardInterrupt:
        second = None
    if second is None or second.draws.interrupted:
        told.append(f"a second run at {higher:g} was stopped")
        return first.draws, _done(first, target_accept, told, [first])
    if not second.divergences and second.mixed:
        told.append(f"a second run at {higher:g} has none and is the fit")
        return second.draws, _done(second, higher, told, [first, second])
    first = _grown(run, **how)
    agree = first.mixed and second.mixed and not differences(first.posterior, second.posterior)
    keep = min((first, second), key=lambda found: (found.divergences, -found.ess))
    told.append(
        f"{second.divergences} in {_total(second)} of a second run at {higher:g}; the two "
        f"{'agree' if agree else 'do not agree'} within Monte Carlo error, and the "
        f"{'first' if keep is first else 'second'} is the fit"
    )
    accept = target_accept if keep is first else higher
    return keep.draws, _done(keep, accept, told, [first, second]) | {"agree": agree}


def _grown(
    run: Run,
    *,
    labelled: Labelled,
    budget: Budget,
    told: list[str],
    label: str,
    progress: bool,
    leave: bool = False,
) -> RunDiagnostics:
    """A run with as many rounds as it needs and the budget allows.

    Args:
        leave: go no further once there are divergences and another run can be paid for.
    """
    rounds = max(run.rounds, 1)
    if not run.rounds:
        budget.take()
    found = RunDiagnostics.at(run.draws(rounds, label=label, progress=progress), labelled)
    begun = found
    while not (found.mixed or found.draws.interrupted):
        if (leave and found.divergences and budget.left) or not budget.take():
            break
        rounds, before = rounds + 1, found
        again = f"{label}, more draws ({found.why} after {found.size} per chain)"
        found = RunDiagnostics.at(run.draws(rounds, label=again, progress=progress), labelled)
        if found.rhat > APART and found.rhat - 1 > FALLEN * (before.rhat - 1):
            break
    if found.size > begun.size:
        end = "" if found.mixed else f", still {found.why}"
        told.append(f"{begun.why} after {begun.size} draws per chain: drawn {found.size}{end}")
    return found


def _total(found: RunDiagnostics) -> int:
    return found.size * int(found.posterior.sizes["chain"])


def _done(
    found: RunDiagnostics, target_accept: float, told: Sequence[str], runs: Sequence[RunDiagnostics]
) -> Cure:
    if not told:
        return {}
    sentence = "; ".join(told) + "."
    return {
        "told": sentence[0].upper() + sentence[1:],
        "agree": False,
        "divergences": [each.divergences for each in runs],
        "target_accept": target_accept,
        "draws": found.size,
    }


def differences(*runs: xr.Dataset) -> list[str]:
    """Quantities in which two runs differ by more than Monte Carlo error."""
    z, limit = distances(*runs)
    return [name for name, x in z.items() if x > limit]


def distances(*runs: xr.Dataset) -> tuple[dict[str, float], float]:
    """Differences of two runs, quantity -> Monte Carlo errors; and the largest by chance.

    Means and the quantiles of `PROBABILITIES` are compared, over all quantities at one level. The
    Monte Carlo error of a quantile p is an estimate from the draws that lie about one error from
    it, some 2 sqrt(ESS p (1 - p)) of them. So a difference of quantiles over its error follows
    Student's t, not the normal distribution; it is given as the normal score of the same tail.
    """
    axes = ("chain", "draw")
    mcse: Callable[..., xr.Dataset | xr.DataTree] = az.mcse
    ess: Callable[..., xr.Dataset | xr.DataTree] = az.ess
    z: dict[str, float] = {}
    for p in (None, *PROBABILITIES):
        how = {"method": "mean"} if p is None else {"method": "quantile", "prob": p}
        with np.errstate(invalid="ignore"):  # the diagonal of a correlation is 1 in every draw
            value = [by_element(x.mean(axes) if p is None else x.quantile(p, axes)) for x in runs]
            error = [by_element(mcse(x, **how)) for x in runs]
            effective = [] if p is None else [by_element(ess(x, **how)) for x in runs]
        for name in value[0]:
            away = abs(value[0][name] - value[1][name])
            ratio = _ratio(away, math.hypot(error[0][name], error[1][name]))
            if p is not None and 0 < ratio < math.inf:
                df = sum(math.sqrt(each[name] * p * (1 - p)) for each in effective)
                ratio = float(scipy.stats.norm.isf(scipy.stats.t.sf(ratio, df)))
            z[name] = max(z.get(name, 0.0), ratio)
    return z, float(scipy.stats.norm.isf(FALSE_ALARM / 2 / ((1 + len(PROBABILITIES)) * len(z))))


def _ratio(away: float, error: float) -> float:
    """A difference over its error; 0 where there is none of either."""
    return away / error if error > 0 else (math.inf if away else 0.0)

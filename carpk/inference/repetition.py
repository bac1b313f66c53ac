"""Repeating a saved fit: do the same settings, data and population give the same posterior?"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from carpk.errors import FitError
from carpk.inference import cure
from carpk.inference.fit import fit_bound
from carpk.inference.loading import FitWithoutModel, load_fit, read
from carpk.inference.result import Fit
from carpk.inference.saving import EncodedFit, written_by
from carpk.inference.storage import different_files, identity
from carpk.population.population import Population
from carpk.structural import ClosedForm, ODEModel

Grade = Literal["bit-equal", "equal within Monte Carlo error", "different"]
BIT_EQUAL: Grade = "bit-equal"
EQUAL: Grade = "equal within Monte Carlo error"
DIFFERENT: Grade = "different"
OF_A_MODE = 1e-3  # relative difference of two modes that count as equal


@dataclasses.dataclass(frozen=True, repr=False)
class Repetition:
    """A fit beside its repetition.

    Attributes:
        grade: "bit-equal", "equal within Monte Carlo error" or "different".
        distances: quantity -> how far the two are apart: of means and quantiles, in their Monte
            Carlo errors; of modes, relative to the value. Empty where they are bit-equal.
        limit: distance above which they differ.
        changed: what is not as it was when the fit was saved, as "jax 0.9.0 -> 0.10.2".
        before, after: the fit that was saved, and its repetition.
    """

    grade: Grade
    distances: Mapping[str, float]
    limit: float
    changed: tuple[str, ...]
    before: Fit
    after: Fit

    @property
    def ok(self) -> bool:
        """The posterior is reproduced."""
        return self.grade != DIFFERENT

    @property
    def different(self) -> list[str]:
        """Quantities that differ, the farthest first."""
        far = {name: x for name, x in self.distances.items() if not x <= self.limit}
        return sorted(far, key=lambda name: -far[name])

    def __repr__(self) -> str:
        head = self.grade.upper() if self.ok else f"DIFFERENT in {', '.join(self.different[:8])}"
        if self.distances:
            unit = "of the value" if self._of_modes else "Monte Carlo errors"
            worst = max(self.distances, key=lambda name: self.distances[name])
            head += (
                f"; farthest apart is {worst}, by {self.distances[worst]:.2g} {unit} "
                f"(limit {self.limit:.2g})"
            )
        changed = "; ".join(self.changed) or "nothing: the same versions, model and computer"
        return f"{head}.\nChanged since the fit was saved: {changed}."

    @property
    def _of_modes(self) -> bool:
        return bool(self.before.settings["method"] == "map")


def rerun(
    path: str | Path,
    population: Population | None = None,
    *,
    model: ClosedForm | ODEModel | None = None,
    trust: bool = False,
    folder: str | Path | None = None,
    progress: bool = True,
) -> Repetition:
    """Fit again what a saved fit was fitted to, and compare.

    The same settings and seed give the same draws, bit for bit, with the same versions on the same
    computer. Elsewhere means and quantiles are compared with their Monte Carlo errors. A fit that
    was stopped before its end is compared with the first draws of its repetition.

    Args:
        path: of a file that `Fit.save` wrote.
        population, model, trust: as in `load_fit`.
        folder, progress: as in `fit`.

    Raises:
        FitError: the file cannot be read, or its population model cannot be had.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        before = load_fit(path, population, model=model, trust=trust)
    if isinstance(before, FitWithoutModel):
        raise FitError(
            f"rerun: {str(path)!r}: {before.reason}. In the shell these are --trust and --model."
        )
    for each in told:
        warnings.warn(each.message, each.category, stacklevel=2)
    _, spec = read(Path(path))
    after = fit_bound(before.bound, before.settings, folder=folder, progress=progress)
    changed = _changed(spec, before, after)
    if _same_draws(before, after):
        return Repetition(BIT_EQUAL, {}, 0.0, changed, before, after)
    if before.settings["method"] == "map":
        apart, limit = _of_modes(before, after), OF_A_MODE
    else:
        apart, limit = cure.distances(before.posterior, after.posterior)
    grade = EQUAL if all(x <= limit for x in apart.values()) else DIFFERENT
    return Repetition(grade, apart, limit, changed, before, after)


def _same_draws(before: Fit, after: Fit) -> bool:
    """All earlier draws are reproduced."""
    size = before.posterior.sizes["draw"]
    if size > after.posterior.sizes["draw"]:
        return False
    if size < after.posterior.sizes["draw"] and not before.settings.get("interrupted"):
        return False
    names = set(before.posterior.data_vars)
    return names == set(after.posterior.data_vars) and all(
        np.array_equal(before.posterior[n].values, after.posterior[n].values[:, :size])
        for n in names
    )


def _of_modes(before: Fit, after: Fit) -> dict[str, float]:
    found = {}
    for name in before.parameters:
        one, other = (f.posterior[name].values for f in (before, after))
        size = np.maximum(np.abs(one), np.finfo(float).tiny)
        found[name] = float(np.max(np.abs(one - other) / size, initial=0.0))
    return found


def _changed(spec: EncodedFit, before: Fit, after: Fit) -> tuple[str, ...]:
    then, now = spec["written by"], written_by()
    told = [
        f"{name} {then.get(name, 'unknown')} -> {now.get(name, 'unknown')}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
    for name in ("machine", "float64", "data_sha256"):
        one, other = before.settings[name], after.settings[name]
        told += [f"{name} {one} -> {other}"] if one != other else []
    model, used = spec["model"]["identity"], identity(after.population.model)
    if model["files"] != used["files"]:
        told.append(f"model {used['name']!r}: {different_files(model['files'], used['files'])}")
    elif model["equations"] != used["equations"] and then["jax"] == now["jax"]:
        told.append(f"model {used['name']!r}: its equations")
    return tuple(told)

"""Outcomes: one number per patient and arm, from concentrations over an arm's window."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk import nca
from carpk._types import Numbers, Values
from carpk.comparison.arms import Window
from carpk.errors import CarpkError
from carpk.structural import ClosedForm, ODEModel

Curve: TypeAlias = Callable[..., Numbers]
"""f(t, c) -> number, of days since the infusion and levels."""

Asked: TypeAlias = Sequence[str | Curve] | Mapping[str, str | Curve]
"""Outcomes, by name or as functions."""

Measure: TypeAlias = Callable[[Window, Array], Numbers]
Measures: TypeAlias = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


class Outcome(NamedTuple):
    """One number per patient and arm.

    Attributes:
        of: the output whose concentrations it is made of.
        measure: f(window, concentrations inside it) -> number.
        contrast: how arms are usually compared, "ratio" or "difference".
    """

    name: str
    unit: str
    of: str
    measure: Measure
    contrast: str


FUNCTIONS: dict[object, str] = {  # function of carpk.nca -> unit, with {c} for the level's
    nca.clast: "{c}",
    nca.tlast: "day",
    nca.auc: "day*{c}",
    nca.auc_last: "day*{c}",
    nca.half_life: "day",
    nca.doubling_time: "day",
    nca.fold_expansion: "1",
}
NAMES = "cmax, tmax, auc0_<day>d, level_<day>d, persistence, detectable_<day>d, tumor_nadir"


def outcomes_of(
    model: ClosedForm | ODEModel,
    output: str,
    horizon: float,
    lloq: float | None,
    asked: Asked | None,
) -> list[Outcome]:
    """The outcomes asked for, or all that the model and the days allow."""
    if asked is None:
        asked = ["cmax", "tmax", *(["auc0_28d"] if horizon >= 28 * (1 - 1e-9) else [])]
        asked += ["persistence"] if lloq is not None else []
        asked += ["level_90d"] if lloq is None and horizon >= 90 * (1 - 1e-9) else []
        asked += ["tumor_nadir"] if "tumor" in model.outputs else []
    if not isinstance(asked, Mapping):
        asked = {x if isinstance(x, str) else getattr(x, "__name__", repr(x)): x for x in asked}
    if not asked:
        raise CarpkError(f"compare: there is no outcome; known names are {NAMES}.")
    found = []
    for name, what in asked.items():
        if callable(what) and what in (nca.cmax, nca.tmax):
            what = what.__name__
        if isinstance(what, str):
            found.append(_named(str(name), what, model, output, horizon, lloq))
        elif callable(what):
            area = getattr(what, "__name__", "").startswith("auc_to_")
            unit = FUNCTIONS.get(what, "day*{c}" if area else "")
            unit = unit.format(c=model.units[output])
            contrast = "difference" if what is nca.tlast else "ratio"
            found.append(Outcome(str(name), unit, output, _of_days(what), contrast))
        else:
            raise CarpkError(
                f"compare: an outcome must be a function f(t, c) or a name, but is {what!r}; names "
                f"are {NAMES}."
            )
    return found


def _of_days(f: Curve) -> Measure:
    return lambda w, c: f(w.t, c)


def _named(
    name: str,
    what: str,
    model: ClosedForm | ODEModel,
    output: str,
    horizon: float,
    lloq: float | None,
) -> Outcome:
    """The outcome that a name stands for."""
    unit = model.units[output]
    kind, day = what, math.nan
    if found := re.fullmatch(r"(auc0|level|detectable)_(\d+(?:\.\d+)?)d", what):
        kind, day = found[1], float(found[2])
    if day > horizon * (1 + 1e-9):
        raise CarpkError(
            f"compare: {what!r} needs {day:g} days after the infusion, but arms can be compared "
            f"over {horizon:g}: until the next infusion, or the end of `days`."
        )
    if kind in ("persistence", "detectable") and not (lloq is not None and lloq > 0):
        raise CarpkError(f"compare: {what!r} needs the limit of quantification [{unit}]: lloq=...")

    def at(w: Window, c: Array) -> Array:
        return jnp.interp(day, w.t, c)

    def nadir(w: Window, c: Array) -> Array:
        return jnp.maximum(jnp.min(c), model.one_cell.get("tumor", 0.0)) / c[0]

    limit = 0.0 if lloq is None else lloq
    known: dict[str, tuple[str, Measure, str]] = {
        "cmax": (unit, lambda w, c: nca.cmax(w.t[w.peak], c[w.peak]), "ratio"),
        "tmax": ("day", lambda w, c: nca.tmax(w.t[w.peak], c[w.peak]), "difference"),
        "auc0": (f"day*{unit}", lambda w, c: nca.auc_to(day)(w.t, c), "ratio"),
        "level": (unit, at, "ratio"),
        "persistence": ("day", lambda w, c: nca.time_above(w.t, c, limit), "difference"),
        "detectable": ("1", lambda w, c: 1.0 * (at(w, c) >= limit), "difference"),
        "tumor_nadir": ("1", nadir, "ratio"),
    }
    if kind not in known or (kind in ("auc0", "level", "detectable")) == math.isnan(day):
        raise CarpkError(f"compare: the outcome {what!r} is unknown; names are {NAMES}.")
    of = "tumor" if kind == "tumor_nadir" else output
    model.require(of)
    measured_in, measure, contrast = known[kind]
    return Outcome(name, measured_in, of, measure, contrast)


def measures(wanted: Sequence[Outcome], window: Window) -> Measures:
    """From outputs, name -> (draw, patient, time), to outcomes, name -> (draw, patient)."""

    @jax.jit
    def every(concentrations: Values) -> dict[str, Array]:
        return {
            o.name: jax.vmap(jax.vmap(lambda c, o=o: jnp.asarray(o.measure(window, c), float)))(
                concentrations[o.of]
            )
            for o in wanted
        }

    def outcomes(concentrations: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        inside = {o.of: concentrations[o.of][..., window.inside] for o in wanted}
        try:
            found = every(inside)
        except jax.errors.JAXTypeError as error:
            raise CarpkError(
                "compare: an outcome asks for the values of concentrations, which are not known "
                "while it is compiled; write it with jax.numpy, without float(), if and min."
            ) from error
        values = {}
        for o in wanted:
            x = np.asarray(found[o.name])
            if x.ndim != 2:
                raise CarpkError(
                    f"compare: the outcome {o.name!r} must give one number per curve, but gives "
                    f"shape {x.shape[2:]}."
                )
            values[o.name] = np.where(np.isfinite(inside[o.of]).all(-1), x, np.nan)
        return values

    return outcomes

"""Predictions of patients from their parameters, whatever kind the structural model is.

A predictor is made once, for given patients, days and doses; calling it with parameters gives the
predictions, shape (patient, time). It is what likelihoods, checks and figures are written against.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from carpk._types import Arrays
from carpk.dosing.regimen import UNTOLD, Regimen
from carpk.params import Params
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver
from carpk.structural import ClosedForm, ODEModel

SHRINK = (1.0, 0.5, 0.25)  # how far reference patients may lie from the middle of the prior


@dataclasses.dataclass(frozen=True)
class ClosedFormPredictor:
    """Predictions from a closed form.

    Attributes:
        days: (T,), or (P, T).
        infusion_time: (P, K) days, infinite where there is none; None for one infusion on day 0.
        amount: (P, K) cells.
        smooth: use the rounded-off outputs.
        which: of several outputs, the one of each prediction, (P, T).
        after: whether a day that is that of an infusion comes after it, (P, T).
    """

    model: ClosedForm
    outputs: tuple[str, ...]
    days: Arrays
    infusion_time: Float[Arrays, "patient infusion"] | None = None
    amount: Float[Arrays, "patient infusion"] | None = None
    smooth: bool = False
    which: np.ndarray | None = None
    after: np.ndarray | None = None

    def __call__(self, params: Params) -> Float[Array, "patient time"]:
        """Predictions (P, T) of parameters with leaves (P,) or (P, K)."""
        days = jnp.asarray(self.days)
        axis = 0 if days.ndim == 2 else None
        given = None if self.infusion_time is None else 0

        def one(
            output: str,
            t: Array,
            after: Array | bool,
            p: Params,
            start: Arrays | None,
            amount: Arrays | None,
        ) -> Array:
            since = 0.0 if start is None else jnp.asarray(start)
            given = None if amount is None else jnp.asarray(amount)
            return self.model.level(output, t, p, since, given, smooth=self.smooth, after=after)

        after = False if self.after is None else jnp.asarray(self.after)
        axes = (axis, None if self.after is None else 0, 0, given, given)
        predictions = [
            jax.vmap(partial(one, output), in_axes=axes)(
                days, after, params, self.infusion_time, self.amount
            )
            for output in self.outputs
        ]
        return chosen(predictions, self.which)


@dataclasses.dataclass(frozen=True)
class ODEPredictor:
    """Predictions from differential equations.

    Attributes:
        place: where each wanted day stands among the solver's; None where they are the same.
        which: of several outputs, the one of each prediction, (P, T).
    """

    solver: Solver
    outputs: tuple[str, ...]
    place: np.ndarray | None = None
    which: np.ndarray | None = None

    def __call__(self, params: Params) -> Float[Array, "patient time"]:
        """Predictions (P, T) of parameters with leaves (P,) or (P, K)."""
        every = self.solver(jax.tree.map(lambda x: x[:, 0] if x.shape[1:] == (1,) else x, params))
        predictions = [every[output] for output in self.outputs]
        if self.place is not None:
            predictions = [x[:, self.place] for x in predictions]
        return chosen(predictions, self.which)

    def adaptive(self, rtol: float) -> ODEPredictor:
        """A copy on the adaptive route."""
        method = "kvaerno5" if self.solver.mesh is None else "auto"
        return dataclasses.replace(self, solver=self.solver.adaptively(method, rtol))


def chosen(predictions: Sequence[Array], which: np.ndarray | None) -> Array:
    """Predictions (P, T), each from the one of several that `which` says."""
    prediction = predictions[0]
    for i, other in enumerate(predictions[1:], 1):
        prediction = jnp.where(which == i, other, prediction)
    return prediction


Predictor = ClosedFormPredictor | ODEPredictor


def solved(
    model: ODEModel,
    outputs: tuple[str, ...],
    regimens: Sequence[Regimen],
    days: Arrays | Sequence[float],
    reference: Callable[[float], Params],
    *,
    rtol: float,
    labels: Sequence[str] | None = None,
    which: np.ndarray | None = None,
    follows: np.ndarray | int = UNTOLD,
) -> ODEPredictor:
    """A predictor for an ODE model; its mesh is chosen for reference patients.

    Args:
        regimens: one for everybody, or one per patient.
        days: (T,) in any order, or (P, T) ascending, with NaN where a patient has fewer.
        reference: parameters, leaves (D, P) or (D, P, K), from how far they may lie from the middle
            of the prior: where the widest ones cannot be put on a mesh, nearer ones are tried.
        rtol: largest relative error of the predictions.
        labels: how messages name the patients.
        which: of several outputs, the one of each prediction, (P, T).
        follows: of the events at the time of each day, how many were recorded before it, (P, T).
    """
    days, place = np.asarray(days, float), None
    if days.ndim == 1:
        days, place = np.unique(days, return_inverse=True)
    schedule = Schedule.of(model, regimens, days, follows=follows, labels=labels)
    for width in SHRINK:
        solver = Solver.prepare(schedule, reference(width), rtol=rtol)
        if solver.mesh is not None or solver.exact:
            break
    return ODEPredictor(solver, outputs, place, which)

"""Information of published cohort summaries: the covariance of their simulated scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from carpk.errors import FitError
from carpk.information.columns import Column, point_of, theta_of
from carpk.information.patients import moved, slopes
from carpk.population.bound import FLOOR, BoundPopulation
from carpk.population.random_effects import COHORT
from carpk.population.replicates import simulated_values, with_summaries


def cohort_information(
    bound: BoundPopulation, columns: Sequence[Column], simulations: int, seed: int
) -> tuple[np.ndarray, int]:
    """Information (p, p) of all cohorts' summaries, and how many simulations had no score.

    The covariance of the score over simulated cohorts; what makes the summaries is that of
    `recovery`.
    """
    if bound.cohort_effects:
        raise FitError(
            f"identifiability: {bound.random_effects.at(COHORT)[0]!r} varies by cohort, and the "
            "expected information of published cohorts is known for effects of patients only; let "
            "it vary by patient, or leave the published cohorts out."
        )
    point = point_of(columns)
    theta = theta_of(columns, jnp.asarray(point))
    every = {
        name: np.broadcast_to(np.asarray(x), (simulations, *np.shape(x)))
        for name, x in theta.items()
    }
    values = simulated_values(dataclasses.replace(bound, individual=None), every, seed)
    total, lost = np.zeros((point.size, point.size)), 0
    for cohort in bound.cohorts:
        scores = _scores(bound, columns, cohort, values[cohort])
        finite = np.isfinite(scores).all(axis=1)
        lost += int((~finite).sum())
        if finite.sum() < max(50, 2 * point.size):
            raise FitError(
                f"identifiability: only {finite.sum()} of {simulations} simulated cohorts like "
                f"{cohort!r} have a likelihood; simulate more, or evaluate elsewhere with `at`."
            )
        total += np.cov(scores[finite].T)
    return total, lost


def _scores(
    bound: BoundPopulation, columns: Sequence[Column], cohort: str, values: np.ndarray
) -> np.ndarray:
    """Scores (simulation, p) of a cohort's summary likelihood at these values, (.., row, 4).

    The virtual patients' predictions and their derivatives are the same for all simulations.
    """
    likelihood, point = bound.cohorts[cohort], point_of(columns)

    def predictions(u: Array) -> Array:
        patients = bound.virtual_patients(theta_of(columns, u), cohort)
        return jnp.maximum(bound.predictors[cohort](patients), FLOOR)

    def log_likelihood(f: Array, u: Array, value: Array) -> Array:
        own = bound.residual_thetas(theta_of(columns, u), likelihood.outputs)
        return jnp.sum(with_summaries(likelihood, value).log_likelihoods(f, own))

    run = moved(predictions, point)
    f, df = jnp.asarray(run[0]), slopes(run)

    def score(value: Array) -> Array:
        by_level, direct = jax.grad(log_likelihood, (0, 1))(f, jnp.asarray(point), value)
        whole: Array = jnp.einsum("st,pst->p", by_level, df) + direct
        return whole

    return np.asarray(jax.jit(lambda every: jax.lax.map(score, every))(values))

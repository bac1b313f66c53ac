"""Coordinates in which NUTS samples: whitened at the mode, curved ridges straightened."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular

from carpk._types import Arrays
from carpk.inference.density import Conditional, IndividualProposals, LogDensity
from carpk.inference.importance import individual_proposals, refined, regressed
from carpk.inference.laplace import CompiledDensity, Mode
from carpk.inference.nuts import LogDensityTarget, Position
from carpk.inference.ridges import ConditionalAlongRidge, Ridge, backward, forward, ridges_of

ATTEMPTS = 30  # at a finite starting point of a chain


class Standard(NamedTuple):
    """Coordinates in which a posterior is about standard normal: those of `laplace`.

    Attributes:
        middle, factor: outer coordinates are middle + factor v; (n,), (n, n).
        conditional: of the patients; None where there are none.
        ridges: maps from the sampled coordinates to v.
        along_ridge: conditional of the patients along the first ridge, where there is one.
        proposals: of the patients' jumps between steps of NUTS, where some are far from normal.
    """

    middle: np.ndarray
    factor: np.ndarray
    conditional: Conditional | None
    ridges: tuple[Ridge, ...] = ()
    along_ridge: ConditionalAlongRidge | None = None
    proposals: IndividualProposals | None = None

    @classmethod
    def of(
        cls,
        mode: Mode,
        *,
        ridges: tuple[Ridge, ...] = (),
        along_ridge: ConditionalAlongRidge | None = None,
        proposals: IndividualProposals | None = None,
    ) -> Standard:
        factor = np.linalg.cholesky(mode.covariance)
        return cls(mode.u, factor, mode.conditional, ridges, along_ridge, proposals)

    @classmethod
    def around(cls, compiled: CompiledDensity, mode: Mode, seed: int) -> Standard:
        """At a mode, with its ridges; regressed on points where patients are far from normal."""
        ridges, proposals, conditional = ridges_of(compiled, mode), None, mode.conditional
        if regressed(compiled, mode, seed) is not mode:
            better = refined(compiled, mode, seed).mode
            proposals = individual_proposals(compiled, better, seed)
            if not ridges:
                return cls.of(better, proposals=proposals)
            conditional = better.conditional
        along_ridge = None
        if ridges and conditional is not None:
            along_ridge = ConditionalAlongRidge.of(compiled, mode, ridges[0], conditional)
        mode = dataclasses.replace(mode, conditional=conditional)
        return cls.of(mode, ridges=ridges, along_ridge=along_ridge, proposals=proposals)

    def coordinates(
        self, density: LogDensity, position: Position
    ) -> tuple[tuple[Array, Array, Conditional | None], Array]:
        """(outer coordinates, patients', their conditional), and ln |dv/d position|."""
        empty = jnp.zeros((density.patients, density.inner))
        v, log_slope, t = forward(self.ridges, position["population"])
        conditional = self.conditional if self.along_ridge is None else self.along_ridge.at(t)
        u = self.middle + self.factor @ v
        return (u, position.get("patients", empty), conditional), log_slope

    def target(self, density: LogDensity, start: Position) -> LogDensityTarget:
        """Log density, transform to natural parameters and jumps for NUTS."""
        proposals = self.proposals

        def potential(position: Position) -> Array:
            where, log_slope = self.coordinates(density, position)
            return -density.log_joint(*where) - log_slope

        def natural(position: Position) -> dict[str, Array]:
            where, _ = self.coordinates(density, position)
            return density.sample_of(*where)

        def jump(position: Position, key: Array) -> dict[str, Array]:
            (u, x, conditional), _ = self.coordinates(density, position)
            assert proposals is not None
            assert conditional is not None
            u, z = density.moved(u, density.scores(u, x, conditional), proposals, key)
            w = self.within(u)
            (_, _, conditional), _ = self.coordinates(density, {"population": w})
            assert conditional is not None
            return {"population": w, "patients": density.coordinates_of_scores(u, z, conditional)}

        return LogDensityTarget(
            potential, natural, start, ("population",), jump if proposals is not None else None
        )

    def within(self, u: Arrays) -> Array:
        """Sampled coordinates of an outer point, (n,)."""
        v = solve_triangular(self.factor, u - self.middle, lower=True)
        return backward(self.ridges, v)

    def starts(
        self, density: LogDensity, rng: np.random.Generator, centre: Arrays
    ) -> Iterator[dict[str, Array]]:
        """Random positions around a centre, ever nearer."""
        shape = (density.patients, density.inner)
        for attempt in range(ATTEMPTS):
            width = 0.9**attempt
            away = width * rng.standard_normal(density.outer)
            position = {"population": jnp.asarray(centre + away)}
            if min(shape):
                position["patients"] = jnp.asarray(width * rng.standard_normal(shape))
            yield position

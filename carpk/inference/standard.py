"""The coordinates in which NUTS samples: those of the mode, its ridges taken out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular

from carpk.inference.density import Conditional, Places, Posterior
from carpk.inference.importance import places_of, refined, regressed
from carpk.inference.laplace import Engine, Mode
from carpk.inference.nuts import Target
from carpk.inference.ridges import Beside, Ridge, backward, forward, ridges_of

ATTEMPTS = 30  # to find a finite starting point of a chain


class Standard(NamedTuple):
    """Coordinates in which a posterior is about standard normal: those of `laplace`.

    Attributes:
        middle, factor: outer coordinates are middle + factor v; (n,), (n, n).
        conditional: of the patients; None where there are none.
        ridges: which lead from what is sampled to v.
        beside: of the patients, along the first ridge, where there is one.
        places: to which patients jump between steps of NUTS, where some are far from normal.
    """

    middle: Any
    factor: Any
    conditional: Conditional | None
    ridges: tuple[Ridge, ...] = ()
    beside: Beside | None = None
    places: Places | None = None

    @classmethod
    def of(cls, mode: Mode, **others: Any) -> Standard:
        return cls(mode.u, np.linalg.cholesky(mode.covariance), mode.conditional, **others)

    @classmethod
    def around(cls, engine: Engine, mode: Mode, seed: int) -> Standard:
        """Those of a mode, with its ridges; where patients are far from normal, by points."""
        ridges, places, conditional = ridges_of(engine, mode), None, mode.conditional
        if regressed(engine, mode, seed) is not mode:
            better = refined(engine, mode, seed).mode
            places = places_of(engine, better, seed)
            if not ridges:
                return cls.of(better, places=places)
            conditional = better.conditional
        beside = None
        if ridges and conditional is not None:
            beside = Beside.of(engine, mode, ridges[0], conditional)
        mode = dataclasses.replace(mode, conditional=conditional)
        return cls.of(mode, ridges=ridges, beside=beside, places=places)

    def coordinates(
        self, posterior: Posterior, position: Mapping[str, Any]
    ) -> tuple[tuple[Any, Any, Conditional | None], Any]:
        """(outer, patients') coordinates, these' meaning; and ln |dv / d(what is sampled)|."""
        empty = jnp.zeros((posterior.patients, posterior.inner))
        v, log_slope, t = forward(self.ridges, position["population"])
        conditional = self.conditional if self.beside is None else self.beside.at(t)
        u = self.middle + self.factor @ v
        return (u, position.get("patients", empty), conditional), log_slope

    def target(self, posterior: Posterior, start: Mapping[str, Any]) -> Target:
        """What NUTS needs."""
        places = self.places

        def potential(position: Mapping[str, Any]) -> Any:
            where, log_slope = self.coordinates(posterior, position)
            return -posterior.log_density(*where) - log_slope

        def natural(position: Mapping[str, Any]) -> dict[str, Any]:
            where, _ = self.coordinates(posterior, position)
            return posterior.sample_of(*where)

        def jump(position: Mapping[str, Any], key: Any) -> dict[str, Any]:
            (u, x, conditional), _ = self.coordinates(posterior, position)
            assert places is not None
            assert conditional is not None
            u, z = posterior.moved(u, posterior.scores(u, x, conditional), places, key)
            w = self.within(u)
            (_, _, conditional), _ = self.coordinates(posterior, {"population": w})
            assert conditional is not None
            return {"population": w, "patients": posterior.of_scores(u, z, conditional)}

        return Target(
            potential, natural, start, ("population",), jump if places is not None else None
        )

    def within(self, u: Any) -> Any:
        """What is sampled at an outer point, (n,)."""
        v = solve_triangular(self.factor, u - self.middle, lower=True)
        return backward(self.ridges, v)

    def starts(
        self, posterior: Posterior, rng: np.random.Generator, centre: np.ndarray
    ) -> Iterator[dict[str, Any]]:
        """Positions at random around a centre, ever nearer."""
        shape = (posterior.patients, posterior.inner)
        for attempt in range(ATTEMPTS):
            width = 0.9**attempt
            away = width * rng.standard_normal(posterior.outer)
            position = {"population": jnp.asarray(centre + away)}
            if min(shape):
                position["patients"] = jnp.asarray(width * rng.standard_normal(shape))
            yield position

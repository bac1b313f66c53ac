"""What the assay sees: residual models, limits of quantification, qPCR units.

A residual model gives the distribution of a measured level y around the true level f. Its
parameters are standard deviations, never variances.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

GENOMES_PER_UG = 1e6 / 6.6  # diploid genomes in 1 µg of DNA, at 6.6 pg per cell
LN_SQRT_2PI = 0.5 * jnp.log(2 * jnp.pi)

Theta = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Residual:
    """Base of the residual models: y is normal with mean and SD given by f, on some scale."""

    names: ClassVar[tuple[str, ...]] = ()

    def standardize(self, y: Any, f: Any, theta: Theta) -> tuple[Any, Any]:
        """(z, ln dz/dy): the standard-normal score of y, and the log of its slope."""
        raise NotImplementedError

    def sample(self, z: Any, f: Any, theta: Theta) -> Any:
        """The measured level with standard-normal score z."""
        raise NotImplementedError

    def priors(self) -> dict[str, dist.Distribution]:
        """Default priors of the residual parameters."""
        raise NotImplementedError

    def log_prob(self, y: Any, f: Any, theta: Theta) -> Any:
        """ln density of a measured level y."""
        z, log_slope = self.standardize(y, f, theta)
        return -0.5 * z**2 - LN_SQRT_2PI + log_slope

    def log_cdf(self, y: Any, f: Any, theta: Theta) -> Any:
        """ln P(measured level < y)."""
        return log_ndtr(self.standardize(y, f, theta)[0])

    def log_sf(self, y: Any, f: Any, theta: Theta) -> Any:
        """ln P(measured level > y)."""
        return log_ndtr(-self.standardize(y, f, theta)[0])


@dataclasses.dataclass(frozen=True)
class LogNormal(Residual):
    """ln y ~ Normal(ln f, sigma): the residual model of nearly every CAR-T analysis.

    The default prior of sigma (an SD of ln y) is log-normal with median 0.5 and a 90 % interval of
    0.22 to 1.14, which holds the published 0.56 (Stein 2019) and 0.55-0.94 (Mueller-Schoell 2021).
    """

    names: ClassVar[tuple[str, ...]] = ("sigma",)

    def standardize(self, y: Any, f: Any, theta: Theta) -> tuple[Any, Any]:
        z = (jnp.log(y) - jnp.log(f)) / theta["sigma"]
        return z, -jnp.log(y) - jnp.log(theta["sigma"])

    def sample(self, z: Any, f: Any, theta: Theta) -> Any:
        return f * jnp.exp(theta["sigma"] * z)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"sigma": dist.LogNormal(jnp.log(0.5), 0.5)}


@dataclasses.dataclass(frozen=True)
class Proportional(Residual):
    """y ~ Normal(f, sigma_prop f)."""

    names: ClassVar[tuple[str, ...]] = ("sigma_prop",)

    def _sd(self, f: Any, theta: Theta) -> Any:
        return theta["sigma_prop"] * f

    def standardize(self, y: Any, f: Any, theta: Theta) -> tuple[Any, Any]:
        sd = self._sd(f, theta)
        return (y - f) / sd, -jnp.log(sd) + jnp.zeros_like(y)

    def sample(self, z: Any, f: Any, theta: Theta) -> Any:
        return f + self._sd(f, theta) * z

    def priors(self) -> dict[str, dist.Distribution]:
        return {"sigma_prop": dist.LogNormal(jnp.log(0.5), 0.5)}


@dataclasses.dataclass(frozen=True)
class Combined(Proportional):
    """y ~ Normal(f, sqrt(sigma_add² + (sigma_prop f)²)); sigma_add has the unit of y.

    `typical_add` centres the prior of sigma_add, in the unit of y: half the LLOQ, say.
    """

    typical_add: float = 1.0
    names: ClassVar[tuple[str, ...]] = ("sigma_add", "sigma_prop")

    def _sd(self, f: Any, theta: Theta) -> Any:
        return jnp.sqrt(theta["sigma_add"] ** 2 + (theta["sigma_prop"] * f) ** 2)

    def priors(self) -> dict[str, dist.Distribution]:
        return {
            "sigma_add": dist.LogNormal(jnp.log(self.typical_add), 1.0),
            "sigma_prop": dist.LogNormal(jnp.log(0.5), 0.5),
        }


def log_likelihood(
    residual: Residual,
    y: Float[Array, "*n"],
    f: Float[Array, "*n"],
    theta: Theta,
    censored: Any,
    lloq: Float[Array, "*n"],
    limit: Float[Array, "*n"] | None = None,
) -> Float[Array, "*n"]:
    """ln likelihood of each measurement, censored or not.

    Args:
        y: measured level; the limit itself where censored.
        f: true level, same unit.
        theta: parameters of the residual model.
        censored: 0 measured; 1 below `lloq`, M3: ln P(Y < lloq) (Beal 2001,
            doi:10.1023/A:1012299115260); -1 above y.
        lloq: lower limit of quantification.
        limit: where finite, a censored level is also known to lie above it (M4).
    """
    lloq = jnp.where(censored == 1, lloq, y)  # an LLOQ of 0 or NaN must not reach a gradient
    measured = residual.log_prob(y, f, theta)
    below = residual.log_cdf(lloq, f, theta)
    above = residual.log_sf(y, f, theta)
    if limit is not None:
        bounded = jnp.isfinite(limit) & (limit < lloq)
        floor = jnp.where(bounded, limit, 0.5 * lloq)
        share = residual.log_cdf(floor, f, theta) - below
        below = jnp.where(bounded, below + jnp.log1p(-jnp.exp(jnp.minimum(share, -1e-12))), below)
    return jnp.where(censored == 0, measured, jnp.where(censored == 1, below, above))


def copies_per_ug(car_t: Any, leukocytes: Any, vcn: Any = 1.0) -> Any:
    """Transgene copies per µg of DNA from CAR-T cells and all nucleated cells [both cells/µL].

    1 µg of DNA is about 151,515 diploid genomes (6.6 pg each), so the level is a share of the
    leukocytes: after lymphodepletion the denominator falls, and the level rises without any
    expansion.

    Args:
        car_t: CAR-T cells [cells/µL].
        leukocytes: all nucleated cells in the extracted fraction, CAR-T included [cells/µL].
        vcn: vector copies per CAR-T cell.
    """
    return GENOMES_PER_UG * vcn * car_t / leukocytes


def cells_per_ul(transgene: Any, leukocytes: Any, vcn: Any = 1.0) -> Any:
    """CAR-T cells/µL from transgene copies/µg of DNA; the inverse of `copies_per_ug`."""
    return transgene * leukocytes / (GENOMES_PER_UG * vcn)

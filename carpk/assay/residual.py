"""Residual models: the distribution of a measured level around the true one.

Their parameters are standard deviations, never variances.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from carpk._types import Arrays, Numbers, Values
from carpk.assay import student
from carpk.errors import ModelError

LN_SQRT_2PI = 0.5 * jnp.log(2 * jnp.pi)

Theta: TypeAlias = Values


@dataclasses.dataclass(frozen=True)
class Residual:
    """Base of the residual models: some function of y and f, its score, is standard normal.

    Attributes:
        on_log: whether the error is on the logarithmic scale.
        heavy: whether its tails are heavier than those of a normal distribution.
        discrete: whether observations are whole numbers; 0 is one, and there is no LLOQ.
        binary: whether they are 0 and 1.
        known_sd: whether theta holds the SD of each observation as well, as `sd`.
        in_unit_of_y: the residual parameters that have the unit of y; the others have none.
    """

    on_log: ClassVar[bool] = False
    heavy: ClassVar[bool] = False
    discrete: ClassVar[bool] = False
    binary: ClassVar[bool] = False
    known_sd: ClassVar[bool] = False
    in_unit_of_y: ClassVar[tuple[str, ...]] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The residual parameters."""
        return tuple(self.priors())

    def standardize(self, y: Arrays, f: Arrays, theta: Theta) -> tuple[Arrays, Arrays]:
        """(z, ln dz/dy): the standard-normal score of y, and the log of its slope."""
        raise NotImplementedError

    def score(self, y: Arrays, f: Arrays, theta: Theta) -> Arrays:
        """How far y lies from f, as a standard normal variable."""
        return self.standardize(y, f, theta)[0]

    def sample(self, z: Arrays, f: Arrays, theta: Theta) -> Arrays:
        """The measured level with standard-normal score z."""
        raise NotImplementedError

    def priors(self) -> dict[str, dist.Distribution]:
        """Default priors of the residual parameters."""
        raise NotImplementedError

    def efficiency(self, theta: Theta) -> tuple[Numbers, Numbers]:
        """Information of a measurement on its mean and on ln SD, over that of its score.

        The score is taken as a normal variable whose mean moves as it does for a measurement in the
        middle, and whose SD as for one that lies an SD above it; 1 where that is exact.
        """
        return 1.0, 1.0

    def log_prob(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        """ln density of a measured level y."""
        z, log_slope = map(jnp.asarray, self.standardize(y, f, theta))
        return -0.5 * z**2 - LN_SQRT_2PI + log_slope

    def log_cdf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        """ln P(measured level < y)."""
        return log_ndtr(self.standardize(y, f, theta)[0])

    def log_sf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        """ln P(measured level > y)."""
        return log_ndtr(-self.standardize(y, f, theta)[0])


@dataclasses.dataclass(frozen=True)
class LogNormal(Residual):
    """ln y ~ Normal(ln f, sigma): the residual model of nearly every CAR-T analysis.

    The default prior of sigma (an SD of ln y) is log-normal with median 0.5 and a 90 % interval of
    0.22 to 1.14, which holds the published 0.56 (Stein 2019) and 0.55-0.94 (Mueller-Schoell 2021).
    """

    on_log: ClassVar[bool] = True

    def standardize(self, y: Arrays, f: Arrays, theta: Theta) -> tuple[Arrays, Arrays]:
        z = (jnp.log(y) - jnp.log(f)) / theta["sigma"]
        return z, -jnp.log(y) - jnp.log(theta["sigma"])

    def sample(self, z: Arrays, f: Arrays, theta: Theta) -> Arrays:
        return f * jnp.exp(theta["sigma"] * z)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"sigma": dist.LogNormal(math.log(0.5), 0.5)}


@dataclasses.dataclass(frozen=True)
class StudentT(Residual):
    """ln y = ln f + sigma t, with t of Student's distribution: outlying samples count for less.

    sigma is a scale and not an SD: that of ln y is sigma sqrt(df / (df - 2)). Quantiles of the
    measured level are finite, its mean is not. The prior of sigma is that of `LogNormal`.

    Attributes:
        df: degrees of freedom, 1 or more; 4 unless given. None: a parameter `df`, whose prior is
            Gamma(2, 0.1) of shape and rate, after Juarez and Steel (2010,
            doi:10.1198/jbes.2009.07145).

    Reference: Lange, Little and Taylor (1989), doi:10.1080/01621459.1989.10478852.
    """

    df: float | None = 4.0
    on_log: ClassVar[bool] = True
    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.df is not None and not 1 <= self.df < math.inf:
            raise ModelError(
                f"StudentT: df must be a number of at least 1, or None to estimate it, but is "
                f"{self.df!r}."
            )

    def _df(self, theta: Theta) -> Array:
        return jnp.asarray(theta["df"] if self.df is None else self.df, float)

    def _t(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        return (jnp.log(y) - jnp.log(f)) / theta["sigma"]

    def standardize(self, y: Arrays, f: Arrays, theta: Theta) -> tuple[Arrays, Arrays]:
        t, df = self._t(y, f, theta), self._df(theta)
        z = student.score(t, df)
        slope = student.log_pdf(t, df) + 0.5 * z**2 + LN_SQRT_2PI
        return z, slope - jnp.log(y) - jnp.log(theta["sigma"])

    def sample(self, z: Arrays, f: Arrays, theta: Theta) -> Arrays:
        return f * jnp.exp(theta["sigma"] * student.quantile_of_score(z, self._df(theta)))

    def priors(self) -> dict[str, dist.Distribution]:
        own = {} if self.df is not None else {"df": dist.Gamma(2.0, 0.1)}
        return LogNormal().priors() | own

    def efficiency(self, theta: Theta) -> tuple[Numbers, Numbers]:
        if self.df is None:
            raise ModelError(
                "StudentT: the information of data is known for a fixed df only; give df, such as "
                "StudentT(df=4), for this check."
            )
        df, ln_2pi = self._df(theta), 2 * LN_SQRT_2PI
        at_0 = jnp.exp(2 * student.log_pdf(jnp.zeros(()), df) + ln_2pi)
        t = student.quantile_of_score(jnp.ones(()), df)
        at_1 = t**2 * jnp.exp(2 * student.log_pdf(t, df) + ln_2pi + 1.0)
        return (df + 1) / (df + 3) / at_0, df / (df + 3) / at_1

    def log_prob(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        scale = jnp.log(y) + jnp.log(theta["sigma"])
        return student.log_pdf(self._t(y, f, theta), self._df(theta)) - scale

    def log_cdf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        below: Array = student.log_cdf(self._t(y, f, theta), self._df(theta))
        return below

    def log_sf(self, y: Arrays, f: Arrays, theta: Theta) -> Array:
        above: Array = student.log_cdf(-self._t(y, f, theta), self._df(theta))
        return above


@dataclasses.dataclass(frozen=True)
class Proportional(Residual):
    """y ~ Normal(f, sigma_prop f)."""

    def _sd(self, f: Arrays, theta: Theta) -> Arrays:
        return theta["sigma_prop"] * f

    def standardize(self, y: Arrays, f: Arrays, theta: Theta) -> tuple[Arrays, Arrays]:
        sd = self._sd(f, theta)
        return (y - f) / sd, -jnp.log(sd) + jnp.zeros_like(y)

    def sample(self, z: Arrays, f: Arrays, theta: Theta) -> Arrays:
        return f + self._sd(f, theta) * z

    def priors(self) -> dict[str, dist.Distribution]:
        return {"sigma_prop": dist.LogNormal(math.log(0.5), 0.5)}


@dataclasses.dataclass(frozen=True)
class Additive(Proportional):
    """y ~ Normal(f, sigma_add); sigma_add has the unit of y.

    `typical_add` centres its prior, in the unit of y.
    """

    in_unit_of_y: ClassVar[tuple[str, ...]] = ("sigma_add",)
    typical_add: float = 1.0

    def _sd(self, f: Arrays, theta: Theta) -> Arrays:
        return theta["sigma_add"] + jnp.zeros_like(f)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"sigma_add": dist.LogNormal(math.log(self.typical_add), 1.0)}


@dataclasses.dataclass(frozen=True)
class Power(Proportional):
    """y ~ Normal(f, sigma_pow f^power): additive with power 0, proportional with 1.

    Attributes:
        power: the exponent; None: a parameter `power`, whose prior is normal around 1 with SD 0.5.
    """

    power: float | None = None

    def _sd(self, f: Arrays, theta: Theta) -> Arrays:
        return theta["sigma_pow"] * f ** (theta["power"] if self.power is None else self.power)

    def priors(self) -> dict[str, dist.Distribution]:
        own = {} if self.power is not None else {"power": dist.Normal(1.0, 0.5)}
        return {"sigma_pow": dist.LogNormal(math.log(0.5), 0.5), **own}


@dataclasses.dataclass(frozen=True)
class Combined(Proportional):
    """y ~ Normal(f, sqrt(sigma_add² + (sigma_prop f)²)); sigma_add has the unit of y.

    `typical_add` centres the prior of sigma_add, in the unit of y: half the LLOQ, say.
    """

    in_unit_of_y: ClassVar[tuple[str, ...]] = ("sigma_add",)
    typical_add: float = 1.0

    def _sd(self, f: Arrays, theta: Theta) -> Arrays:
        return jnp.sqrt(theta["sigma_add"] ** 2 + (theta["sigma_prop"] * f) ** 2)

    def priors(self) -> dict[str, dist.Distribution]:
        return {
            "sigma_add": dist.LogNormal(math.log(self.typical_add), 1.0),
            "sigma_prop": dist.LogNormal(math.log(0.5), 0.5),
        }


@dataclasses.dataclass(frozen=True)
class KnownSD(Proportional):
    """y ~ Normal(f, sd), with the SD of each observation from the column `sd` of the data.

    There are no parameters, unless `extra` is True: y ~ Normal(f, sqrt(sd² + sigma_add²)), where
    sigma_add has the unit of y; `typical_add` centres its prior.

    For measurements whose error is known, and for means of groups: a mean of n animals with
    standard deviation SD is an observation with sd = SD / sqrt(n), its standard error. Six mice
    with 120 ± 45 copies/µg on day 7 (made-up figures) are the row

        patient=dose group, time=7, analyte=transgene, value=120, unit=copies/µg, sd=18.4

    What varies between patients then varies between groups, and the curve is that of a group's
    mean.
    """

    extra: bool = False
    typical_add: float = 1.0
    known_sd: ClassVar[bool] = True
    in_unit_of_y: ClassVar[tuple[str, ...]] = ("sigma_add",)

    def _sd(self, f: Arrays, theta: Theta) -> Arrays:
        added = theta["sigma_add"] if self.extra else 0.0
        return jnp.sqrt(theta["sd"] ** 2 + added**2) + jnp.zeros_like(f)

    def priors(self) -> dict[str, dist.Distribution]:
        return Additive(self.typical_add).priors() if self.extra else {}


def log_likelihood(
    residual: Residual,
    y: Float[Arrays, "*#n"],
    f: Float[Arrays, "*#n"],
    theta: Theta,
    censored: Numbers,
    lloq: Float[Arrays, "*#n"],
    limit: Float[Arrays, "*#n"] | None = None,
) -> Float[Array, "*#n"]:
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

    def may_be(kind: int) -> bool:
        return isinstance(censored, jax.core.Tracer) or bool(np.any(np.asarray(censored) == kind))

    each = residual.log_prob(y, f, theta)
    if may_be(1):
        lloq = jnp.where(censored == 1, lloq, y)  # an LLOQ of 0 or NaN must not reach a gradient
        below = residual.log_cdf(lloq, f, theta)
        if limit is not None:
            bounded = jnp.isfinite(limit) & (limit < lloq)
            floor = jnp.where(bounded, limit, 0.5 * lloq)
            share = residual.log_cdf(floor, f, theta) - below
            inside = below + jnp.log1p(-jnp.exp(jnp.minimum(share, -1e-12)))
            below = jnp.where(bounded, inside, below)
        each = jnp.where(censored == 1, below, each)
    if may_be(-1):
        each = jnp.where(censored == -1, residual.log_sf(y, f, theta), each)
    return each

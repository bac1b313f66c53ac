"""Tisagenlecleucel in children and young adults with relapsed B-ALL (Stein 2019).

Empirical cellular kinetics in blood: exponential expansion up to `tmax`, then biexponential
decline (contraction of effectors, persistence of memory cells). 90 patients of ELIANA and ENSIGN.
Level C: transgene copies per µg of genomic DNA (qPCR). Time t: days after infusion. With
rho = ln(foldx) / tmax:

    t < tmax    C = cmax exp(rho (t - tmax))                                 C(0) = cmax / foldx
    t >= tmax   C = cmax [(1 - fb) exp(-alpha (t - tmax)) + fb exp(-beta (t - tmax))]

    foldx   fold expansion, first level to peak    1           3900      Table 1   omega 2.4
    tmax    time of the peak                       day         9.3       Table 1   omega 0.38
    cmax    peak level                             copies/µg   24,000    Table 1   omega 0.65
    alpha   contraction rate                       1/day       0.16      Table 1   omega 0.91
    fb      share of the peak that persists        1           0.0079    Table 1   omega 0.8
    beta    loss rate of persisting cells          1/day       0.0032    Table 1   omega 0.86

The curve is `piecewise.level`, without lag: E' = rho E to the peak, then E' = -alpha E and
M' = fb (alpha - beta) E - beta M, with C = E + M.

Reference: Stein et al. (2019) CPT Pharmacometrics Syst Pharmacol 8:285-295,
doi:10.1002/psp4.12388. Typical values and random effects: Table 1, read in the transcription of
nlmixr2lib (Stein_2019_Tisagenlecleucel), not in the paper itself.

The scale of the random effects is not certain: the transcription takes the printed column as
variances, Monolix (which the authors used) reports standard deviations. Both are here:
`load_model("stein2019")` reads standard deviations, `load_model("stein2019",
omega_is="variance")` variances. The random effect of `fb` is taken on the logit, which at
fb = 0.0079 is the log to within 1 %.

Comedication: tocilizumab multiplies the growth rate by 1.2, steroids by 1.0, from their first dose
to the peak: `with_comedication`. `cmax` and `tmax` remain those of the untreated patient. No
covariate was retained in the paper, and no dose effect.
"""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

import carpk as ck
from carpk.models import _variants as variants
from carpk.models import piecewise

TABLE = "Stein 2019, Table 1, as transcribed in nlmixr2lib"
RESIDUAL_SD = 0.56  # of ln(level); same table
F_TOCILIZUMAB, F_STEROIDS = 1.2, 1.0  # factors on the growth rate; same table


class Params(ck.Params):
    foldx: ck.Scalar = ck.param(3_900.0, "1", "fold expansion, first level to peak", TABLE, iiv=2.4)
    tmax: ck.Scalar = ck.param(9.3, "day", "time of the peak", TABLE, iiv=0.38)
    cmax: ck.Scalar = ck.param(24_000.0, "copies/µg", "peak level", TABLE, iiv=0.65)
    alpha: ck.Scalar = ck.param(0.16, "1/day", "contraction rate", TABLE, iiv=0.91)
    fb: ck.Scalar = ck.param(0.0079, "1", "share of the peak that persists", TABLE, (0, 1), iiv=0.8)
    beta: ck.Scalar = ck.param(0.0032, "1/day", "loss rate of persisting cells", TABLE, iiv=0.86)


def rates(p: Params) -> dict[str, ck.Scalar]:
    """The arguments of the piecewise curve from the parameters of the paper."""
    rho = jnp.log(p.foldx) / p.tmax
    return dict(cmax=p.cmax, tmax=p.tmax, rho=rho, alpha=p.alpha, beta=p.beta, fb=p.fb)


def transgene(t: Float[Array, " time"], p: Params) -> Float[Array, " time"]:
    """Transgene level [copies/µg]."""
    return piecewise.level(t, **rates(p))


def with_comedication(
    t: Float[Array, " time"], p: Params, tocilizumab: float = math.inf, steroids: float = math.inf
) -> Float[Array, " time"]:
    """Transgene level [copies/µg] with the first dose of either drug on these days.

    The growth rate is multiplied by F from that day to `tmax`, so the peak is higher than the
    `cmax` of the untreated patient, and the decline starts from there.
    """
    rho = jnp.log(p.foldx) / p.tmax
    until_peak = jnp.minimum(t, p.tmax)
    days = jnp.array([0.0, tocilizumab, steroids])
    days = jnp.sort(jnp.maximum(days, 0.0))  # nothing grows before the infusion
    grown = jnp.zeros_like(until_peak)
    for start, stop in zip(days, [*days[1:], jnp.inf], strict=True):
        factor = jnp.where(tocilizumab <= start, F_TOCILIZUMAB, 1.0)
        factor = factor * jnp.where(steroids <= start, F_STEROIDS, 1.0)
        grown = grown + factor * jnp.clip(jnp.minimum(until_peak, stop) - start, 0.0, None)
    extra = jnp.exp(rho * (grown - until_peak))
    return transgene(t, p) * extra


def build(omega_is: Literal["sd", "variance"] = "sd") -> ck.ClosedForm:
    """The model with the printed random effects read as "sd" or as "variance"."""

    params = Params
    if omega_is == "variance":
        printed = {name: info.iiv or 0.0 for name, info in Params.info().items()}
        params = variants.with_fields(
            Params, {n: variants.like(Params, n, iiv=math.sqrt(x)) for n, x in printed.items()}
        )
    return ck.ClosedForm(
        name="stein2019",
        product="tisagenlecleucel",
        reference="doi:10.1002/psp4.12388",
        params=params,
        outputs={"transgene": transgene},
        smooth={"transgene": lambda t, p: piecewise.smooth_level(t, **rates(p))},
        states=lambda t, p: piecewise.compartments(t, **rates(p)),
        units={"transgene": "copies/µg"},
        derived=DERIVED,
        published={  # Discussion, "Mechanism of biphasic decline", via nlmixr2lib
            "doubling time [day]": (DERIVED["t_double"][0], 0.78),
            "contraction half-life [day]": (DERIVED["t_alpha"][0], 4.3),
            "terminal half-life [day]": (DERIVED["t_beta"][0], 220.0),
        },
    )


DERIVED = {
    "t_double": (lambda p: p.tmax * jnp.log(2) / jnp.log(p.foldx), "day"),
    "t_alpha": (lambda p: jnp.log(2) / p.alpha, "day"),
    "t_beta": (lambda p: jnp.log(2) / p.beta, "day"),
}

model = build()

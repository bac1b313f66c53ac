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

Comedication (`load_model("stein2019", comedication="on")`): tocilizumab multiplies the growth rate
by F_toci = 1.2, steroids by F_ster = 1.0, from their first dose to the peak. `cmax` and `tmax`
remain those of the untreated patient. The days of the first doses are the covariates `tocilizumab`
and `steroids`, which the doses of the data fill. No covariate was retained in the paper, and no
dose effect.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import carpk as ck
from carpk.models import _variants as variants
from carpk.models import piecewise

TABLE = "Stein 2019, Table 1, as transcribed in nlmixr2lib"
RESIDUAL_SD = 0.56  # of ln(level); same table
NEVER = 1e6  # day of a first dose that was not given
STEROIDS = (
    *("steroids", "corticosteroids", "dexamethasone", "methylprednisolone", "prednisolone"),
    *("prednisone", "hydrocortisone"),
)


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


def smooth(t: Float[Array, " time"], p: Params) -> Float[Array, " time"]:
    """`transgene` with its peak rounded off."""
    return piecewise.smooth_level(t, **rates(p))


def compartments(t: Float[Array, " time"], p: Params) -> ck.States:
    return piecewise.compartments(t, **rates(p))


class Comedication(ck.Params):
    F_toci: ck.Scalar = ck.param(
        1.2, "1", "factor of tocilizumab on the growth rate", TABLE, prior_sd=0.3
    )
    F_ster: ck.Scalar = ck.param(
        1.0, "1", "factor of steroids on the growth rate", TABLE, prior_sd=0.3
    )
    tocilizumab: ck.Scalar = ck.covariate(
        NEVER, "day", "first dose of tocilizumab; 1e6 is none", products=["tocilizumab"]
    )
    steroids: ck.Scalar = ck.covariate(
        NEVER, "day", "first dose of a corticosteroid; 1e6 is none", products=STEROIDS
    )


def gain(t: Float[Array, " time"], p: Any) -> Float[Array, " time"]:
    """Level over that of the untreated patient: growth at F times its rate up to the peak.

    The peak is higher than `cmax`, and the decline starts from there.
    """
    rho = jnp.log(p.foldx) / p.tmax
    until_peak = jnp.minimum(t, p.tmax)
    first = jnp.maximum(jnp.array([p.tocilizumab, p.steroids]), 0.0)  # nothing grows before day 0
    days = jnp.sort(jnp.array([0.0, *first]))
    grown = jnp.zeros_like(until_peak)
    for start, stop in zip(days, [*days[1:], jnp.inf], strict=True):
        factor = jnp.where(first[0] <= start, p.F_toci, 1.0)
        factor = factor * jnp.where(first[1] <= start, p.F_ster, 1.0)
        grown = grown + factor * jnp.clip(jnp.minimum(until_peak, stop) - start, 0.0, None)
    return jnp.exp(rho * (grown - until_peak))


def treated(curve: Callable[..., Any]) -> Callable[..., Any]:
    """The curve, or compartments, of a patient with comedication."""

    def with_drugs(t: Float[Array, " time"], p: Params) -> Any:
        more = gain(t, p)
        return jax.tree.map(lambda x: x * more, curve(t, p))

    return with_drugs


def build(
    omega_is: Literal["sd", "variance"] = "sd", comedication: Literal["off", "on"] = "off"
) -> ck.ClosedForm:
    """The model with the printed random effects read as "sd" or as "variance"."""

    params: type[ck.Params] = Params
    curves: tuple[Callable[..., Any], ...] = (transgene, smooth, compartments)
    if omega_is == "variance":
        printed = {name: info.iiv or 0.0 for name, info in Params.info().items()}
        params = variants.with_fields(
            Params, {n: variants.like(Params, n, iiv=math.sqrt(x)) for n, x in printed.items()}
        )
    if comedication == "on":
        params = variants.with_fields(params, variants.fields_of(Comedication))
        curves = tuple(treated(curve) for curve in curves)
    return ck.ClosedForm(
        name="stein2019",
        product="tisagenlecleucel",
        reference="doi:10.1002/psp4.12388",
        params=params,
        outputs={"transgene": curves[0]},
        smooth={"transgene": curves[1]},
        states=curves[2],
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

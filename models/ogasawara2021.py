"""Lisocabtagene maraleucel in large B-cell lymphoma (Ogasawara 2021).

Lag, exponential expansion, biexponential decline; 261 patients of TRANSCEND NHL 001, 2,524 qPCR
observations. Level C: transgene copies per µg of genomic DNA (qPCR). Time t: days after infusion.
With rho = ln 2 / t_double, alpha = ln 2 / t_alpha and beta = ln 2 / t_beta:

    t < lag           C = cmax exp(-rho (tmax - lag))            the level at the end of the lag
    lag <= t < tmax   C = cmax exp(-rho (tmax - t))
    t >= tmax         C = cmax [(1 - fb) exp(-alpha (t - tmax)) + fb exp(-beta (t - tmax))]

    cmax      peak level                        copies/µg   24,000   assumed: Stein 2019
    lag       lag before expansion              day         3.27     abstract (2.71-3.97)
    tmax      time of the peak                  day         9.29     abstract (8.81-9.70)
    t_double  doubling time                     day         0.755    abstract (0.667-0.821)
    t_alpha   half-life of the first decline    day         5.00     abstract (4.15-5.90)
    t_beta    terminal half-life                day         352      abstract (241-647)
    fb        share of the peak that persists   1           0.0079   unverified: Stein 2019

The curve is `piecewise.level` with kdist = 0: no decline before the expansion. The typical peak
could not be read; `cmax` is Stein 2019's, with a wide prior.

Reference: Ogasawara et al. (2021) Clin Pharmacokinet, doi:10.1007/s40262-021-01039-5
(PMC8613160). Population means and their 95 % confidence intervals: abstract; the paper itself
could not be read. Between-patient variability and residual error are therefore absent, and
`fb` is Stein 2019's, marked unverified.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

import carpk as ck
from carpk.models import piecewise

ABSTRACT = "Ogasawara 2021, abstract"


class Params(ck.Params):
    cmax: ck.Scalar = ck.param(
        24_000.0,
        "copies/µg",
        "peak level",
        "assumed: not read for liso-cel; Stein 2019, Table 1, tisa-cel",
        prior_sd=1.5,
    )
    lag: ck.Scalar = ck.param(
        3.27, "day", "lag before expansion", ABSTRACT + " (2.71-3.97)", prior_sd=0.4
    )
    tmax: ck.Scalar = ck.param(
        9.29, "day", "time of the peak", ABSTRACT + " (8.81-9.70)", prior_sd=0.3
    )
    t_double: ck.Scalar = ck.param(
        0.755, "day", "doubling time", ABSTRACT + " (0.667-0.821)", prior_sd=0.4
    )
    t_alpha: ck.Scalar = ck.param(
        5.00, "day", "half-life of the first decline", ABSTRACT + " (4.15-5.90)", prior_sd=0.7
    )
    t_beta: ck.Scalar = ck.param(352.0, "day", "terminal half-life", ABSTRACT + " (241-647)")
    fb: ck.Scalar = ck.param(
        0.0079,
        "1",
        "share of the peak that persists",
        "unverified for liso-cel: Stein 2019, Table 1, tisa-cel",
        (0, 1),
        prior_sd=0.7,
    )


def rates(p: Params) -> dict[str, ck.Scalar]:
    """The arguments of the piecewise curve from the parameters of the paper."""
    rho, alpha, beta = (jnp.log(2) / x for x in (p.t_double, p.t_alpha, p.t_beta))
    return dict(cmax=p.cmax, tmax=p.tmax, rho=rho, alpha=alpha, beta=beta, fb=p.fb, lag=p.lag)


def transgene(t: Float[Array, " time"], p: Params) -> Float[Array, " time"]:
    """Transgene level [copies/µg]."""
    return piecewise.level(t, **rates(p))


model = ck.ClosedForm(
    name="ogasawara2021",
    product="lisocabtagene maraleucel",
    reference="doi:10.1007/s40262-021-01039-5",
    params=Params,
    outputs={"transgene": transgene},
    smooth={"transgene": lambda t, p: piecewise.smooth_level(t, **rates(p))},
    states=lambda t, p: piecewise.compartments(t, **rates(p)),
    units={"transgene": "copies/µg"},
    derived={"fold": (lambda p: 2.0 ** ((p.tmax - p.lag) / p.t_double), "1")},
    published={
        "time to maximum [day]": (
            lambda p: jnp.linspace(0, 60, 60_001)[
                jnp.argmax(transgene(jnp.linspace(0, 60, 60_001), p))
            ],
            9.29,
        ),
        "level one doubling time before the peak": (
            lambda p: transgene(jnp.array([p.tmax - p.t_double]), p)[0] / p.cmax,
            0.5,
        ),
        "decline over the first half-life": (
            lambda p: transgene(jnp.array([p.tmax + p.t_alpha]), p.replace(fb=1e-9))[0] / p.cmax,
            0.5,
        ),
        "decline over the terminal half-life": (
            lambda p: (
                transgene(jnp.array([200.0 + p.t_beta]), p)[0] / transgene(jnp.array([200.0]), p)[0]
            ),
            0.5,
        ),
    },
)

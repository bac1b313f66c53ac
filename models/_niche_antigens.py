"""Scenario of the niche models, products="two": a second product, against a second antigen.

"car_t_2" shares the niche with the first product, and has parameters and compartments of its own
(rho_2, E_2). The tumor has four classes, Bpp with both antigens to Bmm with none; antigens are lost
at the rates mu1 and mu2. The first product is stimulated by Bpp + Bpm, the second by Bpp + Bmp. All
values are assumed. With k1 and k2 the killing rates of the products, and G = g (1 - B/Bmax), B the
sum of all classes:

    Bpp' = (G - k1 - k2 - mu1 - mu2) Bpp
    Bpm' = (G - k1 - mu1) Bpm + mu2 Bpp
    Bmp' = (G - k2 - mu2) Bmp + mu1 Bpp
    Bmm' = G Bmm + mu1 Bpm + mu2 Bmp
"""

import carpk as ck
from carpk.models import _niche_parts as parts

SECOND = "_2"  # ends the names of what the second product has of its own
REGIMEN = ck.Regimen.cells(28, 1e8 * parts.BSA, product="car_t_2")  # day assumed


class Params(ck.Params):
    mu1: ck.Scalar = ck.param(1e-5, "1/day", "rate of loss of the first antigen", parts.SCENARIO)
    mu2: ck.Scalar = ck.param(1e-5, "1/day", "rate of loss of the second antigen", parts.SCENARIO)
    ONLY1: ck.Scalar = ck.covariate(
        0.0, "1", "share of the tumor with the first antigen only", "reference: none"
    )
    ONLY2: ck.Scalar = ck.covariate(
        0.0, "1", "share of the tumor with the second antigen only", "reference: none"
    )
    NEITHER: ck.Scalar = ck.covariate(
        0.0, "1", "share of the tumor with neither antigen", "reference: none"
    )


class States(ck.States):
    Bpp: ck.Scalar = ck.state("mL", "tumor with both antigens", log=True)
    Bpm: ck.Scalar = ck.state("mL", "tumor with the first antigen only")
    Bmp: ck.Scalar = ck.state("mL", "tumor with the second antigen only")
    Bmm: ck.Scalar = ck.state("mL", "tumor with neither antigen")


def tumor(y: States) -> ck.Scalar:
    """All of it [mL]."""
    return y.Bpp + y.Bpm + y.Bmp + y.Bmm


def slopes(
    y: States, growth: ck.Scalar, k1: ck.Scalar, k2: ck.Scalar, p: Params
) -> dict[str, ck.Scalar]:
    """Derivatives [mL/day] of a tumor that grows and is killed at these rates."""
    return dict(
        Bpp=(growth - k1 - k2 - p.mu1 - p.mu2) * y.Bpp,
        Bpm=(growth - k1 - p.mu1) * y.Bpm + p.mu2 * y.Bpp,
        Bmp=(growth - k2 - p.mu2) * y.Bmp + p.mu1 * y.Bpp,
        Bmm=growth * y.Bmm + p.mu1 * y.Bpm + p.mu2 * y.Bmp,
    )


def start(B0: ck.Scalar, p: Params) -> dict[str, ck.Scalar]:
    """The classes of a tumor of this size [mL]."""
    return dict(
        Bpp=B0 * (1 - p.ONLY1 - p.ONLY2 - p.NEITHER),
        Bpm=B0 * p.ONLY1,
        Bmp=B0 * p.ONLY2,
        Bmm=B0 * p.NEITHER,
    )

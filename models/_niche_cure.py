"""Scenario of the niche models, cure="on": the chance that no tumor cell is left, "cure".

The closed form of `kimmel2021`, whose head derives it: a tumor cell divides at the rate
G + turnover and dies at the rate k + turnover, with G the growth and k the killing of the tumor.
`turnover` is assumed. w = S B0 / B, where a lineage of tumor cells lives on with probability S:

    w' = (k + turnover - (G + turnover) - (k + turnover) w) w,    cure = (1 - w B / B0)^(B0 / 1e-9)
"""

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body
from carpk.models import _variants as variants
from carpk.models import kimmel2021


class Params(ck.Params):
    turnover: ck.Scalar = variants.like(kimmel2021.CureParams, "turnover")


class States(ck.States):
    w: ck.Scalar = ck.state(
        "1", "chance that a lineage of tumor cells lives on, over B/B0", 1.0, log=True
    )


def slope(w: ck.Scalar, growth: ck.Scalar, killing: ck.Scalar, p: Params) -> ck.Scalar:
    """w' [per day] in a tumor that grows and is killed at these rates."""
    return -(growth - killing + (p.turnover + killing) * w) * w


def no_cell_left(w: ck.Scalar, B: ck.Scalar, B0: ck.Scalar) -> ck.Scalar:
    """The chance that no tumor cell is left."""
    alive = jnp.minimum(w * B / B0, 1 - 1e-9)
    return jnp.exp(B0 / body.ML_PER_CELL * jnp.log1p(-alive))

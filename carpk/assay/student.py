"""Student's t distribution in JAX, differentiable to any order in its argument and in df.

JAX's incomplete beta function has no derivative by its parameters, so that the distribution
function is a quadrature here: with x = sqrt(df) cot(phi), the tail above x is

    c * integral from 0 to phi of sin(s)^(df - 1) ds,  c = Gamma((df + 1)/2)/(sqrt(pi) Gamma(df/2)),

by 48 Gauss-Legendre nodes in the square root of s, where the integrand is smooth: to 1e-9 of the
tail for df from 1 to 200 (held by a test against SciPy).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import gammaln, log_ndtr, ndtri

from carpk._types import Numbers

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
ROOTS = 0.5 * (1 + _NODES)  # square roots of s/phi
SIZES = 0.5 * _WEIGHTS * 2 * ROOTS
STEPS = 8  # of Newton's method for a quantile, which is exact to rounding after 7
LEAST = 1e-300  # of a tail whose normal score is taken


def log_pdf(x: Numbers, df: Numbers) -> Array:
    """ln density at x."""
    constant = gammaln(0.5 * (df + 1)) - gammaln(0.5 * df) - 0.5 * jnp.log(df * jnp.pi)
    return constant - 0.5 * (df + 1) * jnp.log1p(x**2 / df)


@jax.jit
def log_tail(x: Numbers, df: Numbers) -> Array:
    """ln P(T > x) for x of 0 or more."""
    phi = jnp.arctan2(jnp.sqrt(df) + 0.0 * x, x)
    shape = (*(1,) * jnp.ndim(phi), -1)
    inner = phi[..., None] * jnp.asarray(ROOTS**2).reshape(shape)
    power = jnp.asarray(df - 1)[..., None]
    share = jnp.sin(inner) / jnp.sin(phi)[..., None]
    integral = jnp.sum(jnp.asarray(SIZES).reshape(shape) * share**power, axis=-1)
    constant = gammaln(0.5 * (df + 1)) - gammaln(0.5 * df) - 0.5 * jnp.log(jnp.pi)
    return constant + jnp.log(phi) + (df - 1) * jnp.log(jnp.sin(phi)) + jnp.log(integral)


@jax.jit
def log_cdf(x: Numbers, df: Numbers) -> Array:
    """ln P(T < x)."""
    left = x < 0
    tail = log_tail(jnp.where(left, -x, x), df)
    return jnp.where(left, tail, jnp.log1p(-jnp.exp(tail)))


@jax.jit
def score(x: Numbers, df: Numbers) -> Array:
    """The standard-normal score of x: P(Z < score) = P(T < x)."""
    left = x < 0
    tail = jnp.exp(log_tail(jnp.where(left, -x, x), df))
    z = -ndtri(jnp.maximum(tail, LEAST))
    return jnp.where(left, -z, z)


@jax.jit
def quantile_of_score(z: Numbers, df: Numbers) -> Array:
    """The inverse of `score`.

    Newton's method in q = asinh(x / sqrt(df)), in which the log of the tail is concave, so that it
    comes down to the solution from above. The last two steps carry derivatives, to second order.
    """
    left = z < 0
    target = log_ndtr(jnp.where(left, z, -z))
    root = jnp.sqrt(df)

    def step(q: Array, df: Numbers, root: Array, target: Array) -> Array:
        x = root * jnp.sinh(q)
        tail: Array = log_tail(x, df)
        slope = -jnp.exp(log_pdf(x, df) - tail) * root * jnp.cosh(q)
        return q - (tail - target) / slope

    still = jax.lax.stop_gradient((df, root, target))
    q = jnp.arcsinh(jax.lax.stop_gradient(jnp.where(left, -z, z)) / still[1])
    q = jax.lax.stop_gradient(jax.lax.fori_loop(0, STEPS, lambda _, q: step(q, *still), q))
    for _ in range(2):
        q = step(q, df, root, target)
    x = root * jnp.sinh(q)
    return jnp.where(left, -x, x)

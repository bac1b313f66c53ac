"""Random effects: variability levels, omegas and correlations.

On the estimation scale of a parameter (log, logit or identity, see `params`)

    phi_ik = phi + sum_c beta_c x_ic + eta_cohort + eta_i + eta_ik

for patient i and infusion k, all eta normal around 0 with the SDs `omega_<parameter>`,
`omega_<parameter>_infusion` and `omega_<parameter>_cohort`. The effects of one patient may be
correlated. A cohort's effect is shared by all of its patients, so that its variance is not divided
by their number in what was published of them, while that of patients is, and the residual's: what
model-based meta-analysis does. A patient's effects are one vector here: those of
the patient, then those of the first infusion, of the second, and so on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from carpk._types import ArrayOf, Values

COHORT, PATIENT, INFUSION = "cohort", "patient", "infusion"
LEVELS = (COHORT, PATIENT, INFUSION)
CORRELATION = "correlation"  # name of the correlation matrix among the parameters


def omega_name(parameter: str, level: str = PATIENT) -> str:
    """Name of the SD of a random effect."""
    return f"omega_{parameter}" + ("" if level == PATIENT else f"_{level}")


def eta_name(parameter: str, level: str = PATIENT) -> str:
    """Name of a random effect."""
    return f"eta_{parameter}" + ("" if level == PATIENT else f"_{level}")


def covariate_effect_name(parameter: str, covariate: str) -> str:
    """Name of the effect of a covariate on a parameter."""
    return f"beta_{parameter}_{covariate}"


@dataclasses.dataclass(frozen=True)
class RandomEffects:
    """The random effects of a population.

    Attributes:
        levels: parameter -> its variability levels.
        correlated: parameters whose effects in one patient are correlated.
    """

    levels: Mapping[str, Sequence[str]]
    correlated: tuple[str, ...] = ()

    def at(self, level: str) -> tuple[str, ...]:
        """Parameters with this variability level."""
        return tuple(name for name, levels in self.levels.items() if level in levels)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        """(parameter, level) of a vector with one infusion."""
        return tuple((name, level) for level in (PATIENT, INFUSION) for name in self.at(level))

    def size(self, infusions: int = 1) -> int:
        """Length of a patient's vector."""
        return len(self.at(PATIENT)) + infusions * len(self.at(INFUSION))

    def factor(self, theta: Values, infusions: int = 1) -> Float[Array, "effect effect"]:
        """Lower triangular factor of the covariance of a patient's vector, (m, m)."""
        names = self.at(PATIENT)
        sds = [theta[omega_name(name)] for name in names]
        sds += [theta[omega_name(name, INFUSION)] for name in self.at(INFUSION)] * infusions
        if not sds:
            return jnp.zeros((0, 0))
        scale = jnp.stack(sds)
        if not self.correlated:
            return jnp.diag(scale)
        place = np.array([names.index(name) for name in self.correlated])
        correlation = jnp.eye(len(sds)).at[np.ix_(place, place)].set(theta[CORRELATION])
        factor: Array = scale[:, None] * jnp.linalg.cholesky(correlation)
        return factor

    def deviations(self, b: ArrayOf, infusions: int = 1) -> dict[str, ArrayOf]:
        """Parameter -> its deviation in patients with vectors b (..., m).

        Shape (...), or (..., infusion) where the parameter varies by infusion.
        """
        each = self.named(b, infusions)
        out: dict[str, ArrayOf] = {}
        for name in self.levels:
            own, by_infusion = each.get(eta_name(name)), each.get(eta_name(name, INFUSION))
            if by_infusion is not None:
                out[name] = by_infusion if own is None else own[..., None] + by_infusion
            elif own is not None:
                out[name] = own
        return out

    def named(self, b: ArrayOf, infusions: int = 1) -> dict[str, ArrayOf]:
        """Vectors (..., m) as arrays by name: (...) by patient, (..., infusion) by infusion."""
        own, others = self.at(PATIENT), self.at(INFUSION)
        rest = b[..., len(own) :].reshape(*b.shape[:-1], infusions if others else 0, len(others))
        return {eta_name(name): b[..., i] for i, name in enumerate(own)} | {
            eta_name(name, INFUSION): rest[..., i] for i, name in enumerate(others)
        }

    def stacked(self, sample: Values, infusions: int, shape: tuple[int, ...]) -> Array:
        """The inverse of `named`, (*shape, m)."""
        parts = [jnp.asarray(sample[eta_name(name)])[..., None] for name in self.at(PATIENT)]
        others = [sample[eta_name(name, INFUSION)] for name in self.at(INFUSION)]
        if others:
            parts.append(jnp.stack(others, axis=-1).reshape(*shape, infusions * len(others)))
        return jnp.concatenate(parts, axis=-1) if parts else jnp.zeros((*shape, 0))

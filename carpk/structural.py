"""Structural models: what happens in the body, before any assay or any variability.

`ClosedForm` is a model whose outputs can be written down; models given by differential equations
follow the same pattern (`Params`, `States`, outputs with units).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pandas as pd
from jaxtyping import Array, Float

from carpk.errors import ModelError
from carpk.params import Params

Curve = Callable[[Float[Array, " time"], Any], Float[Array, " time"]]


def state(unit: str, about: str, initial: float = 0.0) -> Any:
    """A named compartment: its unit, its meaning and its content before anything is given."""
    if not (unit and about):
        raise ModelError(f"state({unit!r}, {about!r}): every state needs a unit and a meaning.")
    return eqx.field(default=float(initial), metadata={"unit": unit, "about": about})


class States(eqx.Module):
    """Base class of the compartments of a structural model; fields made with `state`."""

    @classmethod
    def describe(cls) -> pd.DataFrame:
        """One row per compartment: symbol, initial, unit, about."""
        rows = []
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if "unit" not in field.metadata:
                raise ModelError(
                    f"{cls.__name__}.{field.name} has no unit and no meaning; define it with "
                    f'`{field.name}: ck.Scalar = ck.state("unit", "meaning")`.'
                )
            rows.append(
                {
                    "symbol": field.name,
                    "initial": field.default,
                    "unit": field.metadata["unit"],
                    "about": field.metadata["about"],
                }
            )
        return pd.DataFrame(rows).set_index("symbol")


@dataclasses.dataclass(frozen=True)
class DoseEffect:
    """`parameter` is multiplied by (amount / reference) ** exponent, infusion by infusion."""

    parameter: str
    exponent: float
    reference: float


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """A structural model with its outputs in closed form, as the response to one infusion.

    Several infusions superpose, each with its own parameters (its own peak, above all). The
    amount infused has no effect unless `with_dose_effect` gives it one: in the clinic the peak of
    CAR-T cells hardly follows the dose. Lymphodepletion is not part of a closed form: it is
    felt through the parameters, as a covariate.

    Attributes:
        name: the file's name.
        params: class of the parameters; calling it gives the typical patient.
        outputs: name -> f(t, p), the level at `t` days >= 0 after an infusion, shape (time,). At
            t = 0 it is the level just after the infusion.
        units: name -> unit of that output.
        reference: DOI of the paper.
        states: f(t, p) -> States, the compartments behind the outputs, where the model has any.
        smooth: name -> the same output with every sharp switch rounded off, for samplers that
            need derivatives; `outputs` where left out.
        derived: name -> (function of params, unit): what a fit reports beside the parameters.
        published: what the paper reports: name -> (function of params, value).
        dose_effect: see `with_dose_effect`.
        origin: how `load_model` finds the model again: its name or path, and its options.
    """

    name: str
    params: type[Params]
    outputs: Mapping[str, Curve]
    units: Mapping[str, str]
    reference: str = ""
    states: Callable[[Any, Any], States] | None = None
    smooth: Mapping[str, Curve] | None = None
    derived: Mapping[str, tuple[Callable[[Any], Any], str]] = dataclasses.field(
        default_factory=dict
    )
    published: Mapping[str, tuple[Callable[[Any], Any], float]] = dataclasses.field(
        default_factory=dict
    )
    dose_effect: DoseEffect | None = None
    origin: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.params.info()
        for name in self.outputs:
            if name not in self.units:
                raise ModelError(f"Model {self.name!r}: the output {name!r} has no unit.")
        if self.smooth is not None and set(self.smooth) != set(self.outputs):
            raise ModelError(
                f"Model {self.name!r}: `smooth` must have the same outputs as `outputs`, but has "
                f"{sorted(self.smooth)} and not {sorted(self.outputs)}."
            )

    def describe(self) -> pd.DataFrame:
        """The parameters: symbol, value, unit, about, iiv, scale, source."""
        return self.params.describe()

    def level(
        self,
        output: str,
        t: Float[Array, " time"],
        params: Params,
        infusion_time: Float[Array, " infusion"] | float = 0.0,
        amount: Float[Array, " infusion"] | None = None,
        *,
        smooth: bool = False,
    ) -> Float[Array, " time"]:
        """An output after any number of infusions [the output's unit].

        Args:
            output: a name in `outputs`.
            t: days, any order.
            params: scalars, or one value per infusion (leaves of shape (infusion,)).
            infusion_time: days; an infusion at infinity never happens.
            amount: cells; needed only with a dose effect.
            smooth: use the rounded-off outputs.

        Returns:
            Shape (time,); 0 before the first infusion.
        """
        self.require(output)
        curve = (self.smooth if smooth and self.smooth else self.outputs)[output]
        t = jnp.asarray(t, float)
        start = jnp.atleast_1d(jnp.asarray(infusion_time, float))
        each = jax.tree.map(lambda x: jnp.broadcast_to(x, start.shape), params)
        if self.dose_effect is not None:
            each = self._scale_with_dose(each, amount)
        since = t[None, :] - start[:, None]
        after = since >= 0
        levels = jax.vmap(curve)(jnp.where(after, since, 0.0), each)
        return jnp.sum(jnp.where(after, levels, 0.0), axis=0)

    def with_dose_effect(
        self, exponent: float, reference: float, parameter: str = "cmax"
    ) -> ClosedForm:
        """The same model, whose `parameter` follows the dose: p x (amount / reference)^exponent.

        Args:
            exponent: 0 is no effect, 1 is proportional.
            reference: the dose at which `parameter` has its stated value [cells].
            parameter: "cmax" unless said otherwise.
        """
        if parameter not in self.params.info():
            raise ModelError(
                f"Model {self.name!r} has no parameter {parameter!r}; known are "
                f"{', '.join(self.params.info())}."
            )
        return dataclasses.replace(
            self, dose_effect=DoseEffect(parameter, float(exponent), float(reference))
        )

    def require(self, output: str) -> None:
        """Refuse an output that the model does not have."""
        if output not in self.outputs:
            raise ModelError(
                f"Model {self.name!r} has no output {output!r}; it has "
                f"{', '.join(f'{k} [{u}]' for k, u in self.units.items())}."
            )

    def _scale_with_dose(self, params: Params, amount: Any) -> Params:
        effect = self.dose_effect
        assert effect is not None
        if amount is None:
            raise ModelError(
                f"Model {self.name!r} has a dose effect on {effect.parameter}, so the amount of "
                "every infusion [cells] is needed."
            )
        value = getattr(params, effect.parameter)
        dose = jnp.broadcast_to(jnp.asarray(amount, float), value.shape)
        factor = (dose / effect.reference) ** effect.exponent
        return params.replace(**{effect.parameter: value * factor})

    def __repr__(self) -> str:
        outputs = ", ".join(f"{k} [{self.units[k]}]" for k in self.outputs)
        head = f"ClosedForm {self.name!r}: {outputs}"
        if self.reference:
            head += f" ({self.reference})"
        table = self.describe()[["value", "unit", "about"]]
        return head + "\n" + table.to_string(float_format="{:g}".format)

"""Structural models: what happens in the body, before any assay or any variability.

`ClosedForm` is a model whose outputs can be written down, `ODEModel` one given by differential
equations. Both have `Params`, `States` and outputs with units.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from carpk._late import late
from carpk._tables import as_frame
from carpk._types import Arrays, Numbers
from carpk.dosing.disposition import Disposition
from carpk.dosing.regimen import SAME, Regimen
from carpk.errors import ModelError
from carpk.models import first_line
from carpk.params import Params

if TYPE_CHECKING:
    import pandas as pd

AXES = ("chain", "draw", "patient", "time", "infusion", "cohort")  # of results

Curve = Callable[..., Float[Array, " time"]]  # f(t, p)


def state(unit: str, about: str, initial: float = 0.0, *, log: bool = False) -> Any:
    """A named compartment.

    Args:
        unit: of its content.
        about: what it is.
        initial: content before anything is given; `ODEModel(initial=...)` may compute it.
        log: integrate the logarithm. For a state that grows or shrinks in proportion to itself,
            over decades: cells that divide, tumors. It then keeps its relative accuracy however
            small it gets. Not for a state that starts at 0 and is filled by another one.
    """
    if not (unit and about):
        raise ModelError(f"state({unit!r}, {about!r}): every state needs a unit and a meaning.")
    return eqx.field(default=float(initial), metadata={"unit": unit, "about": about, "log": log})


class States(eqx.Module):
    """Base class of the compartments of a structural model; fields made with `state`."""

    @classmethod
    def describe(cls) -> pd.DataFrame:
        """One row per compartment: symbol, initial, unit, about."""
        cls.check()
        rows = [
            {
                "symbol": field.name,
                "initial": field.default,
                "unit": field.metadata["unit"],
                "about": field.metadata["about"],
                "integrated_as": "log" if field.metadata["log"] else "itself",
            }
            for field in dataclasses.fields(cls)
        ]
        columns = ["symbol", "initial", "unit", "about", "integrated_as"]
        return as_frame(rows, columns, index="symbol")

    @classmethod
    def check(cls) -> None:
        """Refuse compartments without a unit."""
        for field in dataclasses.fields(cls):
            if "unit" not in field.metadata:
                raise ModelError(
                    f"{cls.__name__}.{field.name} has no unit and no meaning; define it with "
                    f'`{field.name}: ck.Scalar = ck.state("unit", "meaning")`.'
                )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The compartments, in the order of definition."""
        return tuple(field.name for field in dataclasses.fields(cls))


@dataclasses.dataclass(frozen=True)
class DoseEffect:
    """`parameter` is multiplied by (amount / reference) ** exponent, infusion by infusion."""

    parameter: str
    exponent: float
    reference: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class StructuralModel:
    """Base of both kinds of structural model.

    Attributes:
        name: the file's name.
        params: class of the parameters; calling it gives the typical patient.
        outputs: name -> function that gives it.
        units: name -> unit of that output.
        reference: DOI of the paper.
        derived: name -> (function of params, unit): what a fit reports beside the parameters.
        published: what the paper reports: name -> (function of params, value), or (function of
            params, value, relative tolerance) where the 2 % of the library's tests do not suit.
        regimens: what the paper gives: name -> `Regimen`, absolute amounts; the first is its own
            typical dosing.
        product: what the model was written for; "" for no one product.
        one_cell: output -> value of a single cell. Below it differential equations have
            nothing to say: what falls below may be gone, and its return is not a relapse.
        correlation: (parameter, parameter) -> published correlation of their random effects.
        calibration_draws: function without arguments that gives what is known of the typical
            values: parameter -> joint draws [natural scale], all of shape (draw,), the same at each
            call.
            Parameters that are not named are taken as known. `simulate(..., draws=...)` and
            `compare` choose from them.
        doc: the text at the head of the model's file, for people.
        origin: how `load_model` finds the model again: its name or path, and its options.
        files: name -> text of the model's file, of the model files that it imports and of the
            tables beside it that it reads, as they were when it was loaded.
    """

    name: str
    params: type[Params]
    outputs: Mapping[str, Callable[..., Numbers]]
    units: Mapping[str, str]
    reference: str = ""
    derived: Mapping[str, tuple[Callable[..., Numbers], str]] = dataclasses.field(
        default_factory=dict
    )
    published: Mapping[str, tuple[Callable[..., Numbers] | float, ...]] = dataclasses.field(
        default_factory=dict
    )
    regimens: Mapping[str, Regimen] = dataclasses.field(default_factory=dict)
    product: str = ""
    one_cell: Mapping[str, float] = dataclasses.field(default_factory=dict)
    correlation: Mapping[tuple[str, str], float] = dataclasses.field(default_factory=dict)
    calibration_draws: Callable[[], Mapping[str, ArrayLike]] | None = None
    doc: str = ""
    origin: Mapping[str, Any] | None = None
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        known = self.params.info()
        for name in self.outputs:
            if name not in self.units:
                raise ModelError(
                    f"Model {self.name!r}: the output {name!r} has no unit; add it to `units`."
                )
        for name in [*self.units, *self.one_cell]:
            self.require(name)
        for what, names in (("output", self.outputs), ("parameter", known)):
            for name in names:
                if name in AXES:
                    raise ModelError(
                        f"Model {self.name!r}: the {what} {name!r} has the name of an axis of "
                        f"results ({', '.join(AXES)}); give it another."
                    )
        for pair in self.correlation:
            bad = [x for x in pair if x not in known or not known[x].iiv]
            if len(pair) != 2 or bad:
                raise ModelError(
                    f"Model {self.name!r}: `correlation` has {pair!r}, but must name two "
                    "parameters that have an iiv."
                )

    @property
    def about(self) -> str:
        """First line of the model file."""
        return first_line(self.doc)

    def describe(self) -> pd.DataFrame:
        """The parameters: symbol, value, unit, about, iiv, scale, source."""
        return self.params.describe()

    def require(self, output: str) -> None:
        """Refuse an output that the model does not have."""
        if output not in self.outputs:
            raise ModelError(
                f"Model {self.name!r} has no output {output!r}; it has "
                f"{', '.join(f'{k} [{u}]' for k, u in self.units.items())}."
            )

    def __repr__(self) -> str:
        outputs = ", ".join(f"{k} [{self.units[k]}]" for k in self.outputs)
        head = f"{type(self).__name__} {self.name!r}: {outputs}"
        if self.reference:
            head += f" ({self.reference})"
        table = self.describe()[["value", "unit", "about"]]
        return head + "\n" + table.to_string(float_format="{:g}".format)

    def __reduce__(self) -> str | tuple[object, ...]:
        """Pickled as its origin and what differs from it: functions in a file have no name."""
        if self.origin is None:
            return super().__reduce__()
        return late("carpk.library.again.model_again"), late("carpk.library.again.pickled")(self)


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class ClosedForm(StructuralModel):
    """A structural model with its outputs in closed form, as the response to one infusion.

    Several infusions superpose, each with its own parameters (its own peak, above all). The
    amount infused has no effect unless `with_dose_effect` gives it one: in the clinic the peak of
    CAR-T cells hardly follows the dose. Lymphodepletion is not part of a closed form: it is
    felt through the parameters, as a covariate.

    Attributes, beside those of every structural model:
        outputs: name -> f(t, p), the value at `t` days >= 0 after an infusion, shape (time,). At
            t = 0 it is that just after the infusion.
        states: f(t, p) -> States, the compartments behind the outputs, where the model has any.
        smooth: name -> the same output with every sharp switch rounded off, for samplers that
            need derivatives; `outputs` where left out.
        dose_effect: see `with_dose_effect`.
    """

    states: Callable[..., States] | None = None
    smooth: Mapping[str, Curve] | None = None
    dose_effect: DoseEffect | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smooth is not None and set(self.smooth) != set(self.outputs):
            raise ModelError(
                f"Model {self.name!r}: `smooth` must have the same outputs as `outputs`, but has "
                f"{sorted(self.smooth)} and not {sorted(self.outputs)}."
            )

    def level(
        self,
        output: str,
        t: Float[Arrays, " time"] | Sequence[float],
        params: Params,
        infusion_time: Float[Arrays, " infusion"] | float = 0.0,
        amount: Float[Arrays, " infusion"] | None = None,
        *,
        smooth: bool = False,
        after: Arrays | bool = False,
    ) -> Float[Array, " time"]:
        """An output after any number of infusions [the output's unit].

        Args:
            output: a name in `outputs`.
            t: days, any order.
            params: scalars, or one value per infusion (leaves of shape (infusion,)).
            infusion_time: days; an infusion at infinity never happens.
            amount: cells; needed only with a dose effect.
            smooth: use the rounded-off outputs.
            after: whether a level at the time of an infusion is that just after it, not before; one
                answer, or shape (time,).

        Returns:
            Shape (time,); 0 up to the first infusion.
        """
        self.require(output)
        curve = (self.smooth if smooth and self.smooth else self.outputs)[output]
        t = jnp.asarray(t, float)
        start = jnp.atleast_1d(jnp.asarray(infusion_time, float))
        each = jax.tree.map(lambda x: jnp.broadcast_to(x, start.shape), params)
        if self.dose_effect is not None:
            each = self._scale_with_dose(each, amount)
        since = t[None, :] - start[:, None]
        given = (since > SAME) | ((since >= -SAME) & after)
        values = jax.vmap(curve)(jnp.where(given, jnp.maximum(since, 0.0), 0.0), each)
        return jnp.sum(jnp.where(given, values, 0.0), axis=0)

    def with_dose_effect(
        self, exponent: float, reference: float, parameter: str = "cmax"
    ) -> ClosedForm:
        """A copy whose `parameter` follows the dose: p x (amount / reference)^exponent.

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

    def _scale_with_dose(self, params: Params, amount: ArrayLike | None) -> Params:
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


@dataclasses.dataclass(frozen=True)
class Target:
    """Compartment of a product, with bioavailability and lag time.

    Attributes:
        compartment: a state, or one of the model's `inputs`.
        bioavailability: f(p), share of the amount that arrives (F). 1 where left out.
        lag: f(p), days between giving and arriving (ALAG); none where left out.
        unit: of the amounts given: "cells" or "mg".
        duration: f(p), days over which a `Bolus` enters at a constant rate (D, zero-order
            absorption); at once where left out. An `Infusion` keeps its own duration, unless it
            says that the model gives it.
        rate: f(p), amount per day at which it enters (R), in place of `duration`.
        scale: f(p), content of the compartment per unit that arrives: the conversion from cells or
            mg to the compartment's unit. 1 where left out. Where the rate of an infusion is given,
            bioavailability changes its duration, and scale the content.
    """

    compartment: str
    bioavailability: Callable[..., Numbers] | None = None
    lag: Callable[..., Numbers] | None = None
    unit: str = "cells"
    duration: Callable[..., Numbers] | None = None
    rate: Callable[..., Numbers] | None = None
    scale: Callable[..., Numbers] | None = None

    def __post_init__(self) -> None:
        if self.duration is not None and self.rate is not None:
            raise ModelError(
                f"Target({self.compartment!r}) has a duration and a rate, but one gives the other; "
                "leave one out."
            )

    @property
    def functions(self) -> dict[str, Callable[..., Numbers]]:
        """What of it depends on the parameters."""
        names = ("bioavailability", "lag", "duration", "rate", "scale")
        every = {name: getattr(self, name) for name in names}
        return {name: f for name, f in every.items() if f is not None}


def _still(t: Numbers, y: States, p: Params, c: Mapping[str, Numbers]) -> States:
    """The vector field of a model without states."""
    return y


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class ODEModel(StructuralModel):
    """A structural model given by differential equations, solved by `carpk.solve`.

    Attributes, beside those of every structural model:
        states: class of the compartments.
        vector_field: f(t, y, p), or f(t, y, p, c) for a model with `inputs`: the `States` of time
            derivatives [per day], from day t, states y, parameters p and concentrations c. Events
            never appear in it: no `if t < ...`.
        outputs: name -> f(t, y, p) or f(t, y, p, c), a number.
        initial: f(p), the `States` before anything is given; their defaults where left out.
        targets: product -> `Target`, or several of them, each of which gets the whole amount times
            its own scale and bioavailability; a product that is not named goes into the state or
            the input of its own name. A `Target` with a lag is also how something changes in the
            equations on a day that depends on parameters: a state that is filled then.
        inputs: name -> f(p), a `Disposition`: drugs that are eliminated linearly. They are solved
            in closed form and given to the vector field as c["name"]. The depot of one that has an
            absorption is the compartment "name_depot".

    A model of inputs alone has no states and no vector field: it is solved in closed form.
    """

    states: type[States] = States
    vector_field: Callable[..., States] = _still
    initial: Callable[..., States] | None = None
    targets: Mapping[str, Target | tuple[Target, ...]] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Callable[..., Disposition]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.states.check()
        for name in self.inputs:
            if name in self.states.names():
                raise ModelError(
                    f"Model {self.name!r}: {name!r} is a state and an input; rename one of them."
                )
        for product, target in self.every_target():
            if target.compartment not in self.compartments:
                raise ModelError(
                    f"Model {self.name!r}: {product!r} goes into {target.compartment!r}, which is "
                    f"not a compartment; known are {', '.join(self.compartments)}."
                )

    @cached_property
    def compartments(self) -> tuple[str, ...]:
        """Everything that can be dosed: the states, then the inputs, then their depots."""
        return (*self.states.names(), *self.inputs, *self.depots)

    @cached_property
    def depots(self) -> dict[str, str]:
        """Depot -> its input."""
        params = self.params()
        every = {f"{name}_depot": (name, f(params)) for name, f in self.inputs.items()}
        return {
            depot: name
            for depot, (name, given) in every.items()
            if isinstance(given, Disposition) and given.absorption is not None
        }

    def into(self, product: str) -> tuple[Target, ...]:
        """Targets of a product; empty if it is not named in `targets`."""
        target = self.targets.get(product, ())
        return target if isinstance(target, tuple) else (target,)

    def every_target(self) -> list[tuple[str, Target]]:
        """(product, target), one pair per target."""
        return [(product, target) for product in self.targets for target in self.into(product)]

    @cached_property
    def behind_inputs(self) -> frozenset[str]:
        """The parameters on which the disposition of the inputs depends."""
        names = list(self.params.info())

        def every(*values: Array) -> list[Disposition]:
            params = self.params(**dict(zip(names, values, strict=True)))
            return [f(params) for f in self.inputs.values()]

        traced = jax.make_jaxpr(every)(*(i.value for i in self.params.info().values())).jaxpr
        on = {id(x): {name} for x, name in zip(traced.invars, names, strict=True)}

        def of(variables: Iterable[object]) -> set[str]:
            return set().union(*(on.get(id(x), set()) for x in variables))

        for step in traced.eqns:
            on |= dict.fromkeys(map(id, step.outvars), of(step.invars))
        return frozenset(of(traced.outvars))

    @cached_property
    def logs(self) -> tuple[bool, ...]:
        """States that are integrated as logarithms."""
        return tuple(f.metadata["log"] for f in dataclasses.fields(self.states))

    def start(self, params: Params) -> States:
        """The compartments before anything is given."""
        return self.states() if self.initial is None else self.initial(params)

    def check(self) -> None:
        """Refuse a vector field or an output of the wrong shape, before anything is compiled."""
        params = self.params()

        def numbers(what: str, x: object) -> None:
            if not isinstance(x, self.states):
                raise ModelError(
                    f"Model {self.name!r}: {what} must return {self.states.__name__}, but returned "
                    f"{type(x).__name__}."
                )
            for name in self.states.names():
                value = getattr(x, name)
                shape = getattr(value, "shape", None)
                if shape != () and not isinstance(value, int | float):
                    kind = f"shape {shape}" if shape else type(value).__name__
                    raise ModelError(
                        f"Model {self.name!r}: {what} must return a number for {name!r}, but "
                        f"returned {kind}. It is called for one patient at one time; patients are "
                        "batched outside it."
                    )

        def evaluate(p: Params) -> dict[str, Numbers]:
            y = self.start(p)
            numbers("`initial`", y)
            y = jax.tree.map(lambda x: jnp.asarray(x, float) + jnp.zeros(()), y)  # traced
            c = {name: jnp.zeros(()) for name in self.inputs}
            more = (c,) if self.inputs else ()
            numbers("the vector field", self.vector_field(jnp.zeros(()), y, p, *more))
            return {k: f(jnp.zeros(()), y, p, *more) for k, f in self.outputs.items()}

        for name, f in self.inputs.items():
            given = f(params)
            if not isinstance(given, Disposition):
                raise ModelError(
                    f"Model {self.name!r}: the input {name!r} must give a ck.Disposition, but "
                    f"gives {type(given).__name__}."
                )
        for product, target in self.every_target():
            for what, g in target.functions.items():
                shape = jnp.shape(g(params))
                if shape != ():
                    raise ModelError(
                        f"Model {self.name!r}: the {what} of {product!r} must be a number, but has "
                        f"shape {shape}."
                    )
        outputs: dict[str, Numbers] = {}
        jax.eval_shape(lambda p: outputs.update(evaluate(p)), params)
        for name, value in outputs.items():
            if getattr(value, "shape", None) != () and not isinstance(value, int | float):
                size = getattr(value, "shape", None)
                kind = f"has shape {size}" if size else f"is {type(value).__name__}"
                raise ModelError(
                    f"Model {self.name!r}: the output {name!r} must be a number, but {kind}."
                )

    def check_derivatives(self) -> None:
        """Refuse equations whose derivatives are not numbers for the typical patient.

        Runs them line by line, with tangents in every state and parameter, so that the error comes
        from the line at fault. States that start at 0 are taken as 1e-3, which they soon are.
        """
        params = self.params()
        y = jax.tree.map(
            lambda x: jnp.where(x == 0, 1e-3, jnp.asarray(x, float)), self.start(params)
        )
        params = jax.tree.map(lambda x: jnp.asarray(x, float), params)
        c = {name: jnp.ones(()) for name in self.inputs}
        more = (c,) if self.inputs else ()

        def everything(t: Array, y: States, p: Params) -> tuple[States, list[Numbers]]:
            return self.vector_field(t, y, p, *more), [
                f(t, y, p, *more) for f in self.outputs.values()
            ]

        point = (jnp.ones(()), y, params)
        with jax.debug_nans(True), jax.debug_infs(True):
            jax.jvp(everything, point, jax.tree.map(jnp.ones_like, point))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ODEModel) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @cached_property
    def _key(self) -> tuple[Hashable, ...]:
        """Hash key of the compiled code: two loads of one file share it."""
        functions = (self.vector_field, self.initial, *self.outputs.items(), *self.inputs.items())
        return (self.name, self.params, self.states, functions, tuple(self.every_target()))

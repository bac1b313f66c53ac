"""The niche models with their switches: a form of the model, extended by the scenarios asked for.

A form (`niche`, `niche_full`) is its `equations`, written for one product and a tumor of one kind.
Each scenario is a file of its own (`_niche_immunity`, `_niche_exhaustion`, `_niche_antigens`,
`_niche_graft`, `_niche_cure`), with its equations at the head; a scenario that is off has no state,
no parameter and no term. `vector_field` adds what is on.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body
from carpk.models import _niche_antigens as antigens
from carpk.models import _niche_cure as cure
from carpk.models import _niche_exhaustion as exhaustion
from carpk.models import _niche_graft as graft
from carpk.models import _niche_immunity as immunity
from carpk.models import _niche_parts as parts
from carpk.models import _variants as variants
from carpk.models import friberg2002

SECOND = antigens.SECOND
Output = Callable[..., ck.Scalar]

if TYPE_CHECKING:  # what there is where a switch asks for it

    class EveryParam(
        parts.Common,
        parts.Myeloid,
        parts.ConstantPool,
        graft.Params,
        immunity.Params,
        exhaustion.CheckpointParams,
        cure.Params,
        antigens.Params,
    ):
        @property
        def rN(self) -> ck.Scalar:
            """Division rate of normal T cells, a parameter of each form."""
            raise NotImplementedError

    class EveryState(
        parts.States,
        parts.OneTumor,
        antigens.States,
        exhaustion.States,
        immunity.States,
        graft.States,
        friberg2002.States,
        cure.States,
    ):
        pass


@dataclasses.dataclass(frozen=True)
class Form:
    """What a form of the model has of its own.

    Attributes:
        name: of the model's file.
        states: class of the states, beside those of tumor and switches.
        own: parameters that every product has for itself.
        equations: f(y, p, c, L, B), slopes of everything but neutrophils, with L T cells in all and
            a tumor B that carries the antigen.
        recovery: f(L, p), net division rate of normal T cells over rN.
        start: f(p), states that do not start at 0, beside the tumor.
        growth: f(p), division rate in an empty niche with plenty of tumor [per day].
        volume: f(p), what CAR-T cells spread into [L].
        cyclophosphamide: the compartment that it goes into.
        inputs, derived, published: as in `ck.ODEModel`, beside the shared ones.
        outputs: name -> (function, unit), beside the shared ones.
    """

    name: str
    states: type[parts.States]
    own: tuple[str, ...]
    equations: Callable[..., dict[str, ck.Scalar]]
    recovery: Callable[..., ck.Scalar]
    start: Callable[..., dict[str, ck.Scalar]]
    growth: Callable[..., ck.Scalar]
    volume: Callable[..., ck.Scalar]
    cyclophosphamide: str
    inputs: Mapping[str, Callable[..., ck.Disposition]] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, tuple[Output, str]] = dataclasses.field(default_factory=dict)
    derived: Mapping[str, tuple[Output, str]] = dataclasses.field(default_factory=dict)
    published: Mapping[str, tuple[Output | float, ...]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switches:
    """The options that both forms have."""

    denominator: str
    immunity: str
    exhaustion: str
    products: str
    graft: str
    cure: str

    def __post_init__(self) -> None:
        if self.products == "two" and self.graft == "on":
            raise ck.ModelError(
                'niche: products="two" and graft="on" cannot be combined, because a graft is '
                "modeled with one product, against CD7. Leave one of them out."
            )
        if self.products == "two" and self.cure == "on":
            raise ck.ModelError(
                'niche: products="two" and cure="on" cannot be combined, because the chance of '
                "cure is that of a tumor of one kind of cell. Leave one of them out."
            )
        if self.denominator == "constant" and self.graft == "on":
            raise ck.ModelError(
                'niche: denominator="constant" and graft="on" cannot be combined, because a graft '
                'comes with myeloid cells of its own. Leave the denominator at "modelled".'
            )

    @property
    def antibody(self) -> str:
        """The antibody to PD-1; "" for none."""
        return self.exhaustion if self.exhaustion in exhaustion.ANTIBODIES else ""

    @property
    def car_t(self) -> tuple[str, ...]:
        """The compartments of CAR-T cells of one product."""
        return ("P", "E", "M") if self.exhaustion == "off" else ("P", "E", "M", "X")

    @property
    def every_car_t(self) -> tuple[str, ...]:
        """The compartments of CAR-T cells of every product."""
        second = tuple(n + SECOND for n in self.car_t) if self.products == "two" else ()
        return self.car_t + second

    @property
    def normal(self) -> tuple[str, ...]:
        """The compartments of T cells without a CAR."""
        return ("N", "Nd") if self.graft == "on" else ("N",)


def total(y: ck.States, names: Iterable[str]) -> ck.Scalar:
    """Sum of these states."""
    each: list[ck.Scalar] = [getattr(y, name) for name in names]
    return functools.reduce(operator.add, each)


# --- parameters and states ------------------------------------------------------------------------


def parameters(own: tuple[str, ...], base: type[parts.Common], on: Switches) -> type[parts.Common]:
    """The class of the parameters."""
    groups: list[type[ck.Params]] = []
    if on.graft == "on":
        groups.append(graft.Params)
    else:
        groups.append(parts.Myeloid if on.denominator == "modelled" else parts.ConstantPool)
    if on.immunity == "on":
        groups.append(immunity.Params)
    if on.exhaustion != "off":
        groups.append(exhaustion.CheckpointParams if on.antibody else exhaustion.Params)
    if on.cure == "on":
        groups.append(cure.Params)
    if on.products == "two":
        groups.append(antigens.Params)
    made = variants.with_fields(base, variants.fields_of(*groups))
    if on.products == "one":
        return made
    again = {
        name + SECOND: variants.like(made, name, about=info.about + ", second product")
        for name, info in made.info().items()
        if name in own
    }
    return variants.with_fields(made, again)


def compartments(form: Form, on: Switches) -> type[parts.States]:
    """The class of the states."""
    groups: list[type[ck.States]] = [antigens.States if on.products == "two" else parts.OneTumor]
    if on.exhaustion != "off":
        groups.append(exhaustion.States)
    if on.immunity == "on":
        groups.append(immunity.States)
    if on.graft == "on":
        groups.append(graft.States)
    elif on.denominator == "modelled":
        groups.append(friberg2002.States)
    if on.cure == "on":
        groups.append(cure.States)
    made = variants.with_fields(form.states, variants.fields_of(*groups))
    if on.products == "one":
        return made
    known = {name: f.metadata for name, f in variants.fields_of(made).items()}
    product = (*on.car_t, "J") if on.immunity == "on" else on.car_t
    again = {
        name + SECOND: ck.state(
            known[name]["unit"],
            known[name]["about"] + ", second product",
            log=known[name]["log"],
        )
        for name in product
    }
    return variants.with_fields(made, again)


def second_product(
    y: "EveryState", p: "EveryParam", form: Form, on: Switches
) -> tuple["EveryState", "EveryParam"]:
    """States and parameters as the second product sees them: its own in place of the first's."""
    names = (*on.car_t, "J") if on.immunity == "on" else on.car_t
    known = p.info()
    own = [name for name in form.own if name + SECOND in known]
    return (
        dataclasses.replace(y, **{name: getattr(y, name + SECOND) for name in names}),
        p.replace(**{name: getattr(p, name + SECOND) for name in own}),
    )


# --- equations ------------------------------------------------------------------------------------


def equations(form: Form, states: type[parts.States], on: Switches) -> Callable[..., parts.States]:
    """The vector field."""

    def product(
        y: "EveryState",
        p: "EveryParam",
        c: Mapping[str, ck.Scalar],
        L: ck.Scalar,
        B: ck.Scalar,
    ) -> dict[str, ck.Scalar]:
        """The form, with exhaustion of a product and immunity against it."""
        slopes = form.equations(y, p, c, L, B)
        kLD = parts.killing_by_drugs(y, p)
        if on.exhaustion != "off":
            SA, killed = parts.stimulation(B, p), p.phiC * kLD
            if on.antibody:
                bound = exhaustion.occupancy(c[on.antibody], p)
                to_E, X = exhaustion.slopes_with_antibody(y.E, y.X, SA, killed, bound, p)
            else:
                to_E, X = exhaustion.slopes(y.E, y.X, SA, killed, p)
            slopes |= {"E": slopes["E"] + to_E, "X": X}
        if on.immunity == "on":
            for name in on.car_t:
                slopes[name] = slopes[name] + immunity.loss(getattr(y, name), y.J, p)
            slopes["J"] = immunity.slope(y.J, total(y, on.car_t), y.N / p.KN, kLD, p)
        return slopes

    def vector_field(
        t: ck.Scalar, y: "EveryState", p: "EveryParam", c: Mapping[str, ck.Scalar]
    ) -> parts.States:
        # the bound only holds where a coarse trial step undershoots 0
        L = total(y, on.normal) + jnp.maximum(total(y, on.every_car_t), 0.0)
        if on.products == "two":
            slopes = product(y, p, c, L, y.Bpp + y.Bpm)
            y2, p2 = second_product(y, p, form, on)
            second = product(y2, p2, c, L, y.Bpp + y.Bmp)
            own = (*on.car_t, "J") if on.immunity == "on" else on.car_t
            slopes |= {name + SECOND: second[name] for name in own}
            del slopes["B"]
            growth = parts.tumor_growth(antigens.tumor(y), p)
            k1, k2 = parts.tumor_killing(y.E, p), parts.tumor_killing(y2.E, p2)
            slopes |= antigens.slopes(y, growth, k1, k2, p)
        else:
            slopes = product(y, p, c, L, y.B)
        if on.cure == "on":
            growth, killing = parts.tumor_growth(y.B, p), parts.tumor_killing(y.E, p)
            slopes["w"] = cure.slope(y.w, growth, killing, p)
        if on.graft == "on":
            divided = p.rN * form.recovery(L, p)
            donor = graft.slopes(y, y.N, y.E, divided, parts.killing_by_drugs(y, p), p)
            slopes |= donor | {name: slopes[name] + donor[name] for name in ("N", "E")}
        elif on.denominator == "modelled":
            slopes |= parts.neutrophils(y, y, p)
        return states(**slopes)

    return vector_field


def initial(form: Form, states: type[parts.States], on: Switches) -> Callable[..., parts.States]:
    """The compartments at the start."""

    def start(p: "EveryParam") -> parts.States:
        level = {"N": p.N0, **form.start(p)}
        level |= antigens.start(p.B0, p) if on.products == "two" else {"B": p.B0}
        if on.immunity == "on":
            level["J"] = p.j0
            if on.products == "two":
                level["J" + SECOND] = p.j0
        if on.graft == "on":
            level |= {"Nd": 0.0, "Hm": p.KD, "D": 0.0}
        elif on.denominator == "modelled":
            level |= dict.fromkeys(friberg2002.States.names(), p.Circ0)
        return states(**level)

    return start


# --- outputs --------------------------------------------------------------------------------------


def seen(form: Form, on: Switches) -> tuple[dict[str, Output], dict[str, str]]:
    """The outputs and their units."""

    def car_t(
        t: ck.Scalar, y: "EveryState", p: "EveryParam", c: Mapping[str, ck.Scalar]
    ) -> ck.Scalar:
        """CAR-T cells of every product [cells/µL]."""
        return total(y, on.every_car_t)

    def alc(
        t: ck.Scalar, y: "EveryState", p: "EveryParam", c: Mapping[str, ck.Scalar]
    ) -> ck.Scalar:
        """All T cells [cells/µL]."""
        return total(y, on.normal) + total(y, on.every_car_t)

    def myeloid(y: "EveryState", p: "EveryParam") -> ck.Scalar:
        """The nucleated cells of the assay that are not T cells [cells/µL]."""
        if on.graft == "on":
            pool: ck.Scalar = y.Hm + y.D
        else:
            pool = body.UL_PER_NL * y.Circ if on.denominator == "modelled" else p.Wmy
        return pool

    def wbc(
        t: ck.Scalar, y: "EveryState", p: "EveryParam", c: Mapping[str, ck.Scalar]
    ) -> ck.Scalar:
        """All nucleated cells of the assay [cells/µL]."""
        return alc(t, y, p, c) + myeloid(y, p)

    def transgene(
        t: ck.Scalar, y: "EveryState", p: "EveryParam", c: Mapping[str, ck.Scalar]
    ) -> ck.Scalar:
        """Copies per µg of DNA of all nucleated cells."""
        return body.GENOMES_PER_UG * p.VCN * car_t(t, y, p, c) / wbc(t, y, p, c)

    two = on.products == "two"
    outputs: dict[str, tuple[Output, str]] = {
        "car_t": (car_t, "cells/µL"),
        "alc": (alc, "cells/µL"),
        "transgene": (transgene, "copies/µg"),
        "wbc": (wbc, "cells/µL"),
        "tumor": (lambda t, y, p, c: antigens.tumor(y) if two else y.B, "mL"),
        "flu_auc": (lambda t, y, p, c: y.AUCF, "mg h/L"),
        "cy4oh_auc": (lambda t, y, p, c: y.AUCC, "mg h/L"),
    }
    outputs |= form.outputs
    if on.denominator == "modelled":
        outputs["anc"] = (lambda t, y, p, c: myeloid(y, p) / body.UL_PER_NL, "1e9/L")
    if on.immunity == "on":
        outputs["immunity"] = (lambda t, y, p, c: y.J, "share of its largest")
    if on.antibody:
        drug = on.antibody
        outputs[drug] = (lambda t, y, p, c: c[drug], "µg/mL")
        outputs["pd1_occupancy"] = (
            lambda t, y, p, c: exhaustion.occupancy(c[drug], p),
            "share of PD-1",
        )
    if two:
        one, second = on.car_t, on.every_car_t[len(on.car_t) :]
        outputs["car_t_1"] = (lambda t, y, p, c: total(y, one), "cells/µL")
        outputs["car_t_2"] = (lambda t, y, p, c: total(y, second), "cells/µL")
        carried = "share of the tumor"
        outputs["antigen_1"] = (lambda t, y, p, c: (y.Bpp + y.Bpm) / antigens.tumor(y), carried)
        outputs["antigen_2"] = (lambda t, y, p, c: (y.Bpp + y.Bmp) / antigens.tumor(y), carried)
    if on.graft == "on":
        donor = "share of the donor"
        outputs["chimerism_t"] = (lambda t, y, p, c: y.Nd / (y.Nd + y.N), donor)
        outputs["chimerism_myeloid"] = (lambda t, y, p, c: y.D / (y.D + y.Hm), donor)
    if on.cure == "on":
        outputs["cure"] = (lambda t, y, p, c: cure.no_cell_left(y.w, y.B, p.B0), "probability")
    return {k: f for k, (f, _) in outputs.items()}, {k: unit for k, (_, unit) in outputs.items()}


# --- the model ------------------------------------------------------------------------------------


def assemble(form: Form, params: type[parts.Common], on: Switches) -> ck.ODEModel:
    """The model of this form with these typical values and switches."""
    states = compartments(form, on)
    outputs, units = seen(form, on)
    into = ck.Target("P", scale=lambda p: 1 / (form.volume(p) * body.UL_PER_L))
    targets: dict[str, ck.Target | tuple[ck.Target, ...]] = {
        "car_t": into,
        "fludarabine": ck.Target("flu", scale=lambda p: parts.F_ARA_A, unit="mg"),
        "cyclophosphamide": ck.Target(form.cyclophosphamide, unit="mg"),
    }
    inputs: dict[str, Callable[..., ck.Disposition]] = {"flu": parts.fludarabine, **form.inputs}
    regimens = dict(parts.REGIMENS)
    flu_cy = parts.FLU_CY
    if on.antibody:
        drug = on.antibody
        inputs[drug] = exhaustion.ANTIBODIES[drug]
        targets[drug] = ck.Target(drug, unit="mg")
        regimens[f"Flu/Cy 30/500, {drug} from day 14"] = flu_cy + exhaustion.REGIMENS[drug]
    if on.products == "two":
        targets["car_t_2"] = dataclasses.replace(into, compartment="P" + SECOND)
        regimens["Flu/Cy 30/500, second product on day 28"] = flu_cy + antigens.REGIMEN
    if on.graft == "on":
        targets["graft"] = (
            dataclasses.replace(into, compartment="Nd"),
            ck.Target("D", scale=lambda p: p.D0 / graft.CELLS),
        )
        regimens["Flu/Cy 30/500, graft on day 30"] = flu_cy + graft.REGIMEN
    return ck.ODEModel(
        name=form.name,
        params=parameters(form.own, params, on),
        states=states,
        vector_field=equations(form, states, on),
        initial=initial(form, states, on),
        targets=targets,
        inputs=inputs,
        outputs=outputs,
        units=units,
        one_cell={"tumor": body.ML_PER_CELL},
        regimens=regimens,
        derived={
            # in an empty niche with plenty of tumor
            "t_double": (lambda p: jnp.log(2) / (form.growth(p) - p.dE - p.kEM), "day"),
            "t_half_contraction": (lambda p: jnp.log(2) / (p.dE + p.kEM), "day"),
            "t_half_memory": (lambda p: jnp.log(2) / p.dM, "day"),
            "t_double_tumor": (lambda p: jnp.log(2) / p.g, "day"),
            # effectors in blood that only just hold a small tumor; there are none where g >= gB
            "e_hold": (lambda p: p.kB * p.g / (p.gB - p.g) / p.tau, "cells/µL"),
            **form.derived,
        },
        published=form.published,
    )

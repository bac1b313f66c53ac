"""Linear compartments: what `one_compartment`, `two_compartment` and `three_compartment` share.

Absorption from the place of the dose into the central compartment:

    none                  the dose is in the central compartment, at once or by infusion
    first_order           from a depot, with rate ka
    zero_order            at a constant rate over Tk0 days
    sequential            at a constant rate over Tk0 days into a depot, and from there with rate ka
    parallel              a share Fr from a depot with rate ka, the rest at a constant rate over Tk0

Rates and times of the parameters are by the day, or by the hour (`time_unit="hour"`); times of
doses, observations and results are days in any case.

Doses of the product are absorbed; those of "<product>_iv" are in the central compartment at once,
or over an infusion's own duration, whole and without a lag.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import carpk as ck
from carpk.models import _variants as variants

Absorption = Literal["none", "first_order", "zero_order", "sequential", "parallel"]
Switch = Literal["off", "on"]
TimeUnit = Literal["day", "hour"]
HOURS = 24.0  # of a day

OWN = "assumed: the order of a small molecule's; give your own as priors"
ABSORBED: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "first_order": ("ka",),
    "zero_order": ("Tk0",),
    "sequential": ("ka", "Tk0"),
    "parallel": ("ka", "Tk0", "Fr"),
}
PER_MG_L = {"mg/L": 1.0, "µg/mL": 1.0, "ng/mL": 1e3, "µg/L": 1e3}  # unit -> how many are 1 mg/L
FIELDS = {
    "ka": lambda: ck.param(24.0, "1/day", "rate of absorption", OWN),
    "Tk0": lambda: ck.param(0.1, "day", "duration of the absorption of order zero", OWN),
    "Fr": lambda: ck.param(0.5, "1", "share absorbed from the depot", OWN, (0, 1)),
    "Tlag": lambda: ck.param(0.02, "day", "lag time", OWN),
    "F": lambda: ck.param(0.7, "1", "bioavailability", OWN, (0, 1)),
}


def params_of(
    own: type[ck.Params], absorption: str, lag: str, bioavailability: str
) -> type[ck.Params]:
    """The parameters of a disposition and those of its absorption."""
    more = [*ABSORBED[absorption], *["Tlag"] * (lag == "on"), *["F"] * (bioavailability == "on")]
    fields: dict[str, object] = {name: FIELDS[name]() for name in more}
    fields |= {"__annotations__": dict.fromkeys(more, ck.Scalar), "__module__": own.__module__}
    return type("Params", (own,), fields)


def as_it_is(p: ck.Params) -> ck.Params:
    return p


def in_hours(params: type[ck.Params]) -> tuple[type[ck.Params], Callable[..., ck.Params]]:
    """The same parameters by the hour, and what makes those by the day of them."""
    powers = {}  # of a day, in the unit
    fields = {}
    for name, info in params.info().items():
        if "day" in info.unit:
            powers[name] = -1 if info.unit.endswith("/day") else 1
            value = info.value * HOURS ** powers[name]
            unit = info.unit.replace("day", "h")
            fields[name] = variants.like(params, name, value=value, unit=unit)

    def by_the_day(p: ck.Params) -> ck.Params:
        return p.replace(**{n: getattr(p, n) / HOURS**power for n, power in powers.items()})

    return variants.with_fields(params, fields), by_the_day


def targets_of(
    absorption: str, params: type[ck.Params], by_the_day: Callable[..., Any]
) -> ck.Target | tuple[ck.Target, ...]:
    """Where a dose goes."""
    known = params.info()
    lag = (lambda p: by_the_day(p).Tlag) if "Tlag" in known else None
    share = (lambda p: p.F) if "F" in known else None
    depot, central = "central_depot", "central"
    if absorption == "parallel":
        whole: Callable[..., ck.Scalar] = share or (lambda p: 1.0)
        return (
            ck.Target(depot, bioavailability=lambda p: p.Fr * whole(p), lag=lag, unit="mg"),
            ck.Target(
                central,
                bioavailability=lambda p: (1 - p.Fr) * whole(p),
                lag=lag,
                unit="mg",
                duration=lambda p: by_the_day(p).Tk0,
            ),
        )
    long = (lambda p: by_the_day(p).Tk0) if "Tk0" in known else None
    compartment = depot if "ka" in known else central
    return ck.Target(compartment, bioavailability=share, lag=lag, unit="mg", duration=long)


def builder(
    name: str, own: type[ck.Params], disposition: Callable[..., ck.Disposition]
) -> Callable[..., ck.ODEModel]:
    """The `build` of a model with this disposition and these parameters of it."""

    def build(
        absorption: Absorption = "none",
        lag: Switch = "off",
        bioavailability: Switch = "off",
        output: str = "conc",
        unit: str = "mg/L",
        product: str = "drug",
        time_unit: TimeUnit = "day",
    ) -> ck.ODEModel:
        """The model with an absorption, and names and units of the assay and of the product."""
        if unit not in PER_MG_L:
            raise ck.ModelError(
                f"{name}: the unit of {output!r} must be one of {', '.join(PER_MG_L)} (amounts are "
                f"in mg, volumes in L), but is {unit!r}."
            )
        per_mg_l = PER_MG_L[unit]
        params = params_of(own, absorption, lag, bioavailability)
        by_the_day: Callable[..., ck.Params] = as_it_is
        if time_unit == "hour":
            params, by_the_day = in_hours(params)

        def central(p: ck.Params) -> ck.Disposition:
            p = by_the_day(p)
            return dataclasses.replace(disposition(p), absorption=getattr(p, "ka", None))

        daily = ck.Bolus(0.0, 100.0, product, "mg", addl=59, ii=1.0)
        return ck.ODEModel(
            name=name,
            product=product,
            params=params,
            inputs={"central": central},
            targets={
                product: targets_of(absorption, params, by_the_day),
                f"{product}_iv": ck.Target("central", unit="mg"),
            },
            outputs={output: lambda t, y, p, c: per_mg_l * c["central"]},
            units={output: unit},
            regimens={"100 mg daily for 60 days": ck.Regimen((daily,))},
        )

    return build

"""Structural models of drugs: one, two or three compartments in closed form.

    model = ck.disposition.two_compartment("first_order", lag=True, output="warfarin")

They are the library's `one_compartment`, `two_compartment` and `three_compartment`; a drug inside
another model is a `Disposition` in its `inputs`.
"""

from __future__ import annotations

from carpk.library.models import load_model
from carpk.models import _compartments
from carpk.structural import ODEModel

__all__ = ["one_compartment", "three_compartment", "two_compartment"]

Absorption = _compartments.Absorption
TimeUnit = _compartments.TimeUnit


def one_compartment(
    absorption: Absorption = "none",
    *,
    lag: bool = False,
    bioavailability: bool = False,
    output: str = "conc",
    unit: str = "mg/L",
    product: str = "drug",
    time_unit: TimeUnit = "day",
) -> ODEModel:
    """One compartment: CL [L/day] and V [L].

    Args:
        absorption: "none" (into the blood: a bolus, or an infusion of its own duration),
            "first_order" (ka), "zero_order" (Tk0), "sequential" (zero and then first order) or
            "parallel" (a share Fr of first order, the rest of zero order).
        lag: whether there is a lag time Tlag [day].
        bioavailability: whether there is a bioavailability F; without it CL and V are apparent.
        output, unit: name of the analyte in the data, and its unit: "mg/L", "µg/mL", "ng/mL" or
            "µg/L".
        product: name of the drug in the doses, which are in mg; doses of "<product>_iv" pass
            by the absorption.
        time_unit: "day" or "hour": of the parameters (CL in L/h then, ka in 1/h). Times of
            results are days in any case.
    """
    return _model("one", absorption, lag, bioavailability, output, unit, product, time_unit)


def two_compartment(
    absorption: Absorption = "none",
    *,
    lag: bool = False,
    bioavailability: bool = False,
    output: str = "conc",
    unit: str = "mg/L",
    product: str = "drug",
    time_unit: TimeUnit = "day",
) -> ODEModel:
    """Two compartments: CL and Q [L/day], V1 and V2 [L]; arguments as in `one_compartment`."""
    return _model("two", absorption, lag, bioavailability, output, unit, product, time_unit)


def three_compartment(
    absorption: Absorption = "none",
    *,
    lag: bool = False,
    bioavailability: bool = False,
    output: str = "conc",
    unit: str = "mg/L",
    product: str = "drug",
    time_unit: TimeUnit = "day",
) -> ODEModel:
    """Three compartments: CL, Q2, Q3 [L/day], V1, V2, V3 [L]; arguments as in `one_compartment`."""
    return _model("three", absorption, lag, bioavailability, output, unit, product, time_unit)


def _model(
    count: str,
    absorption: str,
    lag: bool,
    bioavailability: bool,
    output: str,
    unit: str,
    product: str,
    time_unit: str,
) -> ODEModel:
    switches = {"lag": lag, "bioavailability": bioavailability}
    options = {name: "on" if value else "off" for name, value in switches.items()}
    options |= {"output": output, "unit": unit, "product": product, "time_unit": time_unit}
    model = load_model(f"{count}_compartment", absorption=absorption, **options)
    assert isinstance(model, ODEModel)
    return model


def __dir__() -> list[str]:
    return sorted(__all__)

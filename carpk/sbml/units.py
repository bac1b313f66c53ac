"""Units of SBML files in words."""

from __future__ import annotations

import math

import libsbml

DAY = 86400.0  # seconds
NOT_STATED = "unit not stated"
PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k"}  # by power of ten
SHORT = {"litre": "L", "second": "s", "gram": "g", "mole": "mol", "dimensionless": "1"}
TIMES = {60.0: "min", 3600.0: "h", DAY: "day", 7 * DAY: "week"}


def size_unit(sbml: libsbml.Model, compartment: libsbml.Compartment) -> str:
    """The unit of a size in words."""
    usual = {0.0: "", 1.0: "length", 2.0: "area"}
    dimensions = compartment.getSpatialDimensionsAsDouble()
    return unit_of(sbml, compartment.getUnits(), usual.get(dimensions, "volume"))


def unit_of(sbml: libsbml.Model, unit: str, usual: str = "") -> str:
    """A unit in words; `usual` is what it is where nothing is said: the model may say that."""
    if not unit and usual and sbml.getLevel() > 2:
        unit = getattr(sbml, f"get{usual.title()}Units")()
    definition = sbml.getUnitDefinition(unit or usual)
    if definition is None:
        return SHORT.get(unit, unit) or NOT_STATED
    name: str = definition.getName()
    over: list[str] = []
    under: list[str] = []
    if name and name not in ("substance", "volume", "area", "length", "time"):
        return name
    for kind, exponent, factor in parts_of(definition):
        power = round(math.log10(factor))
        if kind == "second" and factor in TIMES:
            text = TIMES[factor]
        elif power in PREFIXES and math.isclose(factor, 10.0**power):
            text = PREFIXES[power] + SHORT.get(kind, kind)
        else:
            return name or unit
        text += {1.0: "", 2.0: "²", 3.0: "³"}.get(abs(exponent), f"^{abs(exponent):g}")
        if kind != "dimensionless":
            (over if exponent > 0 else under).append(text)
    return "/".join(["·".join(over) or "1", *under])


def parts_of(definition: libsbml.UnitDefinition) -> list[tuple[str, float, float]]:
    """Kind, exponent and factor of each part of a unit."""
    return [
        (
            libsbml.UnitKind_toString(u.getKind()),
            u.getExponentAsDouble(),
            u.getMultiplier() * 10.0 ** u.getScale(),
        )
        for u in definition.getListOfUnits()
    ]

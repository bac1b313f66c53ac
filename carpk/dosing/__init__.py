"""Regimens, body size and renal function, and drug disposition in closed form."""

from carpk.dosing import body
from carpk.dosing.disposition import Disposition
from carpk.dosing.regimen import Bolus, Infusion, Multiply, Regimen, Replace, Reset, presets

__all__ = [
    "Bolus",
    "Disposition",
    "Infusion",
    "Multiply",
    "Regimen",
    "Replace",
    "Reset",
    "body",
    "presets",
]


def __dir__() -> list[str]:
    return sorted(__all__)

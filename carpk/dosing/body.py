"""Size and kidneys: body surface, creatinine clearance and eGFR, of one patient or of many.

Doses of drugs are prescribed per m² or kg, and fludarabine leaves through the kidneys; children are
included. Everything takes numbers or arrays of one shape, and gives the same.

    bsa(height=112, weight=20)                                        # 0.79 m²
    egfr(0.4, age=6, sex="female", height=112, weight=20)             # Schwartz
    egfr(0.9, age=60, sex="male", height=178, weight=80)              # Cockcroft-Gault per 1.73 m²

A number outside of what a patient can have is refused: it was given in another unit. These limits
(`LIMITS`) are assumed.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from carpk.errors import CarpkError, CarpkWarning

STANDARD = 1.73  # m², to which eGFR is scaled
UMOL_PER_MG = 88.4  # creatinine: µmol/L in 1 mg/dL
K_SCHWARTZ = 0.413
ADULT_FROM = {
    "male": 14.0,
    "female": 17.0,
}  # years; Langenhorst 2019, doi:10.1007/s40262-018-0715-9
SEXES = {"m": "male", "f": "female", "male": "male", "female": "female"}
LIMITS = {  # lowest and highest that can be meant, unit, and what an outlier may be
    "height": (30.0, 250.0, "cm", "in m or inches"),
    "weight": (1.0, 400.0, "kg", "in g"),
    "bsa": (0.1, 4.0, "m²", "in cm²"),
    "age": (0.0, 120.0, "years", "in months or days"),
    "creatinine": (0.05, 20.0, "mg/dL", f"in µmol/L (divide by {UMOL_PER_MG})"),
    "egfr": (1.0, 300.0, "mL/min/1.73 m²", "in L/h or mL/s"),
}


def checked(name: str, value: ArrayLike) -> np.ndarray:
    """The numbers as an array; refused where one cannot be meant in the unit of `LIMITS`."""
    low, high, unit, mistake = LIMITS[name]
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise CarpkError(f"{name} must be a number in {unit}, but is {value!r}.") from None
    wrong = np.flatnonzero(~((numbers >= low) & (numbers <= high)))
    if wrong.size:
        found = float(numbers.flat[wrong[0]])
        where = f" of patient number {wrong[0] + 1}" if numbers.ndim else ""
        what = "is missing" if np.isnan(found) else f"is {found:g}"
        advice = "Give it." if np.isnan(found) else f"Was it {mistake}?"
        raise CarpkError(
            f"{name}{where} {what}, but it must be in {unit}, from {low:g} to {high:g}. {advice}"
        )
    return numbers


def bsa(
    height: ArrayLike,
    weight: ArrayLike,
    formula: Literal["mosteller", "dubois"] = "mosteller",
) -> np.ndarray | float:
    """Body surface [m²].

    Args:
        height: cm.
        weight: kg.
        formula: "mosteller", sqrt(height weight / 3600): Mosteller (1987) N Engl J Med 317:1098;
            "dubois", 0.007184 height^0.725 weight^0.425: Du Bois and Du Bois (1916) Arch Intern Med
            17:863-71.
    """
    height, weight = checked("height", height), checked("weight", weight)
    if formula == "mosteller":
        root: np.ndarray | float = np.sqrt(height * weight / 3600)
        return root
    if formula == "dubois":
        return 0.007184 * height**0.725 * weight**0.425
    raise CarpkError(f"bsa has no formula {formula!r}; known are 'mosteller' and 'dubois'.")


def creatinine_clearance(
    creatinine: ArrayLike, *, age: ArrayLike, sex: ArrayLike, weight: ArrayLike
) -> np.ndarray | float:
    """Creatinine clearance [mL/min], as it is and not per 1.73 m².

    (140 - age) weight / (72 creatinine), 15 % less in women: Cockcroft and Gault (1976) Nephron
    16:31-41, from men of 18 to 92 years.

    Args:
        creatinine: in serum, mg/dL.
        age: years.
        sex: "male" or "female" (or "m", "f"), one or one per patient.
        weight: actual body weight, kg.
    """
    creatinine, age = checked("creatinine", creatinine), checked("age", age)
    less = np.where(_sex(sex) == "female", 0.85, 1.0)
    clearance: np.ndarray | float
    clearance = less * (140 - age) * checked("weight", weight) / (72 * creatinine)
    return clearance


def egfr(
    creatinine: ArrayLike, *, age: ArrayLike, sex: ArrayLike, height: ArrayLike, weight: ArrayLike
) -> np.ndarray | float:
    """Estimated glomerular filtration rate [mL/min/1.73 m²].

    Men from 14 years and women from 17 (the limits of Langenhorst 2019, whose model of fludarabine
    takes this number): `creatinine_clearance` 1.73 / `bsa`. Younger: 0.413 height / creatinine, the
    bedside formula of Schwartz et al. (2009) J Am Soc Nephrol 20:629-637,
    doi:10.1681/ASN.2008030287, from children of 1 to 16 years with kidney disease and an enzymatic
    assay; which Schwartz formula Langenhorst used was not read. Below one year it warns.

    Values are not capped; `ck.exposure` caps them where the model of the drug does.

    Args:
        creatinine: in serum, mg/dL.
        age: years.
        sex: "male" or "female" (or "m", "f"), one or one per patient.
        height: cm.
        weight: actual body weight, kg; in use for adults only.
    """
    creatinine, age = checked("creatinine", creatinine), checked("age", age)
    sex = _sex(sex)
    child = age < np.where(sex == "female", ADULT_FROM["female"], ADULT_FROM["male"])
    if np.any(age < 1):
        warnings.warn(
            f"egfr: {int(np.sum(age < 1))} patient(s) are younger than one year, for whom the "
            "Schwartz formula was not made. Prefer a measured clearance.",
            CarpkWarning,
            stacklevel=2,
        )
    adult = creatinine_clearance(creatinine, age=age, sex=sex, weight=weight)
    adult = adult * STANDARD / bsa(height, weight)
    return np.where(child, K_SCHWARTZ * checked("height", height) / creatinine, adult)[()]


def _sex(sex: ArrayLike) -> np.ndarray:
    """ "male" or "female" of every patient."""
    given = np.atleast_1d(np.asarray(sex, dtype=object))
    unknown = [each for each in given.flat if str(each).lower() not in SEXES]
    if unknown:
        raise CarpkError(f"sex is {unknown[0]!r}, but must be 'male' or 'female' ('m', 'f').")
    names = np.array([SEXES[str(each).lower()] for each in given.flat]).reshape(given.shape)
    return names if np.ndim(sex) else names[0]

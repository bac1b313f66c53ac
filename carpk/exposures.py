"""Exposure to lymphodepletion drugs: what a regimen means for a patient of this size and kidneys.

Cumulative AUCs from the first dose on, without end, of F-ara-A (fludarabine) and of
4-hydroxycyclophosphamide, in closed form from the models in the library, beside the AUCs of F-ara-A
that cohorts of patients with CAR-T cells were found to differ by. These are cutoffs in cohorts, and
not targets that were tested.

    exposure(Regimen.lymphodepletion("HEROS Flu/Cy"), weight=20, height=112, age=6, egfr=110)

An interval holds the given share of patients of this size and kidneys: they differ in clearance by
the published spread (a CV of 23 % in `langenhorst2019`, 30 % in `varela2025`, 46 % for
cyclophosphamide). It leaves out how well the models are known, and how one patient's clearance
differs between doses (12 % in `langenhorst2019`).
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr, ndtri
from numpy.typing import ArrayLike

from carpk._options import Interval, options
from carpk._tables import as_frame
from carpk.dosing import body
from carpk.dosing.regimen import Dose, Regimen
from carpk.errors import CarpkError, CarpkWarning, ModelError, RegimenError
from carpk.library.models import load_model
from carpk.structural import ODEModel

if TYPE_CHECKING:
    import pandas as pd

    from carpk.params import Params
    from carpk.structural import ClosedForm

COHORTS = {  # of whom the cutoffs are; the AUCs themselves are in carpk.models.langenhorst2019
    "Fabrizio 2022": "152 children and young adults with leukemia before tisa-cel; below it "
    "relapse was more likely. Blood Adv 6:1961",
    "Dekker 2022": "26 patients with leukemia before tisa-cel; below it leukemia-free survival was "
    "shorter. Blood Adv 6:1969",
}
WINDOW = "Scordo 2023, 199 adults with lymphoma. doi:10.1182/bloodadvances.2023010302"
FITTED = {"langenhorst2019": {"age": (0.3, 74.0), "weight": (4.3, 130.0)}}  # heads of the models
ADULTS = {"varela2025": 18.0}  # years
CAUTION = "cutoffs seen in cohorts, not targets that were tested"


@dataclass(frozen=True, repr=False, eq=False)
class Exposure:
    """Drug exposure of patients; printing it compares it with known targets.

    Attributes:
        table: one row per patient: weight [kg], bsa [m²], age [years], egfr as it was used
            [mL/min/1.73 m²]; and of each drug in the regimen the dose in all [mg], `flu_auc` or
            `cy4oh_auc` [mg h/L] with `_low` and `_high`. Of fludarabine also the chances that the
            AUC of such a patient lies below a cutoff ("P(< 13.8)") or in the window before axi-cel
            ("P(18 to 20)"), and `flu_at_cells`, the concentration of F-ara-A [mg/L] that the cells
            meet on `day` in the typical patient.
        regimen: as it was given.
        model: name of the model of fludarabine.
        day: of the first cell infusion, or day 0.
        interval: of patients: `options.interval_prob` when it was made.
        spread: SD of ln AUC of F-ara-A between patients.
        cutoffs: source -> AUC of F-ara-A [mg h/L].
        window: AUCs of F-ara-A before axi-cel [mg h/L].
        notes: what to know of these numbers, a sentence each.
    """

    table: pd.DataFrame
    regimen: Regimen
    model: str
    day: float
    interval: Interval
    spread: float
    cutoffs: Mapping[str, float]
    window: tuple[float, float]
    notes: tuple[str, ...]

    def below(self, auc: float) -> pd.Series:
        """The chance that a patient of this size and kidneys has a smaller AUC of F-ara-A.

        Args:
            auc: mg h/L.
        """
        if "flu_auc" not in self.table:
            raise CarpkError("Exposure.below: the regimen has no fludarabine.")
        if not auc > 0:
            raise CarpkError(f"Exposure.below: an AUC must be above 0 mg h/L, but is {auc}.")
        return self.table["flu_auc"].map(lambda typical: _below(auc, typical, self.spread))

    def __repr__(self) -> str:
        lines = [self._first_line(), "", self.table.to_string(float_format="{:.3g}".format), ""]
        if "flu_auc" in self.table:
            for name, auc in self.cutoffs.items():
                lines.append(f"  {auc:g} mg h/L: {name}, {COHORTS[name]}")
            low, high = self.window
            lines.append(f"  {low:g} to {high:g} mg h/L: window before axi-cel, {WINDOW}")
            lines.append(f"  fludarabine: {self.model}; `flu_at_cells` is on day {self.day:g}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def _first_line(self) -> str:
        table, one = self.table, len(self.table) == 1
        if "flu_auc" not in table:
            return f"4-OH-CY {_span(table, 'cy4oh_auc', self.interval)}; no cutoff of it is known."
        auc = table["flu_auc"]
        places = [
            f"{'above' if (auc >= cutoff).all() else 'below'} {cutoff:g} ({name})"
            if one
            else f"{int((auc < cutoff).sum())} below {cutoff:g} ({name})"
            for name, cutoff in self.cutoffs.items()
        ]
        who = "" if one else f" of {len(table)} patients"
        span = _span(table, "flu_auc", self.interval)
        return f"F-ara-A{who}: {span}; {', '.join(places)}: {CAUTION}."


def exposure(
    regimen: Regimen,
    *,
    weight: ArrayLike,
    height: ArrayLike | None = None,
    bsa: ArrayLike | None = None,
    egfr: ArrayLike | None = None,
    age: ArrayLike | None = None,
    patients: Sequence[Hashable] | None = None,
    model: str | ODEModel = "langenhorst2019",
) -> Exposure:
    """AUCs of F-ara-A and 4-OH-CY after a regimen in one patient or many, children included.

    F-ara-A is by `langenhorst2019`, or `varela2025` for adults with lymphoma; a mg of fludarabine
    phosphate holds 0.781 mg of it, as the models say. 4-OH-CY is by `cyclophosphamide` without
    induction, whose AUC is 1 to 3 % too small after Flu/Cy (see there, also for what of it is
    assumed).

    Args:
        regimen: doses absolute, per m² or per kg.
        weight: actual body weight [kg], a number, or one per patient, like the next four.
        height: cm; gives the body surface by the formula of Mosteller (`carpk.body.bsa`).
        bsa: body surface [m²], in place of `height`.
        egfr: mL/min/1.73 m² (`carpk.body.egfr`); needed for fludarabine. `langenhorst2019` takes at
            most what counts at the patient's age; `varela2025` gets it in mL/min, times bsa / 1.73.
        age: years.
        patients: their labels; numbers from 1 where left out.
        model: name of a model of fludarabine, or the model, such as
            `load_model("varela2025", product="tisa-cel")`.

    Raises:
        CarpkError: a number that cannot be meant, or that is needed and missing.
    """
    known = _patients(patients, weight=weight, height=height, bsa=bsa, egfr=egfr, age=age)
    notes: list[str] = []
    drugs = {drug: [d for d in regimen.drugs if d.product == drug] for drug in _AUCS}
    if not any(drugs.values()):
        raise RegimenError(
            "exposure: the regimen has neither fludarabine nor cyclophosphamide, the drugs whose "
            "pharmacokinetics are known here; add one with Regimen.lymphodepletion(...)."
        )
    others = sorted({d.product for d in regimen.drugs} - set(_AUCS))
    if others:
        notes.append(f"{', '.join(others)}: no exposure is computed.")
    day = float(regimen.infusions[0].time) if regimen.infusions else 0.0
    interval = options.interval
    z = float(ndtri(interval.tails[1]))
    table, spread = known.copy(), math.nan
    published = importlib.import_module("carpk.models.langenhorst2019")  # late: it needs carpk
    flu = _equations(model)
    cutoffs, window = published.AUC_ENOUGH, published.AUC_WINDOW_AXI_CEL
    if drugs["fludarabine"]:
        params = _fludarabine_params(flu, table, published.egfr_cap, notes)
        amounts = _amounts(drugs["fludarabine"], table)
        table["flu_mg"] = amounts.sum(axis=1)
        spread = _auc(table, "fludarabine", flu, params, z)
        auc = table["flu_auc"].to_numpy()
        for cutoff in cutoffs.values():
            table[f"P(< {cutoff:g})"] = _below(cutoff, auc, spread)
        low, high = window
        inside = _below(high, auc, spread) - _below(low, auc, spread)
        table[f"P({low:g} to {high:g})"] = inside
        table["flu_at_cells"] = _level(flu, params, drugs["fludarabine"], amounts, day)
    if drugs["cyclophosphamide"]:
        cy = _equations(load_model("cyclophosphamide", induction="off"))
        table["cy_mg"] = _amounts(drugs["cyclophosphamide"], table).sum(axis=1)
        _auc(table, "cyclophosphamide", cy, _batched(cy, table, WT=table["weight"]), z)
        notes.append("4-OH-CY: its ratio to cyclophosphamide is assumed (see `cyclophosphamide`).")
    return Exposure(
        table, regimen, flu.name, day, interval, spread, dict(cutoffs), window, tuple(notes)
    )


# drug -> prefix of its columns, what the model derives of so many mg, and the clearance that varies
_AUCS = {
    "fludarabine": ("flu", "auc_100mg", 100.0, "fCL"),
    "cyclophosphamide": ("cy", "cy4oh_auc_1g", 1000.0, "CL"),
}


def _equations(model: str | ClosedForm | ODEModel) -> ODEModel:
    """The model of a drug, which only differential equations have."""
    found = load_model(model) if isinstance(model, str) else model
    if not isinstance(found, ODEModel):
        raise ModelError(
            f"exposure: {found.name!r} is a closed form, which has no drug that is given; use a "
            "model of fludarabine, such as langenhorst2019."
        )
    return found


def _auc(table: pd.DataFrame, drug: str, model: ODEModel, params: Params, z: float) -> float:
    """Add the AUC and its interval to the table; the SD of ln AUC, which is that of clearance."""
    prefix, derived, unit, varies = _AUCS[drug]
    column = "flu_auc" if drug == "fludarabine" else "cy4oh_auc"
    iiv = model.params.info()[varies].iiv
    assert iiv is not None
    spread = float(iiv)
    typical = getattr(params, varies)
    for suffix, deviation in (("", 0.0), ("_low", z), ("_high", -z)):
        patient = params.replace(**{varies: typical * math.exp(spread * deviation)})
        per_unit = np.asarray(model.derived[derived][0](patient))
        table[column + suffix] = table[f"{prefix}_mg"] / unit * per_unit
    return spread


def _below(cutoff: float, typical: ArrayLike, spread: float) -> np.ndarray | np.floating:
    """P(AUC < cutoff) where ln AUC is normal around that of the typical patient."""
    return np.asarray(ndtr((math.log(cutoff) - np.log(typical)) / spread))[()]


def _level(
    model: ODEModel, params: Params, doses: Sequence[Dose], amounts: np.ndarray, day: float
) -> np.ndarray:
    """Concentration in the typical patient on a day [mg/L], shape (patient,)."""
    (target,) = model.into("fludarabine")
    time = jnp.array([float(d.time) for d in doses])
    duration = jnp.array([float(d.days) for d in doses])

    def one(p: Params, amount: Array) -> Array:
        assert target.scale is not None
        arrives = target.scale(p) * amount
        drug = model.inputs[target.compartment](p)
        return drug.concentration(jnp.array([day]), time, arrives, duration)[0]

    return np.asarray(jax.vmap(one)(params, jnp.asarray(amounts)))


def _amounts(doses: Sequence[Dose], table: pd.DataFrame) -> np.ndarray:
    """mg of every dose in every patient, shape (patient, dose)."""
    if "bsa" not in table and any(d.per == "m2" for d in doses):
        raise CarpkError(
            "exposure: doses are per m², so the body surface is needed; give height=... [cm] or "
            "bsa=... [m²]."
        )
    one = np.ones(len(table))
    size = {"": one, "kg": table["weight"], "m2": table.get("bsa", one)}
    return np.stack([float(d.amount) * np.asarray(size[d.per]) for d in doses], axis=1)


def _patients(labels: Sequence[Hashable] | None, **given: ArrayLike | None) -> pd.DataFrame:
    """One row per patient, of what is known: weight, bsa, egfr, age."""
    if given["height"] is not None and given["bsa"] is not None:
        raise CarpkError("exposure got height and bsa; give only one of them.")
    columns = {k: body.checked(k, v) for k, v in given.items() if v is not None}
    shapes = {k: v.shape for k, v in columns.items()}
    if labels is not None:
        shapes["patients"] = (len(labels),)
    many = set(shapes.values()) - {()}
    if len(many) > 1 or any(len(shape) > 1 for shape in many):
        told = ", ".join(f"{k} {shape or 'one number'}" for k, shape in shapes.items())
        raise CarpkError(
            f"exposure: each must be one number, or one per patient, but they are {told}."
        )
    n = many.pop()[0] if many else 1
    names = range(1, n + 1) if labels is None else list(labels)
    each = {k: np.broadcast_to(v, n) for k, v in columns.items()}
    table = as_frame(each, labels=("patient", names))
    if "height" in table:
        table["bsa"] = body.bsa(table.pop("height").to_numpy(), table["weight"].to_numpy())
    return table[[c for c in ("weight", "bsa", "age", "egfr") if c in table]]


def _fludarabine_params(
    model: ODEModel, table: pd.DataFrame, cap: Callable[[ArrayLike], np.ndarray], notes: list[str]
) -> Params:
    """The patients as the model sees them; `egfr` in the table becomes what was used."""
    if "auc_100mg" not in model.derived or not {"eGFR", "CRCL"} & set(model.params.covariates()):
        raise ModelError(
            f"exposure: {model.name!r} is no model of fludarabine; known are 'langenhorst2019' and "
            "'varela2025'."
        )
    if "egfr" not in table:
        raise CarpkError(
            "exposure: fludarabine leaves mostly through the kidneys, so egfr=... "
            "[mL/min/1.73 m²] is needed; carpk.body.egfr gives it from creatinine."
        )
    _check_range(model.name, table)
    if "CRCL" in model.params.covariates():
        if "bsa" not in table:
            raise CarpkError(
                f"exposure: {model.name!r} takes creatinine clearance in mL/min, which eGFR gives "
                "with the body surface; give height=... [cm] or bsa=... [m²]."
            )
        clearance = table["egfr"] * table["bsa"] / body.STANDARD
        return _batched(model, table, WT=table["weight"], CRCL=clearance)
    if "age" in table:
        most = np.asarray(cap(table["age"].to_numpy()))
        over = int((table["egfr"] > most).sum())
        if over:
            notes.append(
                f"eGFR of {over} patient(s) was lowered to the largest that counts at their age in "
                f"{model.name!r}; the table has what was used."
            )
        table["egfr"] = np.minimum(table["egfr"], most)
    elif (table["egfr"] > float(cap(1.5))).any():  # from then to 30 years the cap is highest
        raise CarpkError(
            f"exposure: egfr is {table['egfr'].max():g}, but {model.name!r} counts at most "
            f"{float(cap(1.5)):g} mL/min/1.73 m², and less with age; give age=... [years]."
        )
    else:
        notes.append("Age was not given, so eGFR was not limited to what counts at an age.")
    return _batched(model, table, WT=table["weight"], eGFR=table["egfr"])


def _check_range(name: str, table: pd.DataFrame) -> None:
    """Refuse children in a model of adults, and warn outside the patients of a model."""
    if "age" in table and name in ADULTS and (table["age"] < ADULTS[name]).any():
        who = table.index[table["age"] < ADULTS[name]][0]
        raise CarpkError(
            f"exposure: {name!r} was fitted to adults, but patient {who!r} is "
            f"{table['age'][who]:g} years old; use model='langenhorst2019'."
        )
    for what, (low, high) in FITTED.get(name, {}).items():
        if what in table and not table[what].between(low, high).all():
            outside = table[what][~table[what].between(low, high)]
            warnings.warn(
                f"exposure: {what} of {len(outside)} patient(s), {outside.iloc[0]:g} for one, is "
                f"outside that of the patients of {name!r}, {low:g} to {high:g}.",
                CarpkWarning,
                stacklevel=4,
            )


def _batched(model: ODEModel, table: pd.DataFrame, **covariates: pd.Series) -> Params:
    """Parameters of every patient, leaves of shape (patient,)."""
    params = model.params(**{k: jnp.asarray(v.to_numpy()) for k, v in covariates.items()})
    every: Params = jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.asarray(x, float), len(table)), params
    )
    return every


def _span(table: pd.DataFrame, column: str, interval: Interval) -> str:
    """ "AUC 17.3 mg h/L (90 % of such patients: 11.9 to 25.1)", or the range of many."""
    auc = table[column]
    if len(table) > 1:
        return f"AUC {auc.min():.3g} to {auc.max():.3g} mg h/L"
    low, high = table[f"{column}_low"].iloc[0], table[f"{column}_high"].iloc[0]
    share = f"{interval} of such patients: {low:.3g} to {high:.3g}"
    return f"AUC {auc.iloc[0]:.3g} mg h/L ({share})"

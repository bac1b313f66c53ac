"""Regimens: doses of cells, lymphodepletion, antibody and graft, and state events.

A `Regimen` is a bag of events: doses (`Bolus`, `Infusion`) and changes of state (`Reset`,
`Replace`, `Multiply`); regimens add up with `+`. Time is in days from the first cell infusion, so
lymphodepletion has negative days. Amounts carry their unit: "cells" or "mg", absolute, per m² of
body surface or per kg; `Regimen.resolve` makes them absolute for one patient.

`presets()` is the table of lymphodepletion regimens that have a name, each with its source and what
of it is assumed. Bendamustine has no pharmacokinetics here: it is a change of state, which leaves a
share of the host's T cells (`HOST_T_CELLS`).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np

from carpk._tables import as_frame
from carpk.dosing import body
from carpk.errors import RegimenError

if TYPE_CHECKING:
    import pandas as pd

PER = ("", "m2", "kg")
CELLS, DRUG = "cells", "mg"
MODELLED_RATE, MODELLED_DURATION = -1, -2  # codes of RATE in NONMEM
MOST_DOSES = 100_000  # that ADDL may stand for
SAME = 1e-9  # day; times that differ by less are one: hours in days are not exact
UNTOLD = -1  # number of events before a sample of their time where nothing was recorded about it

HOST_T_CELLS = "N"  # the state of normal T cells in `kimmel2021`, `niche` and `niche_full`

Prescribed = tuple[float, float] | tuple[float, float, str]  # (day, amount), or (day, amount, per)


class Preset(NamedTuple):
    """A lymphodepletion regimen with a name.

    Attributes:
        source: where doses and days were read.
        assumed: what of it was not read anywhere, and why it is so; "" where all was.
        flu: (day, mg, per) of fludarabine phosphate.
        cy: (day, mg, per) of cyclophosphamide.
        left: (day, share): what is left of the host's T cells, for a drug without pharmacokinetics.
    """

    source: str
    assumed: str = ""
    flu: tuple[Prescribed, ...] = ()
    cy: tuple[Prescribed, ...] = ()
    left: tuple[tuple[float, float], ...] = ()


def _daily(days: Iterable[float], amount: float, per: str = "m2") -> tuple[Prescribed, ...]:
    return tuple((float(day), amount, per) for day in days)


DUDLEY = "Dudley 2002, J Immunother 25 (abstract)"
WALLEN = "Wallen 2009, PLoS ONE 4 (abstract)"
HEROS = "registry record NCT00902044"
THREE = (-5, -4, -3)

# Bendamustine. Lymphocytes fell by a median of 600/µL (n = 27), and after Flu/Cy, in the same
# center, by 700/µL (n = 42; PMID 37668287, abstract). Assumed: after Flu/Cy 100/µL were left, as in
# another series (ASH 2025, abstract 5506, n = 45), so that both groups began with 800/µL and 200/µL
# were left after bendamustine; medians are those of one typical patient; T cells fall as all
# lymphocytes do, and do not come back before the infusion; both doses act alike, and at once.
LEFT_BY_BENDAMUSTINE = (700 + 100 - 600) / (700 + 100)

PRESETS: dict[str, Preset] = {
    "Flu/Cy": Preset(
        "ZUMA-1: Kimmel 2021, doi:10.1098/rspb.2021.0229; days: registry record NCT02348216",
        flu=_daily(THREE, 30.0),
        cy=_daily(THREE, 500.0),
    ),
    "Flu/Cy 30/300": Preset(
        "CARTITUDE-1: J&J Medical Connect, 2025-11-20",
        assumed="the days",
        flu=_daily(THREE, 30.0),
        cy=_daily(THREE, 300.0),
    ),
    "Flu/Cy 40/500 x2": Preset(
        "Frame 2024, doi:10.3389/fimmu.2024.1403145 (abstract): two consecutive days",
        assumed="the days, counted from the infusion",
        flu=_daily((-4, -3), 40.0),
        cy=_daily((-4, -3), 500.0),
    ),
    "Flu/Cy 25/60 mg/kg": Preset(
        "Hirayama 2019, doi:10.1182/blood-2018-11-887067, compares high with lower intensity; its "
        "abstract, which is all that was read, has no doses",
        assumed="doses and days: no source that prints them was read",
        flu=_daily(THREE, 25.0),
        cy=_daily((-6,), 60.0, "kg"),
    ),
    "tisa-cel": Preset(
        "leukemia, up to 25 years: United States prescribing information, as summarized publicly; "
        "the last dose 2 to 14 days before the cells",
        assumed="the days",
        flu=_daily((-6, -5, -4, -3), 30.0),
        cy=_daily((-6, -5), 500.0),
    ),
    "HEROS Flu/Cy": Preset(
        f"{HEROS}: both drugs for two days, fludarabine for three more, two days of rest",
        assumed=f"the doses: those of fludarabine as in {WALLEN}; those of cyclophosphamide are "
        f"the lower of the two in {DUDLEY}, before the same fludarabine",
        flu=_daily((-7, -6, -5, -4, -3), 25.0),
        cy=_daily((-7, -6), 30.0, "kg"),
    ),
    "HEROS Flu": Preset(
        f"{HEROS}: fludarabine for five days, then the cells",
        assumed=f"the doses, as in {WALLEN}; the days, as in 'HEROS Flu/Cy'",
        flu=_daily((-7, -6, -5, -4, -3), 25.0),
    ),
    "Flu 25 x5": Preset(
        f"{WALLEN}: before clones of T cells, not CAR-T cells",
        assumed="the days",
        flu=_daily((-6, -5, -4, -3, -2), 25.0),
    ),
    "Flu": Preset(
        "the fludarabine of 'Flu/Cy'",
        assumed="all of it: a contrast for simulation, not the arm of a trial",
        flu=_daily(THREE, 30.0),
    ),
    "bendamustine": Preset(
        "days: 90 mg/m² on days -4 and -3, Bharadwaj 2024, doi:10.1136/jitc-2024-008975 (ASH "
        "abstract of the series); fall of lymphocytes: PMID 37668287 (abstract)",
        assumed="the share left, half after each dose: 200 of 800 lymphocytes/µL, inferred from "
        "the falls after bendamustine (600/µL) and Flu/Cy (700/µL) and the 100/µL left after "
        "Flu/Cy in another series; T cells fall as lymphocytes do",
        left=tuple((day, math.sqrt(LEFT_BY_BENDAMUSTINE)) for day in (-4.0, -3.0)),
    ),
}


def presets() -> pd.DataFrame:
    """The named regimens: preset, product, amount, unit, days, source, assumed; a row per dose.

    `Regimen.lymphodepletion(preset)` makes one. "multiply N" is the share that is left of the
    host's T cells.
    """
    rows = []
    for name, preset in PRESETS.items():
        about = {"source": preset.source, "assumed": preset.assumed}
        courses = Regimen.lymphodepletion(name).courses().to_dict("records")
        rows += [{"preset": name, **row, **about} for row in courses]
    return as_frame(rows)


class Bolus(eqx.Module):
    """An amount that is there at once.

    Attributes:
        time: day.
        amount: in `unit`, divided by `per`.
        product: what is given, for instance "car_t" or "fludarabine".
        unit: "cells" or "mg".
        per: "" (absolute), "m2" or "kg".
        compartment: state that receives it; where left out, what the structural model says of the
            product, or else the state of the product's name.
        addl: further doses like it (ADDL), which a `Regimen` writes out.
        ii: days between them, and between those before it at steady state (II).
        ss: 1 at steady state: in place of all that was there comes what doses every `ii` days have
            left since ever; 2 adds that to what is there (SS). Not for cells, which multiply.
    """

    time: float
    amount: float
    product: str = eqx.field(default="car_t", static=True)
    unit: str = eqx.field(default=CELLS, static=True)
    per: str = eqx.field(default="", static=True)
    compartment: str = eqx.field(default="", static=True)
    addl: int = eqx.field(default=0, static=True)
    ii: float = eqx.field(default=0.0, static=True)
    ss: int = eqx.field(default=0, static=True)

    @property
    def days(self) -> float:
        """How long it takes, without bioavailability."""
        return 0.0


class Infusion(eqx.Module):
    """An amount that enters at a constant rate; fields as in `Bolus`, and one of these two.

    Attributes:
        duration: days. The bioavailability F then makes the rate F amount / duration.
        rate: amount per day (RATE), whatever F is, which makes the duration F amount / rate; or
            MODELLED_RATE or MODELLED_DURATION (-1, -2), which a `Target` of the model then gives.

    With `ss` 1 or 2, amount 0, a rate and no `ii` it has run for ever and ends at `time`.
    """

    time: float
    amount: float
    duration: float | None = None
    product: str = eqx.field(default="car_t", static=True)
    unit: str = eqx.field(default=DRUG, static=True)
    per: str = eqx.field(default="", static=True)
    compartment: str = eqx.field(default="", static=True)
    addl: int = eqx.field(default=0, static=True)
    ii: float = eqx.field(default=0.0, static=True)
    ss: int = eqx.field(default=0, static=True)
    rate: float | None = None

    @property
    def modelled(self) -> bool:
        """The model gives the rate or the duration."""
        return self.rate in (MODELLED_RATE, MODELLED_DURATION)

    @property
    def endless(self) -> bool:
        """It has run for ever, and ends at `time`."""
        return bool(self.ss) and not self.ii

    @property
    def days(self) -> float:
        """How long it takes, without bioavailability; NaN where the model gives it."""
        if self.rate is None:
            assert self.duration is not None
            return self.duration
        return math.nan if self.modelled else self.amount / self.rate


class Reset(eqx.Module):
    """Every compartment is set to its initial value (EVID 3); with a dose after it, EVID 4.

    Infusions that run are stopped, and doses that wait for their lag are cancelled.
    """

    time: float


class Replace(eqx.Module):
    """A compartment is set to `amount`, in the compartment's own unit (EVID 5 of rxode2)."""

    time: float
    amount: float
    compartment: str = eqx.field(static=True)


class Multiply(eqx.Module):
    """A compartment is multiplied by `amount`: the share that survives (EVID 6 of rxode2)."""

    time: float
    amount: float
    compartment: str = eqx.field(static=True)


Dose = Bolus | Infusion
Event = Bolus | Infusion | Reset | Replace | Multiply
AnyEvent = TypeVar("AnyEvent", bound=Event)


class Regimen(eqx.Module):
    """Events in order of time. `Regimen.cells(...) + Regimen.lymphodepletion("Flu/Cy")`.

    Doses with ADDL and II are written out. Events of one time act in the order in which they were
    given, so that a `Reset` and then a `Bolus` are EVID 4. Where JAX traces the days, all events
    stay in that order.
    """

    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        for event in self.events:
            _check(event)
        self.events = tuple(each for event in self.events for each in _written_out(event))
        if not any(_traced(e.time) for e in self.events):  # the order of traced days is not known
            self.events = tuple(sorted(self.events, key=lambda e: e.time))

    @classmethod
    def cells(
        cls,
        day: float | Sequence[float] = 0.0,
        amount: float | Sequence[float] = 1e8,
        per: str | None = None,
        product: str = "car_t",
    ) -> Regimen:
        """Cell infusions, one per day in `day`, each a bolus of `amount` cells.

        Args:
            day: day or days, counted from the first cell infusion.
            amount: cells, one number for all or one per day.
            per: None (absolute), "m2" or "kg".
            product: name of the product; say in the analysis whether cells are CAR+ or total.
        """
        days = [float(d) for d in _as_list(day)]
        amounts = [float(a) for a in _as_list(amount)]
        if len(amounts) == 1:
            amounts *= len(days)
        if len(amounts) != len(days):
            raise RegimenError(
                f"Regimen.cells got {len(days)} days and {len(amounts)} amounts; give one amount, "
                "or one for each day."
            )
        return cls(
            tuple(
                Bolus(d, a, product=product, per=per or "")
                for d, a in zip(days, amounts, strict=True)
            )
        )

    @classmethod
    def lymphodepletion(
        cls,
        preset: str | None = None,
        *,
        flu: Iterable[Prescribed] = (),
        cy: Iterable[Prescribed] = (),
        per: str = "m2",
    ) -> Regimen:
        """Fludarabine phosphate and cyclophosphamide, each dose a short infusion.

            Regimen.lymphodepletion("HEROS Flu/Cy")
            Regimen.lymphodepletion(flu=[(-5, 25), (-4, 25), (-3, 25)], cy=[(-6, 60, "kg")])

        "bendamustine" is no dose, but two events that leave a share of the host's T cells, in any
        model with a state `HOST_T_CELLS`; CAR-T cells of an earlier infusion it spares, so add a
        `Multiply` of theirs before a later one.

        Args:
            preset: one of `dosing.presets()`; or leave it out and give the doses:
            flu: (day, mg of fludarabine phosphate) or (day, mg, per), 30-minute infusions.
            cy: (day, mg of cyclophosphamide) or (day, mg, per), 1-hour infusions.
            per: "m2", "kg" or "" (absolute), of the doses that do not say it themselves.
        """
        if preset is not None:
            if list(flu) or list(cy):
                raise RegimenError(
                    f"Regimen.lymphodepletion got the preset {preset!r} and doses; give only one."
                )
            if preset not in PRESETS:
                raise RegimenError(
                    f"Lymphodepletion {preset!r} is not a preset; known are "
                    f"{', '.join(map(repr, PRESETS))} (`dosing.presets()`). Any other regimen can "
                    "be given as flu=[(day, mg_per_m2), ...], cy=[(day, mg_per_m2), ...]."
                )
            if per != "m2":
                raise RegimenError(
                    f"Regimen.lymphodepletion: the preset {preset!r} says itself what its doses "
                    f"are per, so per={per!r} has no place; give the doses as "
                    "flu=[(day, amount), ...], cy=[(day, amount), ...]."
                )
            known = PRESETS[preset]
            spare = (Multiply(day, share, HOST_T_CELLS) for day, share in known.left)
            return cls.lymphodepletion(flu=known.flu, cy=known.cy) + cls(tuple(spare))
        drugs = [("fludarabine", flu, 0.5 / 24), ("cyclophosphamide", cy, 1 / 24)]
        return cls(
            tuple(
                _short_infusion(drug, dose, hours, per)
                for drug, doses, hours in drugs
                for dose in doses
            )
        )

    def __add__(self, other: Regimen) -> Regimen:
        if not isinstance(other, Regimen):
            return NotImplemented
        return Regimen(self.events + other.events)

    def shift(self, days: float) -> Regimen:
        """This regimen, `days` later."""
        return Regimen(tuple(eqx.tree_at(lambda e: e.time, e, e.time + days) for e in self.events))

    @property
    def infusions(self) -> tuple[Dose, ...]:
        """The cell infusions, in order of time."""
        return tuple(e for e in self.doses if e.unit == CELLS)

    @property
    def drugs(self) -> tuple[Dose, ...]:
        """Every dose that is not cells."""
        return tuple(e for e in self.doses if e.unit != CELLS)

    @property
    def doses(self) -> tuple[Dose, ...]:
        """Every `Bolus` and `Infusion`, in order of time."""
        return tuple(e for e in self.events if isinstance(e, Dose))

    def resolve(
        self,
        *,
        bsa: float | None = None,
        weight: float | None = None,
        height: float | None = None,
    ) -> Regimen:
        """Absolute amounts for a patient of this body surface [m²] and weight [kg].

        In place of `bsa` may stand `height` [cm], from which and weight it is computed by the
        formula of Mosteller (`carpk.body.bsa`).
        """
        if height is not None:
            if bsa is not None or weight is None:
                raise RegimenError(
                    "resolve: `height` gives the body surface together with `weight` and in place "
                    "of `bsa`. Give height and weight, or bsa."
                )
            bsa = float(body.bsa(height, weight))
        size = {"m2": ("bsa", "body surface [m²]", bsa), "kg": ("weight", "weight [kg]", weight)}
        events: list[Event] = []
        for event in self.events:
            if isinstance(event, Dose) and event.per:
                argument, words, factor = size[event.per]
                if factor is None:
                    raise RegimenError(
                        f"The dose of {event.product} on day {event.time:g} is per {event.per}; "
                        f"give the patient's {words} as resolve({argument}=...)."
                    )
                more = {"amount": event.amount * factor}
                if isinstance(event, Infusion) and event.rate is not None and not event.modelled:
                    more["rate"] = event.rate * factor
                event = _with_static(event, per="", **more)
            events.append(event)
        return Regimen(tuple(events))

    def describe(self) -> pd.DataFrame:
        """One row per event: time [day], product, amount, unit, duration [day].

        Where there are doses at steady state also ss and ii [day], and where one has run for ever,
        or the model gives its rate or duration, also rate.
        """
        rows = []
        for e in self.events:
            if isinstance(e, Dose):
                unit = f"{e.unit}/{e.per}" if e.per else e.unit
                rate = e.rate if isinstance(e, Infusion) and (e.modelled or e.endless) else None
                rows.append((e.time, e.product, e.amount, unit, e.days, e.ss, e.ii, rate))
            elif isinstance(e, Reset):
                rows.append((e.time, "reset of every compartment", math.nan, "", 0.0, 0, 0.0, None))
            else:
                what = f"{type(e).__name__.lower()} {e.compartment}"
                rows.append((e.time, what, e.amount, "", 0.0, 0, 0.0, None))
        columns = ["time", "product", "amount", "unit", "duration", "ss", "ii", "rate"]
        table = as_frame(rows, columns)
        unused = [] if any(row[5] for row in rows) else ["ss", "ii"]
        unused += [] if any(row[7] is not None for row in rows) else ["rate"]
        return table.drop(columns=unused)

    def courses(self) -> pd.DataFrame:
        """One row per product and amount: product, amount, unit, days ("-5, -4, -3")."""
        table = self.describe()
        table["days"] = table["time"].map("{:g}".format)
        alike = table.groupby(["product", "amount", "unit"], sort=False, dropna=False)
        return alike["days"].agg(", ".join).reset_index()

    def __repr__(self) -> str:
        if not self.events:
            return "Regimen()"
        return "Regimen:\n" + self.describe().to_string(index=False, float_format="{:g}".format)


def _as_list(value: float | Iterable[float]) -> list[float]:
    return list(value) if isinstance(value, Iterable) else [value]


def _short_infusion(drug: str, dose: Prescribed, duration: float, per: str) -> Infusion:
    """One dose as it was prescribed."""
    if not isinstance(dose, Sequence) or isinstance(dose, str) or len(dose) not in (2, 3):
        raise RegimenError(
            f"Regimen.lymphodepletion: a dose of {drug} is (day, amount) or (day, amount, per), "
            f"such as (-5, 30) or (-6, 60, 'kg'), but found {dose!r}."
        )
    day, amount, own = (*dose, per)[:3]
    return Infusion(float(day), float(amount), duration, product=drug, per=own)


def _with_static(event: AnyEvent, **changes: float | str) -> AnyEvent:
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    return type(event)(**{**fields, **changes})


def _traced(value: object) -> bool:
    return isinstance(value, jax.core.Tracer)


def _written_out(event: Event) -> Iterable[Event]:
    """The event, and its additional doses as events of their own."""
    if not isinstance(event, Dose) or not event.addl:
        return (event,)
    first = _with_static(event, addl=0, ii=event.ii if event.ss else 0.0)
    plain = _with_static(event, addl=0, ii=0.0, ss=0)
    times = [event.time + k * event.ii for k in range(1, event.addl + 1)]
    return (first, *(_with_static(plain, time=t) for t in times))


def _check(event: Event) -> None:
    if not isinstance(event, Dose):
        _check_state_event(event)
        return
    what = f"The dose of {event.product} on day {event.time}"
    if not (isinstance(event.addl, int) and event.addl >= 0):
        raise RegimenError(f"{what}: addl must be a whole number from 0, but is {event.addl}.")
    if event.addl > MOST_DOSES:
        raise RegimenError(
            f"{what} has {event.addl} additional doses; more than {MOST_DOSES} are not written out."
        )
    if event.addl and not 0 < event.ii < math.inf:
        raise RegimenError(
            f"{what} has {event.addl} additional doses, so ii, the days between them, must be "
            f"above 0, but it is {event.ii}."
        )
    _check_steady_state(event, what)
    if event.ii and not event.addl and not event.ss:
        raise RegimenError(
            f"{what} has ii = {event.ii}, the days between additional doses, but no addl; say how "
            "many there are."
        )
    given = {"time": event.time, "amount": event.amount}
    if isinstance(event, Infusion):
        more = {"duration": event.duration, "rate": event.rate}
        given |= {name: value for name, value in more.items() if value is not None}
    if any(_traced(x) for x in given.values()):
        return  # the values are checked where they are made
    for name, value in given.items():
        if np.ndim(value) or not np.issubdtype(np.asarray(value).dtype, np.number):
            raise RegimenError(f"{what}: {name} must be a number, but is {value!r}.")
    if not math.isfinite(event.time):
        raise RegimenError(f"{what}: the day must be a finite number.")
    endless = isinstance(event, Infusion) and event.endless
    if not endless and not (math.isfinite(event.amount) and event.amount > 0):
        raise RegimenError(f"{what} has amount {event.amount}, but an amount must be above 0.")
    if isinstance(event, Infusion):
        _check_speed(event, what)
    if event.per not in PER:
        raise RegimenError(f"{what} is per {event.per!r}; known are 'm2', 'kg' and '' (absolute).")
    if event.unit not in (CELLS, DRUG):
        raise RegimenError(f"{what} has unit {event.unit!r}; known are 'cells' and 'mg'.")


def _check_steady_state(event: Dose, what: str) -> None:
    if event.ss not in (0, 1, 2):
        raise RegimenError(f"{what}: ss must be 0, 1 or 2, but is {event.ss!r}.")
    if not event.ss:
        return
    if event.unit == CELLS:
        raise RegimenError(
            f"{what} has ss = {event.ss}, but cells multiply and have no steady state of doses; "
            "list the infusions that were given."
        )
    endless = isinstance(event, Infusion) and event.endless
    if isinstance(event, Infusion) and endless and (event.rate is None or event.amount):
        raise RegimenError(
            f"{what} is at steady state and has no ii, the days between doses; give it, or amount "
            "0 and a rate for an infusion that has run for ever."
        )
    if not endless and not 0 < event.ii < math.inf:
        raise RegimenError(
            f"{what} is at steady state, so ii, the days between doses, must be above 0, but it is "
            f"{event.ii}."
        )


def _check_speed(event: Infusion, what: str) -> None:
    """Refuse an infusion of no duration, or of two."""
    if (event.duration is None) == (event.rate is None):
        raise RegimenError(
            f"{what} is an infusion, which has a duration [day] or a rate [amount/day], one of the "
            "two."
        )
    if event.duration is not None and not 0 < event.duration < math.inf:
        raise RegimenError(
            f"{what} is an infusion of {event.duration} days; an infusion must last longer than 0 "
            "days, and a dose that is there at once is a Bolus."
        )
    if event.rate is not None and not (0 < event.rate < math.inf or event.modelled):
        raise RegimenError(
            f"{what} has rate {event.rate}, but a rate must be above 0 [amount/day], or -1 or -2 "
            "where the model gives the rate or the duration."
        )
    if event.endless and event.rate == MODELLED_DURATION:
        raise RegimenError(f"{what} has run for ever, so that the model cannot give its duration.")


def _check_state_event(event: Reset | Replace | Multiply) -> None:
    what = f"{type(event).__name__} on day {event.time}"
    if _traced(event.time):
        return
    if not math.isfinite(event.time):
        raise RegimenError(f"{what}: the day must be a finite number.")
    if isinstance(event, Reset) or _traced(event.amount):
        return
    if not isinstance(event.amount, numbers.Real):
        raise RegimenError(f"{what} has amount {event.amount!r}, but it must be a number.")
    if not (math.isfinite(event.amount) and event.amount >= 0):
        raise RegimenError(
            f"{what} of {event.compartment!r} has amount {event.amount}, but it must be at least 0."
        )

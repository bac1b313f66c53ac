"""Fits with one known fault each, for `verdict.py`: in data, model, priors or sampling.

A `Fault` is built from data without the fault. What makes it bad is not taken for granted:
`verdict.py` measures how far the fault moves what is reported, or how unlike the posterior the
draws are, and counts a fault only where that holds.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import verdict_designs as d
from verdict_designs import Design, Posterior

import carpk as ck

Built = tuple[ck.Population, Any]
Change = Callable[[ck.Population, Any], Built]


@dataclass(frozen=True)
class Fault:
    """One bad fit.

    Attributes:
        name, kind: kinds are the rows of the table.
        sound: the same without the fault.
        change: (population, data) without the fault -> with it.
        compared: "sound": with the posterior without the fault; "posterior": draws with the exact
            posterior of the same data; "truth": with what the data were simulated from.
        truth: parameter -> value, of "truth".
        mirror: of a posterior with two modes: draws of one -> those of the other, and weights.
        method, settings: of the fit.
        draws_wrong: whether the draws themselves are wrong, so that only DO NOT TRUST will do.
        hidden: nothing in the data and the model reveals it.
    """

    name: str
    kind: str
    sound: Design
    change: Change = lambda population, data: (population, data)
    compared: str = "sound"
    truth: Mapping[str, float] = field(default_factory=dict)
    mirror: Callable[[Posterior], tuple[Posterior, np.ndarray]] | None = None
    method: str = "laplace"
    settings: Mapping[str, Any] = field(default_factory=dict)
    draws_wrong: bool = False
    hidden: bool = False

    def build(self) -> Built:
        return self.change(*self.sound.build())


# ---------------------------------------------------------------------------------------------
# Changes of data
# ---------------------------------------------------------------------------------------------


def values(change: Callable[[pd.DataFrame], Any], of: Any = None, column: str = "value") -> Change:
    """A column of the observations replaced; `of` some patients, by number from 1, or all."""

    def apply(population: ck.Population, data: ck.Dataset) -> Built:
        table = data.observations.copy()
        here = slice(None) if of is None else table["patient"].isin([f"p{i}" for i in of])
        table.loc[here, column] = change(table.loc[here])
        return population, again(data, observations=table)

    return apply


def again(data: ck.Dataset, **replaced: Any) -> ck.Dataset:
    """The data set with tables replaced, read and checked as if from a file."""
    kept = {k: getattr(data, k) for k in ("patients", "doses", "observations")} | replaced
    return ck.Dataset.from_frames(**kept, name="simulated")


def times(factor: float, of: Any = None) -> Change:
    return values(lambda t: factor * t["value"], of)


def days(factor: float, of: Any = None) -> Change:
    return values(lambda t: factor * t["time"], of, "time")


def one_sample(factor: float, patient: int, sample: int) -> Change:
    def change(t: pd.DataFrame) -> Any:
        place = np.arange(len(t)) == sample
        return t["value"] * np.where(place, factor, 1.0)

    return values(change, [patient])


def doses(factor: float, of: Any = None) -> Change:
    def apply(population: ck.Population, data: ck.Dataset) -> Built:
        table = data.doses.copy()
        here = slice(None) if of is None else table["patient"].isin([f"p{i}" for i in of])
        table.loc[here, "amount"] *= factor
        return population, again(data, doses=table)

    return apply


def swapped(*patients: int) -> Change:
    """These patients get the label of the other arm."""

    def apply(population: ck.Population, data: ck.Dataset) -> Built:
        table = data.patients.copy()
        here = table["patient"].isin([f"p{i}" for i in patients])
        table["arm"] = table["arm"].where(~here, table["arm"].map({"a": "b", "b": "a"}))
        return population, again(data, patients=table)

    return apply


def repeated(copies: int, patients: int, extreme: bool = True) -> Change:
    """Patients entered several times under other names: those with the highest levels, or all."""

    def apply(population: ck.Population, data: ck.Dataset) -> Built:
        seen = data.observations
        order = np.log(seen["value"]).groupby(seen["patient"]).mean().sort_values()
        chosen = list(order.index[-patients:]) if extreme else list(order.index)
        frames = {k: [getattr(data, k)] for k in ("patients", "doses", "observations")}
        for copy in range(1, copies):
            for parts in frames.values():
                part = parts[0][parts[0]["patient"].isin(chosen)]
                parts.append(part.assign(patient=part["patient"] + f" ({copy})"))
        tables = {k: pd.concat(parts, ignore_index=True) for k, parts in frames.items()}
        return population, again(data, **tables)

    return apply


def another_drug(patient: int, half_life: float) -> Change:
    """One patient's levels decline with another half-life than 10 days."""
    rate = np.log(2) / half_life - np.log(2) / 10
    return values(lambda t: t["value"] * np.exp(-rate * t["time"]), [patient])


def shuffled(seed: int, within: bool) -> Change:
    """Values change places, within patients or among all."""

    def apply(population: ck.Population, data: ck.Dataset) -> Built:
        rng, table = np.random.default_rng(seed), data.observations.copy()
        groups = table.groupby("patient").indices.values() if within else [np.arange(len(table))]
        new = table["value"].to_numpy().copy()
        for rows in groups:
            new[rows] = rng.permutation(new[rows])
        return population, again(data, observations=table.assign(value=new))

    return apply


def reversed_in_time(t: pd.DataFrame) -> Any:
    return t.groupby("patient")["value"].transform(lambda x: x.to_numpy()[::-1]).to_numpy()


def limit(kind: str, factor: float) -> Change:
    """A wrong limit of quantification of data that have one.

    "low": entered `factor` times too low; "high": that much too high, on the censored rows;
    "filled": `factor` times the limit in place of values, as if measured; "dropped": the rows
    below the limit left out.
    """

    def apply(population: ck.Population, data: ck.Dataset) -> Built:
        table = data.observations.copy()
        below = table["censored"] == 1
        if kind == "low":
            table["lloq"] /= factor
            table.loc[below, "value"] /= factor
        elif kind == "high":
            table["lloq"] = table["lloq"].where(below, np.nan)
            table.loc[below, ["lloq", "value"]] *= factor
        elif kind == "filled":
            table.loc[below, "value"] *= factor
            table = table.assign(censored=0, lloq=np.nan)
        else:
            table = table[~below].assign(lloq=np.nan)
        return population, again(data, observations=table)

    return apply


# ---------------------------------------------------------------------------------------------
# Changes of models and priors
# ---------------------------------------------------------------------------------------------


def believing(**priors: tuple[float, float]) -> Change:
    """Log-normal priors replaced, (median, SD of the logarithm)."""

    def apply(population: ck.Population, data: Any) -> Built:
        new = {k: dist.LogNormal(np.log(m), s) for k, (m, s) in priors.items()}
        return dataclasses.replace(population, priors=dict(population.priors) | new), data

    return apply


def without_covariate(population: ck.Population, data: Any) -> Built:
    priors = {k: v for k, v in population.priors.items() if not k.startswith("beta_")}
    return dataclasses.replace(population, covariates={}, priors=priors), data


def one_phase(_: ck.Population, data: Any) -> Built:
    """A single exponential for data of two phases."""
    return ck.Population(d.DECAY, varies=["base"]), data


def coarse(rtol: float) -> Change:
    return lambda population, data: (dataclasses.replace(population, rtol=rtol), data)


def together(*changes: Change) -> Change:
    def apply(population: ck.Population, data: Any) -> Built:
        for change in changes:
            population, data = change(population, data)
        return population, data

    return apply


# ---------------------------------------------------------------------------------------------
# Data to be spoiled
# ---------------------------------------------------------------------------------------------


class LateParams(ck.Params):
    base: ck.Scalar = ck.param(10.0, "cells/µL", "level on day 0", "assumed")
    last: ck.Scalar = ck.param(40.0, "day", "day of the last cell", "assumed", prior_sd=0.3)


LATE = ck.ClosedForm(
    name="late",
    params=LateParams,
    outputs={"car_t": lambda t, p: p.base * jnp.sqrt(1 - t / p.last)},
    units={"car_t": "cells/µL"},
)


def late_design(patients: int, seed: int, last: float) -> Built:
    """No level exists after `last`, which lies just behind the last sample."""
    truth = {"last": last}
    data = d.curve_data(
        LATE, "car_t", d.DECAY_DAYS, patients, seed, truth=truth, spread={"base": 0.3}, sigma=1.0
    )
    return ck.Population(LATE, varies=["base"]), data


def decay(patients: int, seed: int, effect: float | None = None) -> Design:
    name = f"decay {patients} patients, {f'effect {effect:g}, ' if effect else ''}data {seed}"
    exact = partial(d.decay_exact, patients, seed, effect)
    return Design(name, "decay", partial(d.decay_design, patients, seed, effect), exact=exact)


def censored(patients: int, seed: int, lloq: float) -> Design:
    make = partial(d.decay_design, patients, seed, None, lloq)
    return Design(f"decay {patients} patients, LLOQ {lloq:g}, data {seed}", "decay", make)


def curve(patients: int, seed: int, last: float) -> Design:
    make = partial(d.piecewise_design, patients, seed, last)
    return Design(f"piecewise {patients} patients to day {last:g}, data {seed}", "piecewise", make)


def oral(patients: int, seed: int) -> Design:
    make = partial(d.oral_design, patients, seed)
    return Design(f"oral {patients} patients, data {seed}", "oral", make, 2)


def symmetric(kind: str, patients: int, seed: int) -> Design:
    model, make = {
        "phases": (d.PHASES, d.phases_data),
        "entry": (d.ENTRY, d.entry_data),
    }[kind]
    return Design(
        f"{kind} {patients} patients, data {seed}",
        kind,
        lambda: (ck.Population(model), make(patients, seed)),
    )


# ---------------------------------------------------------------------------------------------
# The faults
# ---------------------------------------------------------------------------------------------


def _sampling() -> list[Fault]:
    """The cure is off: no more than the planned draws."""
    sparse = Design(
        "stein2019 6 patients to day 60, all but foldx varying, data 500",
        "stein2019",
        partial(d.stein_design, 6, 500, 60, varies=("cmax", "tmax", "alpha")),
    )
    plans = [
        (decay(8, 501), 30, 1),
        (curve(3, 502, 28), 50, 1),
        (curve(5, 503, 60), 30, 2),
        (curve(6, 504, 90), 60, 1),
        (sparse, 40, 1),
        (sparse, 30, 3),
    ]
    return [
        Fault(
            f"{draws} draws after {tune} steps of adaptation; {sound.name}",
            "sampling cut short",
            sound,
            compared="posterior",
            method="nuts",
            settings={"draws": draws, "tune": tune, "max_draws": draws},
            draws_wrong=True,
        )
        for sound, draws, tune in plans
    ]


def _faults(kind: str, each: list[tuple[str, Design, Change]], **more: Any) -> list[Fault]:
    return [Fault(f"{what}; {on.name}", kind, on, change, **more) for what, on, change in each]


def _units() -> list[Fault]:
    kind = "unit off by 1,000"
    return [
        *_faults(
            kind,
            [
                ("all times 1,000", decay(12, 510), times(1e3)),
                ("all over 1,000", decay(8, 511), times(1e-3)),
                ("half of them times 1,000", decay(12, 513), times(1e3, range(1, 7))),
                ("all times 1,000", curve(8, 515, 90), times(1e3)),
                ("all over 1,000", oral(8, 516), times(1e-3)),
            ],
            draws_wrong=True,
        ),
        *_faults(
            kind,
            [
                ("patient 3 times 1,000", decay(12, 512), times(1e3, [3])),
                ("one sample times 1,000", decay(10, 514), one_sample(1e3, 2, 3)),
            ],
        ),
        *_faults(
            "hours for days",
            [
                ("all times 24", decay(12, 520), days(24)),
                ("all times 24", decay(6, 521), days(24)),
                ("patient 2 times 24", decay(12, 522), days(24, [2])),
                ("all over 24", decay(10, 523), days(1 / 24)),
                ("all times 24", curve(8, 524, 28), days(24)),
                ("all times 24", oral(8, 525), days(24)),
            ],
        ),
        *_faults(
            "dose in a wrong unit",
            [
                ("all times 1,000", oral(8, 530), doses(1e3)),
                ("all over 1,000", oral(8, 531), doses(1e-3)),
                ("patient 3 over 1,000", oral(10, 532), doses(1e-3, [3])),
                ("patients 1 to 4 times 1,000", oral(10, 533), doses(1e3, range(1, 5))),
            ],
        ),
    ]


def _labels() -> list[Fault]:
    pairs = (
        ((1, 2), 2.5),
        ((3, 6), 2.0),
        ((1, 4), 3.2),
        ((5, 8), 3.0),
        ((7, 2), 2.5),
        ((1, 2), 4.0),
    )
    return [
        *_faults(
            "labels of two patients swapped",
            [
                (f"patients {one} and {other}", decay(21, 540 + i, effect), swapped(one, other))
                for i, ((one, other), effect) in enumerate(pairs)
            ],
        ),
        *_faults(
            "covariate dropped",
            [
                (f"effect {effect:g}", decay(n, 550 + i, effect), without_covariate)
                for i, (n, effect) in enumerate(
                    ((21, 3.0), (31, 2.5), (15, 4.0), (25, 3.5), (41, 2.5), (13, 3.5))
                )
            ],
        ),
        *_faults(
            "patients entered several times",
            [
                ("the highest one 6 times", decay(8, 560), repeated(6, 1)),
                ("the highest two 4 times", decay(10, 561), repeated(4, 2)),
                ("the highest three 3 times", decay(12, 562), repeated(3, 3)),
                ("all 8 times", decay(6, 563), repeated(8, 6, extreme=False)),
                ("the highest one 10 times", decay(12, 564), repeated(10, 1)),
                ("the highest two 5 times", curve(8, 565, 60), repeated(5, 2)),
                ("the highest one 7 times", decay(9, 566), repeated(7, 1)),
                ("the highest two 3 times", decay(9, 567), repeated(3, 2)),
                ("all 3 times", decay(8, 568), repeated(3, 8, extreme=False)),
            ],
        ),
    ]


def _modes() -> list[Fault]:
    found = []
    for kind, design, mirror in (
        ("label switching", "phases", d.phases_mirror),
        ("two modes", "entry", d.entry_mirror),
    ):
        for i, n in enumerate((4, 6, 8, 8, 10, 12)):
            method = "nuts" if i % 3 == 2 else "laplace"
            sound = symmetric(design, n, (570 if design == "phases" else 580) + i)
            found.append(
                Fault(
                    f"{method}, {sound.name}", kind, sound,
                    compared="posterior", mirror=mirror, method=method, draws_wrong=True,
                )
            )  # fmt: skip
    return found


def _solver() -> list[Fault]:
    precise = [
        Design(
            f"kimmel2021 {n} patients, error {sigma:g}, data {seed}",
            "kimmel2021",
            partial(d.kimmel_design, n, seed, sigma),
            3,
        )
        for n, seed, sigma in ((4, 590, 0.005), (6, 591, 0.005), (3, 592, 0.003))
    ]
    late = [
        (
            Design(f"late {n} patients, data {seed}", "late", partial(late_design, n, seed, last)),
            last,
        )
        for n, seed, last in ((8, 593, 28.3), (6, 594, 28.2), (10, 595, 28.5))
    ]
    kind = "equations unsolved or too coarse"
    return [
        *_faults(kind, [("rtol 0.3", on, coarse(0.3)) for on in precise], draws_wrong=True),
        *(
            Fault(on.name, kind, on, compared="truth", truth={"last": last}, draws_wrong=True)
            for on, last in late
        ),
    ]


def _limits() -> list[Fault]:
    return _faults(
        "LLOQ wrong",
        [
            ("ten-fold too low", censored(12, 600, 3.0), limit("low", 10)),
            ("hundred-fold too low", censored(12, 601, 3.0), limit("low", 100)),
            ("ten-fold too high", censored(12, 602, 2.0), limit("high", 10)),
            ("the limit as a value", censored(12, 603, 4.0), limit("filled", 1.0)),
            ("half the limit as a value", censored(16, 604, 4.0), limit("filled", 0.5)),
            ("rows below it left out", censored(16, 605, 5.0), limit("dropped", 1.0)),
        ],
    )


def _data() -> list[Fault]:
    return [
        *_faults(
            "a patient of another drug",
            [
                (
                    f"patient {i}, half-life {half:g} days",
                    decay(n, 610 + i, None),
                    another_drug(i, half),
                )
                for i, (n, half) in enumerate(
                    ((10, 1.5), (12, 2.0), (8, 1.0), (14, 100.0), (12, 1.0), (16, 1.5)), 1
                )
            ],
        ),
        *_faults(
            "impossible data",
            [
                ("values shuffled within patients", decay(12, 620), shuffled(1, True)),
                ("values shuffled among all", decay(12, 621), shuffled(2, False)),
                ("values in reversed order", decay(10, 622), values(reversed_in_time)),
                ("a level of 1e12 cells/µL", decay(10, 623), one_sample(1e12, 4, 1)),
                ("all the same", decay(8, 624), values(lambda t: 1e3)),
                ("a negative level", decay(8, 625), one_sample(-1.0, 4, 1)),
            ],
        ),
    ]


def _models() -> list[Fault]:
    two_phases = {"sigma": 0.2}
    cannot_bend = [
        Fault(
            f"one phase for two; {sound.name}", "model that cannot bend", sound, one_phase,
            compared="truth", truth=two_phases,
        )
        for sound in (symmetric("phases", n, 630 + i) for i, n in enumerate((4, 8, 12, 16, 20, 6)))
    ]  # fmt: skip
    return [
        *cannot_bend,
        *_faults(
            "prior far off",
            [
                ("base near 1", decay(8, 640), believing(base=(1.0, 0.05))),
                ("base near 100", decay(12, 641), believing(base=(100.0, 0.1))),
                ("half-life near 1 day", decay(12, 642), believing(halve=(1.0, 0.1))),
                ("half-life near 60 days", decay(8, 643), believing(halve=(60.0, 0.1))),
                ("spread near 0.05", decay(16, 644), believing(omega_base=(0.05, 0.1))),
                ("residual SD near 3", decay(12, 645), believing(sigma=(3.0, 0.05))),
            ],
        ),
    ]


ASKED = {  # of the reader, where nothing reveals the fault
    "dose a closed form does not feel": (
        "Compare every dose and its unit with the source: levels of a closed form do not depend on "
        "the dose."
    ),
    "unit off by less than the prior is wide": (
        "Compare a level by hand with the source, and give the typical level a prior from the "
        "literature that is narrower than a factor between units."
    ),
    "labels swapped between arms that overlap": (
        "Compare the labels of arms with the source: data with swapped labels are data of a "
        "smaller effect."
    ),
    "weak covariate dropped": (
        "Name the covariates that are known to matter before the fit, and compare with and without "
        "each (`ck.checks.loo`)."
    ),
}


def _hidden() -> list[Fault]:
    kinds = list(ASKED)
    changes = {
        kinds[0]: [
            ("all times 1,000", curve(8, 700, 60), doses(1e3)),
            ("patient 2 times 1,000", decay(10, 701), doses(1e3, [2])),
        ],
        kinds[1]: [
            ("all twice as high", decay(12, 702), times(2.0)),
            ("all three times as high", curve(8, 703, 60), times(3.0)),
        ],
        kinds[2]: [
            ("patients 1, 2, 3 and 4", decay(21, 704, 0.8), swapped(1, 2, 3, 4)),
            ("patients 1 and 2", decay(13, 705, 0.5), swapped(1, 2)),
        ],
        kinds[3]: [
            ("effect 0.8", decay(21, 706, 0.8), without_covariate),
            ("effect 1", decay(15, 707, 1.0), without_covariate),
        ],
    }
    return [f for kind, each in changes.items() for f in _faults(kind, each, hidden=True)]


def _all() -> list[Fault]:
    return [
        *_sampling(), *_units(), *_labels(), *_modes(), *_solver(), *_limits(), *_data(),
        *_models(), *_hidden(),
    ]  # fmt: skip


FAULTS = {f"{f.kind}: {f.name}": f for f in _all()}

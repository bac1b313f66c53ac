"""Whatever a population may hold works in every function, or is refused in a sentence.

Fifteen populations hold every pair of features that can go together; every function meets every
feature, each on the first few populations that show it one that is new.
"""

import functools
import itertools
import re
import warnings

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import carpk as ck
from carpk.solver.adaptive import MAX_STEPS, Adaptive

FEATURES = {
    "correlated": ("independent", "correlated"),
    "level": ("patient", "cohort", "infusion"),
    "covariate": ("none", "linear", "power", "category"),
    "endpoints": ("one endpoint", "two endpoints"),
    "blq": ("all measured", "BLQ"),
    "data": ("patients", "summaries", "both"),
    "solver": ("closed", "mesh", "adaptive"),
    "fixed": ("all free", "fixed"),
    "size": ("many", "one"),
}
ROWS = [
    "independent, patient, linear, one endpoint, all measured, summaries, closed, fixed, many",
    "correlated, infusion, none, two endpoints, all measured, patients, mesh, all free, one",
    "independent, cohort, power, two endpoints, BLQ, both, adaptive, all free, many",
    "correlated, infusion, category, one endpoint, BLQ, patients, adaptive, fixed, many",
    "correlated, patient, none, two endpoints, BLQ, both, closed, fixed, one",
    "independent, cohort, category, one endpoint, all measured, summaries, mesh, all free, many",
    "independent, patient, none, one endpoint, all measured, both, adaptive, all free, one",
    "correlated, cohort, linear, two endpoints, BLQ, patients, mesh, fixed, many",
    "correlated, patient, power, one endpoint, all measured, patients, mesh, fixed, many",
    "correlated, cohort, none, two endpoints, all measured, summaries, closed, all free, many",
    "independent, infusion, power, two endpoints, BLQ, patients, closed, all free, many",
    "independent, infusion, linear, one endpoint, BLQ, both, mesh, all free, many",
    "independent, patient, category, two endpoints, all measured, both, closed, all free, many",
    "independent, patient, power, one endpoint, all measured, summaries, adaptive, fixed, many",
    "correlated, cohort, linear, two endpoints, all measured, patients, adaptive, fixed, many",
]
FEW = {0, 3, 4, 7, 10}  # rows that hold every feature once, and are quick
DAYS, AGAIN = (1.0, 3.0, 7.0, 14.0), (21.0, 24.0, 30.0)
OWN = (("c0", "c1", "c2"), "aba", (20.0, 28.0, 36.0))
LLOQ, UNITS = 6.0, {"car_t": "cells/µL", "il6": "pg/mL"}


class Params(ck.Params):
    a: ck.Scalar = ck.param(50.0, "cells/µL", "level after the infusion", "made up", iiv=0.5)
    k: ck.Scalar = ck.param(0.2, "1/day", "loss rate", "made up", iiv=0.3)
    s: ck.Scalar = ck.param(2.0, "pg/mL per cells/µL", "cytokine per cell", "made up")


class States(ck.States):
    C: ck.Scalar = ck.state("cells/µL", "cells", log=True)


CLOSED = ck.ClosedForm(
    name="decay",
    params=Params,
    outputs={
        "car_t": lambda t, p: p.a * jnp.exp(-p.k * t),
        "il6": lambda t, p: p.s * p.a * jnp.exp(-p.k * t),
    },
    units=UNITS,
)
SOLVED = ck.ODEModel(
    name="decay_ode",
    params=Params,
    states=States,
    vector_field=lambda t, y, p: States(C=-p.k * y.C),
    initial=lambda p: States(C=1e-9),
    targets={"car_t": ck.Target("C", scale=lambda p: p.a / 1e8)},
    outputs={"car_t": lambda t, y, p: y.C, "il6": lambda t, y, p: p.s * y.C},
    units=UNITS,
)


@functools.cache
def row(number):
    values = ROWS[number].split(", ")
    found = dict(zip(FEATURES, values, strict=True))
    assert all(found[k] in FEATURES[k] for k in FEATURES)
    return found


def features(number):
    return set(row(number).items())


def outputs(f):
    return ("car_t", "il6") if f["endpoints"] == "two endpoints" else ("car_t",)


def patients_of(f):
    """Tables of simulated patients."""
    rng = np.random.default_rng(1)
    size = 1 if f["size"] == "one" else 9
    who, doses, seen = [], [], []
    for i in range(size):
        name, weight = f"p{i}", 20.0 + 8 * i
        who.append((name, f"c{i % 3}", weight, "ab"[i % 2]))
        a, k = 50 * np.exp(0.5 * rng.standard_normal()), 0.2 * np.exp(0.3 * rng.standard_normal())
        starts = (0.0, 20.0) if f["level"] == "infusion" else (0.0,)
        doses += [(name, t, "car_t", 1e8, "cells") for t in starts]
        for t in (*DAYS, *(AGAIN if len(starts) > 1 else ())):
            level = sum(a * np.exp(-k * (t - s)) for s in starts if t >= s)
            for output in outputs(f):
                y = level * (2 if output == "il6" else 1) * np.exp(0.2 * rng.standard_normal())
                below = f["blq"] == "BLQ" and y < LLOQ
                seen.append((name, t, output, LLOQ if below else y, UNITS[output], int(below)))
    observations = pd.DataFrame(
        seen, columns=["patient", "time", "analyte", "value", "unit", "censored"]
    )
    return {
        "patients": pd.DataFrame(who, columns=["patient", "cohort", "weight", "arm"]),
        "doses": pd.DataFrame(doses, columns=["patient", "time", "product", "amount", "unit"]),
        "observations": observations.assign(lloq=LLOQ if f["blq"] == "BLQ" else np.nan),
    }


def summaries_of(f):
    """Tables of two published cohorts, simulated."""
    rows = [
        {
            "cohort": cohort,
            "analyte": output,
            "metric": "level",
            "time": day,
            "statistic": "median",
            "value": factor * (2 if output == "il6" else 1) * 50 * np.exp(-0.2 * day),
            "low": factor * (2 if output == "il6" else 1) * 35 * np.exp(-0.2 * day),
            "high": factor * (2 if output == "il6" else 1) * 75 * np.exp(-0.2 * day),
            "interval": "IQR",
            "n": 12,
            "unit": UNITS[output],
            "use": "fit",
            "source": "simulated",
        }
        for cohort, factor in (("x", 0.8), ("y", 1.3))
        for output in outputs(f)
        for day in (1.0, 7.0)
    ]
    known = {"cohort": ["x", "y"], "arm": ["a", "b"], "weight": [30.0, 60.0]}
    if f["data"] == "both":  # whose own patients stand in other cohorts
        known = {k: [*x, *more] for (k, x), more in zip(known.items(), OWN, strict=True)}
    sampling = [0, *map(int, DAYS)]
    return {
        "summaries": pd.DataFrame(rows),
        "cohorts": pd.DataFrame(known),
        "sampling": sampling,
    }


def data_of(f):
    tables = {} if f["data"] == "summaries" else patients_of(f)
    tables |= {} if f["data"] == "patients" else summaries_of(f)
    return ck.Dataset.from_frames(**tables, name="made up")


def population_of(f):
    levels = {"patient": ["patient"], "cohort": ["cohort", "patient"]}
    levels |= {"infusion": ["patient", "infusion"]}
    column = {"linear": "weight", "power": "weight", "category": "arm"}.get(f["covariate"])
    forms = {"power": {"a": {"weight": "power"}}, "none": {}}
    ode = f["solver"] != "closed"
    given = {c: ck.Regimen.cells(0, 1e8) for c in "xy"} if ode and f["data"] != "patients" else {}
    fixed = {} if f["endpoints"] == "two endpoints" else {"s": 2.0}
    return ck.Population(
        SOLVED if ode else CLOSED,
        varies={"a": levels[f["level"]], "k": ["patient"]},
        correlated=["a", "k"] if f["correlated"] == "correlated" else (),
        covariates=forms.get(f["covariate"], {"a": [column]}),
        analytes=list(outputs(f)),
        fixed=fixed if f["fixed"] == "all free" else {"s": 2.0},
        regimens=given,
        virtual_patients=16,
    )


LOOK = {"method": "laplace", "draws": 50, "chains": 2, "seed": 1, "progress": False}
CHAINS = {"draws": 8, "tune": 8, "chains": 2, "max_draws": 8, "seed": 1, "progress": False}
MANY = {"simulations": 2, "draws": 20, "method": "laplace", "progress": False}
CELLS, TWICE = ck.Regimen.cells(0, 1e8), ck.Regimen.cells([0, 20], 1e8)


class Given:
    """A population, its data and its fit by Laplace's method."""

    def __init__(self, number, folder):
        f = row(number)
        self.pop, self.data, self.folder = population_of(f), data_of(f), folder

    @functools.cached_property
    def fit(self):
        return ck.fit(self.pop, self.data, **LOOK)

    def saved(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ck.load_fit(self.fit.save(self.folder / "fit.nc"), population=self.pop)


def planned(given):
    arm = ck.checks.PlannedArm(
        4,
        dict.fromkeys(given.pop.outputs_of.values(), DAYS),
        TWICE,
        covariates={c: {"arm": "a", "weight": 30.0}[c] for c in given.fit.bound.covariates},
    )
    other = {c: {"arm": "b", "weight": 60.0}[c] for c in given.fit.bound.covariates}
    return {"one": arm, "other": ck.checks.PlannedArm(4, arm.days, TWICE, covariates=other)}


FUNCTIONS = {
    "fit, map": lambda g: ck.fit(g.pop, g.data, **LOOK | {"method": "map", "starts": 2}),
    "fit, laplace": lambda g: g.fit,
    "fit, nuts": lambda g: ck.fit(g.pop, g.data, **CHAINS),
    "print": lambda g: repr(g.fit),
    "summary": lambda g: g.fit.summary(),
    "effects": lambda g: g.fit.effects(),
    "simulate": lambda g: ck.simulate(g.fit, TWICE, range(30), patients=3, draws=4, measured=True),
    "simulate, typical": lambda g: ck.simulate(g.fit, CELLS, range(30), draws=4),
    "compare": lambda g: ck.compare(g.fit, {"1": CELLS, "2": TWICE}, patients=3, draws=5).table,
    "checks.gof": lambda g: ck.checks.gof(g.fit, draws=40),
    "checks.identifiability": lambda g: (
        ck.checks.identifiability(g.pop, g.data, simulations=60).table
    ),
    "checks.identifiability, planned": lambda g: ck.checks.identifiability(g.pop, planned(g)).fix,
    "checks.sampling_times": lambda g: ck.checks.sampling_times(
        g.pop, planned(g), {"car_t": [2.0, 5.0]}, add=1
    ),
    "checks.loo, observation": lambda g: ck.checks.loo(g.fit, progress=False),
    "checks.loo, patient": lambda g: ck.checks.loo(
        g.fit, by="patient", draws=20, points=32, progress=False
    ),
    "checks.loo, cohort": lambda g: ck.checks.loo(
        g.fit, by="cohort", draws=20, points=32, progress=False
    ),
    "checks.npde": lambda g: ck.checks.npde(g.fit, replicates=60),
    "checks.vpc": lambda g: ck.checks.vpc(g.fit, replicates=40),
    "checks.posterior_predictive": lambda g: ck.checks.posterior_predictive(g.fit, draws=20),
    "checks.prior_predictive": lambda g: ck.checks.prior_predictive(g.pop, g.data, draws=20),
    "checks.recovery": lambda g: ck.checks.recovery(g.pop, g.data, **MANY).table(),
    "checks.sbc": lambda g: ck.checks.sbc(g.pop, g.data, ranked=10, **MANY).table,
    "checks.sensitivity": lambda g: ck.checks.sensitivity(g.fit),
    "checks.shrinkage": lambda g: ck.checks.shrinkage(g.fit),
    "checks.solver_error": lambda g: ck.checks.solver_error(g.fit, draws=10),
    "plot.eta_covariates": lambda g: ck.plot.eta_covariates(g.fit),
    "plot.eta_pairs": lambda g: ck.plot.eta_pairs(g.fit),
    "plot.summaries": lambda g: ck.plot.summaries(ck.checks.posterior_predictive(g.fit, draws=20)),
    "plot.fit": lambda g: ck.plot.fit(g.fit),
    "plot.individual_fits": lambda g: ck.plot.individual_fits(g.fit, draws=10),
    "plot.prior_posterior": lambda g: ck.plot.prior_posterior(g.fit),
    "plot.vpc": lambda g: ck.checks.vpc(g.fit, replicates=40).plot(),
    "plot.waterfall": lambda g: ck.plot.waterfall(g.fit),
    "save, load_fit": lambda g: g.saved().summary(),
}
OF_PATIENTS = (
    *("checks.gof", "checks.npde", "checks.vpc", "checks.shrinkage", "plot.vpc"),
    *("checks.loo, observation", "checks.loo, patient"),
    *("plot.eta_covariates", "plot.eta_pairs", "plot.individual_fits"),
)
REFUSALS = {  # function -> (features that together are refused, what the refusal says of them)
    **{name: [({"summaries"}, "published cohort")] for name in OF_PATIENTS},
    "checks.solver_error": [({"closed"}, "closed form")],
    "checks.loo, cohort": [({"one", "patients"}, "the single cohort 'c0'")],
    "plot.eta_covariates": [
        ({"summaries"}, "published cohort"),
        ({"one"}, "no covariate that differs"),
    ],
    "checks.identifiability": [
        ({"cohort", data}, "'a' varies by cohort, .* published cohorts")
        for data in ("summaries", "both")
    ],
}


def assigned():
    """Number of a row -> the functions that are tried there."""
    found = {i: [] for i in range(len(ROWS))}
    for place, name in enumerate(FUNCTIONS):
        order = [(place * 4 + i) % len(ROWS) for i in range(len(ROWS))]
        missing = {(k, x) for k, each in FEATURES.items() for x in each}
        while missing:
            best = max(order, key=lambda i: len(features(i) & missing))
            found[best].append(name)
            missing -= features(best)
    return found


def test_every_pair_of_features_that_can_go_together_is_there():
    def possible(f):
        summaries, one = f["data"] == "summaries", f["size"] == "one"
        needs_patients = f["blq"] == "BLQ" or one or f["level"] == "infusion"
        needs_many = f["covariate"] != "none" or f["level"] == "cohort"
        return not (summaries and needs_patients) and not (one and needs_many)

    every = [dict(zip(FEATURES, x, strict=True)) for x in itertools.product(*FEATURES.values())]

    def pairs(f):
        return set(itertools.combinations(f.items(), 2))

    wanted = set().union(*(pairs(f) for f in every if possible(f)))
    assert wanted == set().union(*(pairs(row(i)) for i in range(len(ROWS))))


def test_every_function_meets_every_feature():
    met = {}
    for number, names in assigned().items():
        for name in names:
            met.setdefault(name, set()).update(features(number))
    assert set(met) == set(FUNCTIONS)
    assert all(len(x) == sum(map(len, FEATURES.values())) for x in met.values())


def explicit(_, rtol, atol, max_steps=MAX_STEPS):
    """Settings of the adaptive route, whatever method is asked for."""
    return Adaptive("tsit5", max(rtol, 1e-6), atol, max_steps)


def tried(call, given):
    """What a function says: "works", its refusal, or what it crashed with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            call(given)
        except ck.CarpkError as error:
            return str(error)
        except Exception as error:  # what the table is for
            return f"CRASH {type(error).__name__}: {error}"
        finally:
            plt.close("all")
    return "works"


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(i, id=ROWS[i], marks=pytest.mark.slow if i in FEW else pytest.mark.exhaustive)
        for i in range(len(ROWS))
    ],
)
def test_each_cell_works_or_is_refused_in_a_sentence(number, tmp_path, monkeypatch):
    if row(number)["solver"] == "adaptive":  # by the method that compiles fastest
        monkeypatch.setattr("carpk.solver.mesh.choose", lambda *_, **__: "asked for")
        monkeypatch.setattr("carpk.solver.solve.Adaptive", explicit)
    given, wrong = Given(number, tmp_path), []
    values = {x for _, x in features(number)}
    for name in assigned()[number]:
        told = tried(FUNCTIONS[name], given)
        print(f"{number}\t{name}\t{told}")
        refused = [words for together, words in REFUSALS.get(name, ()) if together <= values]
        if not (any(re.search(w, told) for w in refused) if refused else told == "works"):
            wrong.append(f"{name}: {told}")
    assert not wrong, "\n".join(wrong)

"""What a verdict says, and which grade each statement gives: on made-up draws and settings."""

import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hierarchies import LINEAR, decaying
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import carpk as ck
import carpk.verdict
from carpk.verdict.judge import Verdict, judge
from carpk.verdict.outliers import (
    _columns,
    _copies,
    _course,
    _left_out,
    _neighbours,
    _swapped_pair,
    _unrelated,
)
from carpk.verdict.words import BUT, OK, OUTLIERS, WRONG, chance, doubt, note, number, trouble

POP = ck.Population(LINEAR, varies=["base"])
BOUND = POP.bind(decaying(patients=8, cohorts=1))
PRIOR = {"base": (10.0, 1.5), "halve": (10.0, 1.5), "omega_base": (0.5, 0.5), "sigma": (0.5, 0.5)}
PRIOR["eta_base"] = (0.0, 1.0)
FOUND = {"base": (10.0, 0.1), "halve": (10.0, 0.1), "omega_base": (0.5, 0.2), "sigma": (0.4, 0.1)}
FOUND["eta_base"] = (0.0, 0.2)
MODE = {"decrement": 1e-9, "converged": True, "flat": 0, "unconverged": []}


def drawn(values, seed, chains=4, draws=500, **kept):
    """Normal draws on the estimation scale of everything in `BOUND`, name -> (middle, SD)."""
    rng = np.random.default_rng(seed)
    table = {}
    for name, (middle, sd) in values.items():
        shape = (chains, draws, 8) if name.startswith("eta_") else (chains, draws)
        dims = ("chain", "draw", "patient")[: len(shape)]
        z = middle + sd * rng.standard_normal(shape)
        if not name.startswith("eta_"):
            z = middle * np.exp(sd * rng.standard_normal(shape))
        table[name] = (dims, kept.get(name, z))
    return xr.Dataset(table)


def sampled(chains=4, draws=500, divergences=0, deep=0.0, energy=None):
    """Sampler statistics of chains without a fault, but for those asked for."""
    shape = (chains, draws)
    diverging = np.zeros(shape, bool)
    diverging.flat[:divergences] = True
    full = np.zeros(shape, bool)
    full.flat[: int(deep * full.size)] = True
    energy = np.random.default_rng(0).standard_normal(shape) if energy is None else energy
    each = {"diverging": diverging, "reached_max_treedepth": full, "energy": energy}
    return xr.Dataset({k: (("chain", "draw"), x) for k, x in each.items()})


def judged(found=None, *, bound=BOUND, prior=None, stats=None, pointwise=None, **told):
    """The verdict on draws that have no fault but for what is changed."""
    told = {"method": "nuts", "chains": 4, "draws": 500} | told
    if told["method"] != "nuts":
        told = {"mode": MODE, "importance": {"settled": True}} | told
    posterior = found if isinstance(found, xr.Dataset) else drawn(FOUND | (found or {}), 1)
    before = drawn(PRIOR | (prior or {}), 2, chains=1, draws=4000)
    if stats is None:
        stats = sampled(posterior.sizes["chain"], posterior.sizes["draw"])
    return judge(posterior, stats, before, bound, told, pointwise)


def apart():
    """Chains at different places."""
    return drawn(FOUND, 1, base=np.arange(4)[:, None] + np.random.default_rng(0).random((4, 500)))


def open_together():
    """Base and half-life whose product alone is known."""
    rng = np.random.default_rng(0)
    one, other = (rng.standard_normal((4, 500)), 0.1 * rng.standard_normal((4, 500)))
    return drawn(FOUND, 1, base=10 * np.exp(one), halve=10 * np.exp(other - one))


def two_modes(stay, base=(1.0, 5.0), halve=(5.0, 1.0)):
    """Chains that stay at one of two modes each, or go to and fro."""
    rng = np.random.default_rng(0)
    at = (
        np.arange(4)[:, None] % 2 + np.zeros((4, 500), int)
        if stay
        else rng.integers(2, size=(4, 500))
    )
    near = np.exp(0.05 * rng.standard_normal((2, 4, 500)))
    return drawn(FOUND, 1, base=np.take(base, at) * near[0], halve=np.take(halve, at) * near[1])


def likelihoods(bad):
    """Log-likelihoods of the samples, that of one patient not finite in some draws."""
    each = np.zeros((4, 500, 2))
    each[0, :bad, 1] = -np.inf
    coords = {"patient_car_t": ("obs", ["p0", "p1"])}
    return xr.Dataset({"car_t": (("chain", "draw", "obs"), each)}, coords=coords)


SWITCHED = [{"patient": "p1", "of": "cohort a"}, {"patient": "p2", "of": "cohort b"}]
ENTRIES = {
    "tied": {"count": 5, "analyte": "car_t", "value": 3.0},
    "under": {"count": 5, "analyte": "car_t", "value": 3.0, "lloq": 30.0},
    "gap": {"analyte": "car_t", "lloq": 0.3, "lowest": 3.0, "expected": 20.0},
    "below": {"analyte": "car_t", "seen": 15, "of": 60, "expected": 7.8},
    "shift": {"parameter": "base", "ratio": 3.0, "sds": 7.0, "fixed": False},
    "offset": {"analyte": "car_t", "sds": 0.7, "fixed": False, "sigma": "sigma"},
    "effects": {"patient": "p3", "parameter": "base", "sds": 8.0, "ratio": 20.0},
    "groups": {"parameter": "base", "sds": 6.0, "ratio": 20.0, "columns": []},
    "samples": {"patient": "p3", "day": 7.0, "analyte": "car_t", "value": 3.0, "sds": 9.0},
    "scatter": {"patient": "p3", "times": 4.0},
    "tails": {"analyte": "car_t", "df": 4.0, "count": 60, "gain": 9.0},
    "course": {"analyte": "car_t", "sds": 1.4, "first": 10.0, "last": 14.0},
    "copies": {"count": 9, "of": 10},
    "left": {"analyte": "car_t", "count": 12, "planned": 60, "rho": -0.8},
    "unrelated": {"analyte": "car_t", "explained": 0.04},
    "columns": {"parameter": "base", "column": "arm", "ends": ["b", "a"], "away": 3.0},
}
ENTRIES["samples"] |= {"normal": True, "on_log": True, "sigma": "sigma"}
ENTRIES["swapped"] = {"parameter": "base", "sds": 6.0, "patients": SWITCHED}
ENTRIES["copies"]["patients"] = SWITCHED
ENTRIES["groups"] |= {"patients": [{"patient": "p1", "of": ""}, {"patient": "p2", "of": ""}]}


def outlier(kind, p=1e-6, **changes):
    looked = ENTRIES[kind] | {"p": p, "looked": "8 patients"}
    return {"outliers": {kind: [looked | changes]}}


def look(mode=(), **importance):
    """A normal approximation around a mode."""
    return LAPLACE | {"mode": MODE | dict(mode), "importance": {"settled": True} | importance}


def moved(name, middle, sd, before, wide):
    """Posterior and prior of one parameter."""
    return {"found": {name: (middle, sd)}, "prior": {name: (before, wide)}}


SOLVER = {"ok": True, "k_hat": 0.2, "draws": 100, "spread": 0.1, "failed": 0, "error": 1e-3}
TWO = [{"share": 0.7, "theta": {"base": 1.0, "halve": 5.0}}]
NUTS, LAPLACE, MAP = ({"method": name} for name in ("nuts", "laplace", "map"))
SWAPPED = [*TWO, {"share": 0.3, "theta": {"base": 5.0, "halve": 1.0}}]
OTHER = [*TWO, {"share": 0.3, "theta": {"base": 9.0, "halve": 50.0}}]
DIVERGENT = {"stats": sampled(divergences=3)}
CURED = {"told": "Went on.", "unresolved": False, "agree": True, "divergences": [9, 3]}
SLOW = np.cumsum(np.ones((4, 500)), 1)
NOWHERE = drawn(FOUND, 1, base=np.full((4, 500), np.inf))
TABLE = [  # kind of message, grade, words of it, what brings it about
    (
        "draws that are not finite",
        WRONG,
        "base has draws",
        {"found": NOWHERE},
    ),
    ("several modes", WRONG, "70% around base 1", {"modes": OTHER}),
    ("several modes", WRONG, "holds for one of the two", LAPLACE | {"modes": OTHER}),
    (
        "exchangeable parameters",
        WRONG,
        "Exchanging base with halve .* as the chains fell",
        {"modes": SWAPPED, "found": two_modes(stay=True)},
    ),
    (
        "exchangeable parameters",
        BUT,
        "Exchanging base with halve .* mix the two[.]",
        {"modes": SWAPPED, "found": two_modes(stay=False)},
    ),
    (
        "several modes",
        OK,
        "every chain goes to and fro",
        {"modes": OTHER, "found": two_modes(False, (1.0, 9.0), (5.0, 50.0))},
    ),
    ("one chain", WRONG, "chains=4", {"found": drawn(FOUND, 1, chains=1, draws=2000)}),
    ("chains disagree", WRONG, "medians by chain", {"found": apart()}),
    ("chains disagree", WRONG, "no number of draws", {"found": apart(), "modes": OTHER}),
    ("too few effective draws", WRONG, "below 400", {"found": drawn(FOUND, 1, draws=50)}),
    ("divergences", WRONG, "3 divergent transitions: .*omega_base", DIVERGENT),
    ("divergences", WRONG, "smaller step did not", DIVERGENT | {"cure": CURED | {"agree": False}}),
    ("divergences", OK, "two runs .* agree", DIVERGENT | {"cure": CURED}),
    ("cure", OK, "Went on.", {"cure": CURED}),
    ("low E-BFMI", BUT, "Low E-BFMI .0.0", {"stats": sampled(energy=SLOW)}),
    ("tree depth", OK, "10% of the draws", {"stats": sampled(deep=0.1)}),
    (
        "mode not found",
        WRONG,
        "3 posterior SDs",
        look({"decrement": 9.0}, settled=False),
    ),
    (
        "flat posterior",
        WRONG,
        "in 2 directions",
        look({"flat": 2}, settled=False),
    ),
    ("far from normal", WRONG, "does not settle", look(settled=False)),
    (
        "far from normal",
        WRONG,
        "k-hat 0.90",
        look(k_hat=0.9, ess=900.0),
    ),
    (
        "too few draws",
        WRONG,
        "importance ESS is 50",
        look(k_hat=0.3, ess=50.0),
    ),
    ("too few draws", WRONG, "Raise draws to 1000", LAPLACE | {"draws": 20}),
    (
        "patients without a mode",
        WRONG,
        "p1, p2",
        look({"unconverged": [1, 2]}),
    ),
    (
        "rough integral",
        BUT,
        "p1 3",
        look(points=[60, 3] + [60] * 6),
    ),
    ("few patients", OK, "0.2 to 1 posterior SDs", LAPLACE),
    ("a mode alone", WRONG, "no intervals", MAP | {"ends": [0.0, 0.0]}),
    ("uncertain mode", WRONG, "Only one of 2", MAP | {"ends": [0.0, -3.0]}),
    ("likelihood that is not finite", WRONG, "p1 in 7 of 2000", {"pointwise": likelihoods(7)}),
    ("solver", WRONG, "k-hat 1.50", {"solver": SOLVER | {"ok": False, "k_hat": 1.5}}),
    ("solver", WRONG, "none here", {"solver": SOLVER | {"ok": False, "k_hat": np.inf}}),
    ("solver error", BUT, "50% of the draws", {"solver": SOLVER | {"ess": 0.5}}),
    ("interrupted", WRONG, "same `folder`", {"interrupted": True}),
    ("unit", WRONG, "factor near 0.001 ", moved("base", 1e4, 0.1, 2e4, 0.1)),
    ("hours or days", BUT, "posterior .240. .* 24:", moved("halve", 240.0, 0.1, 10.0, 1.2)),
    ("hours or days", BUT, "posterior .0.4", moved("halve", 0.4, 0.1, 10.0, 1.2)),
    (
        "prior against data",
        BUT,
        "holds base near",
        moved("base", 13.0, 0.04, 10.0, 0.05),
    ),
    (
        "prior against data",
        BUT,
        "single patients first",
        moved("omega_base", 2.0, 0.3, 0.5, 0.4),
    ),
    (
        "prior against data",
        BUT,
        "single samples first",
        moved("sigma", 2.0, 0.3, 0.5, 0.4),
    ),
    (
        "prior overruled",
        OK,
        "data overrule the prior of base",
        moved("base", 30.0, 0.01, 10.0, 0.3),
    ),
    (
        "parameter without information",
        BUT,
        "nothing about halve",
        moved("halve", 10.0, 1.5, 10.0, 1.5),
    ),
    ("parameters not told apart", BUT, "base up and halve down", {"found": open_together()}),
    ("centring", OK, "patients median 70%", {"mode": {"held": {"patient": [0.6, 0.7, 0.8]}}}),
    ("LLOQ", BUT, "exactly 3", outlier("tied", 0.0)),
    ("LLOQ", BUT, "5 measured values lie below 30", outlier("under", 0.0)),
    ("LLOQ", BUT, "1 measured value lies below 30", outlier("under", 0.0, count=1)),
    ("samples left out", BUT, "12 of 60 samples", outlier("left")),
    ("LLOQ", BUT, "No measured value", outlier("gap")),
    ("LLOQ", BUT, "Too many samples", outlier("below")),
    ("LLOQ", OK, "Too few samples", outlier("below", 0.002, seen=0)),
    ("prior against data", BUT, "the prior of base holds the", outlier("shift")),
    ("prior against data", BUT, "or a value in `fixed`", outlier("shift", fixed=True)),
    ("unit", WRONG, "factor near 1000", outlier("shift", ratio=900.0)),
    ("prior against data", BUT, "a prior holds the curves", outlier("offset")),
    ("outlying patient", BUT, "Patient p3 is unlike", outlier("effects")),
    ("outlying patient", OK, "Patient p3 is unlike", outlier("effects", 0.002)),
    ("unit", WRONG, "factor near 1000", outlier("effects", ratio=1100.0)),
    ("two groups of patients", BUT, "missing, which the data do not have", outlier("groups")),
    ("swapped patients", BUT, "p1 .cohort a. and p2 .cohort b. would", outlier("swapped")),
    ("two groups of patients", BUT, "data have kg", outlier("groups", columns=["kg"])),
    (
        "two groups of patients",
        BUT,
        "p1 .cohort a., p2 .cohort b.",
        outlier("groups", patients=SWITCHED),
    ),
    ("unit", WRONG, "factor near 1e-06", outlier("groups", ratio=1e-6)),
    ("outlying sample", BUT, "residual=ck.StudentT", outlier("samples")),
    ("outlying sample", BUT, "even for the residual model", outlier("samples", normal=False)),
    ("patient off the model", BUT, "4.0 times as far", outlier("scatter")),
    ("heavy-tailed residuals", BUT, "StudentT.df=4", outlier("tails")),
    ("model off the course", BUT, "From day 10 to 14 .* 1.4 .* above", outlier("course")),
    ("model off the course", BUT, "On day 7 .* below", outlier("course", first=7, last=7, sds=-1)),
    ("curves unrelated to data", BUT, "explain 4% of the variance", outlier("unrelated", 0.0)),
    (
        "covariate left out",
        BUT,
        "20 times as high with arm b as with a",
        outlier("columns", ratio=20),
    ),
    ("covariate left out", BUT, "higher with arm b than with a", outlier("columns")),
    (
        "covariate left out",
        OK,
        "0.5 times as high in the upper half of kg as in the lower half",
        outlier("columns", 0.002, ratio=0.5, column="kg", ends=[]),
    ),
    ("covariate left out", BUT, "lower in the upper half", outlier("columns", away=-1, ends=[])),
    ("swapped patients", BUT, "exchanged", outlier("swapped", 0.005)),
    ("patient twice", BUT, "p1 and p2 have the same values on 9 of 10 days", outlier("copies")),
]


@pytest.mark.parametrize(("kind", "grade", "words", "how"), TABLE)
def test_each_message_has_its_grade_and_is_brought_about(kind, grade, words, how):
    verdict = judged(**how)
    found = [f for f in verdict.findings if f.kind == kind and re.search(words, f.text)]
    assert [f.grade for f in found] == [grade], str(verdict)


def test_the_table_holds_every_kind_of_message():
    folder = Path(carpk.verdict.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    named = set(re.findall(r'\b(?:note|doubt|trouble)\(\s*"([^"]+)"', source))
    named |= {kind for kind, _ in OUTLIERS.values()}
    elsewhere = {"below the LLOQ", "reference value", "parameter at its bound"}  # other models
    assert named - elsewhere == {kind for kind, *_ in TABLE}


def test_draws_without_a_fault_are_ok_and_nothing_is_said():
    for verdict in (judged(), judged(**look(k_hat=0.1, ess=4000.0))):
        assert verdict.grade == "OK"
        assert not verdict.findings, str(verdict)
        assert str(verdict).startswith("OK: ")


class TestGrades:
    def test_the_worst_finding_decides(self):
        found = note("a", "A."), doubt("b", "B."), doubt("b", "C."), trouble("d", "D.")
        grades = [Verdict(found[:i], {}).grade for i in (0, 1, 2, 4)]
        assert grades == ["OK", "OK", "OK, BUT", "DO NOT TRUST"]
        assert [Verdict(found[:i], {}).ok for i in (0, 1, 2, 4)] == [True, True, True, False]

    def test_the_first_line_counts_doubts_and_names_their_kinds(self):
        found = doubt("LLOQ", "B."), doubt("LLOQ", "C."), doubt("outlying sample", "D.")
        assert str(Verdict(found, {})).startswith("OK, BUT 3 doubts (LLOQ; outlying sample): ")
        assert str(Verdict(found[:1], {})).startswith("OK, BUT 1 doubt (LLOQ): ")

    def test_advice_is_numbered_through_and_notes_come_last(self):
        lines = str(Verdict((note("a", "A."), doubt("b", "B."), trouble("c", "C.")), {}))
        assert [x[:5] for x in lines.splitlines()[1:]] == ["  1. ", "  2. ", "  Not"]
        assert "1. C." in lines


class TestPrior:
    """A prior is in doubt where it moves the answer, and not where the data overrule it."""

    def test_a_precise_assay_is_no_reason_for_distrust(self):
        verdict = judged({"sigma": (0.04, 0.05)})
        assert not verdict.findings, str(verdict)

    def test_a_prior_that_moves_the_answer_is_told_with_its_strength(self):
        text = judged({"base": (14.0, 0.1)}, prior={"base": (10.0, 0.12)}).doubts[0]
        assert re.search(r"\(p = \de-\d+\)", text)

    def test_units_are_named_only_where_levels_are_far_off(self):
        near = judged({"base": (13.0, 0.04)}, prior={"base": (10.0, 0.05)})
        assert "Observations are" not in str(near)
        far = judged({"base": (1e4, 0.1)}, prior={"base": (1e5, 0.15)})
        assert "Observations are" in str(far)

    def test_nothing_is_said_of_omega_where_nothing_varies(self):
        alone = ck.Population(LINEAR).bind(decaying(patients=8, cohorts=1))
        posterior = drawn(FOUND, 1).drop_vars(["omega_base", "eta_base"])
        verdict = judged(
            posterior,
            bound=alone,
            stats=sampled(divergences=2, energy=SLOW),
        )
        assert [f.kind for f in verdict.findings] == ["divergences", "low E-BFMI"]
        assert "omega" not in str(verdict)


class Share(ck.Params):
    share: ck.Scalar = ck.param(0.5, "1", "share", "assumed", bounds=(0.0, 1.0))
    weight: ck.Scalar = ck.covariate(70.0, "kg", "body weight", "assumed")


def test_a_bound_a_reference_and_the_share_below_the_lloq_are_notable():
    model = ck.ClosedForm(
        name="share",
        params=Share,
        outputs={"car_t": lambda t, p: 10 * p.share * jnp.exp(-t * p.weight / 700)},
        units={"car_t": "cells/µL"},
    )
    bound = ck.Population(model).bind(decaying(patients=8, cohorts=1, lloq=3.0))
    rng = np.random.default_rng(0)
    near = xr.Dataset(
        {
            "share": (("chain", "draw"), 1 - 0.005 * rng.random((4, 500))),
            "sigma": (("chain", "draw"), 0.4 * np.exp(0.1 * rng.standard_normal((4, 500)))),
        }
    )
    before = drawn({"sigma": (0.5, 0.5)}, 2, chains=1, draws=4000)
    before["share"] = (("chain", "draw"), rng.random((1, 4000)))
    verdict = judge(near, sampled(), before, bound, {"method": "nuts"})
    assert "share lies at the end of its range (0 to 1)" in verdict.doubts[0]
    assert verdict.notes[0].startswith("weight = 70 for everybody")
    assert "below the LLOQ (M3 likelihood)" in verdict.notes[1]


class TestWords:
    @given(
        middle=st.floats(allow_nan=True, allow_infinity=True),
        energy=st.floats(allow_nan=True, allow_infinity=True),
        ratio=st.floats(allow_nan=True, allow_infinity=True),
        sds=st.floats(allow_nan=True, allow_infinity=True),
        p=st.sampled_from([0.0, 1e-300, 1e-4, 0.002]),
    )
    @settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.generate))
    def test_extreme_numbers_warn_of_nothing_and_are_said_in_words(
        self, middle, energy, ratio, sds, p
    ):
        changes = {"ratio": ratio, "sds": sds, "times": ratio, "gain": sds}
        outliers = {
            kind: [
                each
                | {"p": p, "looked": "8 patients"}
                | {k: v for k, v in changes.items() if k in each}
            ]
            for kind, each in ENTRIES.items()
        }
        values = drawn(FOUND, 1, draws=20, base=np.full((4, 20), middle))
        solver = SOLVER | {"ok": False, "k_hat": ratio, "spread": ratio}
        lost = MODE | {"decrement": ratio, "converged": False}
        weights = {"settled": False, "k_hat": ratio, "ess": sds}
        modes = [*TWO, {"share": 0.3, "theta": {"base": ratio, "halve": sds}}]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for how in (
                {"stats": sampled(draws=20, energy=np.full((4, 20), energy)), "modes": modes},
                LAPLACE | {"mode": lost, "importance": weights, "modes": modes},
                MAP | {"ends": [sds, ratio]},
            ):
                verdict = judged(values, outliers=outliers, solver=solver, **how)
                text = str(verdict)
                assert not re.search(r"\b(inf|nan)\b", text), text
                assert max(map(len, re.findall(r"\d+", text))) < 13, text

    def test_numbers_keep_the_digits_that_they_deserve(self):
        assert [number(x, ".1f") for x in (12.34, 1e9, float("inf"), float("nan"))] == [
            "12.3",
            "1.0e+09",
            "more than 1e300",
            "an unknown number",
        ]

    def test_the_strength_of_a_test_is_told_with_what_it_was_multiplied_by(self):
        assert chance(2e-5, "48 samples") == " (p = 2e-05, corrected for 48 samples)"
        assert chance(0.0) == " (p < 1e-12)"


class TestSwappedPair:
    """Two patients with each other's arm, on random effects that are known."""

    @staticmethod
    def effects(seed, swapped=True, size=20, apart=3.2):
        label = np.arange(size) % 2
        x = apart * label + 0.5 * np.random.default_rng(seed).standard_normal(size)
        label = label.copy()
        label[[0, 1]] = label[[1, 0]] if swapped else label[[0, 1]]
        return x, label

    def test_is_found_where_arms_are_apart(self):
        found = [_swapped_pair(*self.effects(seed)) for seed in range(10)]
        right = [set(pair) == {0, 1} and p < 1e-3 for pair, *_, p in found]
        assert sum(right) >= 9

    def test_is_no_more_frequent_by_chance_than_its_p_value(self):
        p = np.array([_swapped_pair(*self.effects(seed, False))[-1] for seed in range(100)])
        assert (p < 0.05).mean() <= 0.09

    def test_nobody_is_swapped_in_one_arm(self):
        x, label = self.effects(0)
        assert _swapped_pair(x, 0 * label) == ((), 0.0, 0.0, 1.0)


class Measured:
    """Stands for a bound population: samples of one analyte, every patient on the same days."""

    def __init__(self, days, value):
        shape = value.shape
        self.individual = SimpleNamespace(
            mask=np.ones(shape, bool),
            censored=np.zeros(shape, int),
            analyte=np.zeros(shape, int),
            analytes=("car_t",),
            time=np.broadcast_to(np.asarray(days, float), shape),
            value=value,
        )
        self.patients = [f"p{i}" for i in range(len(value))]
        self.counted = np.zeros(shape, bool)


class TestCourse:
    """Residuals that change with time: the model cannot bend as the data do."""

    def found(self, score, days=None):
        bound = Measured(np.arange(score.shape[1]) if days is None else days, np.exp(score))
        return _course(bound, score, np.ones(score.shape, bool))

    @pytest.mark.parametrize("where", [0, 4, 9])
    def test_is_told_with_its_days_and_its_side(self, where):
        score = np.random.default_rng(0).standard_normal((8, 10))
        score[:, where] -= 2.5
        (outlier,) = self.found(score)
        assert (outlier["first"], outlier["last"]) == (where, where)
        assert outlier["sds"] < -0.8
        assert outlier["p"] < 1e-3

    def test_is_no_more_frequent_by_chance_than_its_p_value(self):
        rng = np.random.default_rng(1)
        told = [self.found(rng.standard_normal((6, 8))) for _ in range(300)]
        assert sum(map(bool, told)) <= 5  # p below 0.003 is told

    def test_days_of_each_patient_are_compared_with_their_neighbours(self):
        rng = np.random.default_rng(2)
        days = np.sort(rng.random((20, 5)) * 60)
        group = _neighbours(days.ravel())
        assert len(np.unique(group)) <= 12
        assert np.bincount(group).min() >= 3
        order = np.argsort(days.ravel())
        assert (np.diff(group[order]) >= 0).all()
        score = rng.standard_normal(days.shape) + 2.5 * ((days > 10) & (days < 20))
        (outlier,) = self.found(score, days)
        assert 5 < outlier["first"] < outlier["last"] < 25

    @pytest.mark.parametrize("size", [1, 2, 3, 7])
    def test_few_days_are_one_group(self, size):
        assert set(_neighbours(np.arange(size) * 1.0)) <= {0, 1}


class TestCopies:
    """Patients who are in the data twice."""

    days = (0, 3, 7, 14, 28)

    def test_are_told_by_name(self):
        value = np.exp(np.random.default_rng(0).standard_normal((10, 5)))
        value[7] = value[2]
        (outlier,) = _copies(Measured(self.days, value))
        assert [each["patient"] for each in outlier["patients"]] == ["p2", "p7"]
        assert (outlier["count"], outlier["of"]) == (5, 5)
        assert outlier["p"] < 1e-3

    @pytest.mark.parametrize("decimals", [0, 1, 2])
    def test_rounded_values_are_no_copies(self, decimals):
        rng = np.random.default_rng(3)
        for _ in range(30):
            value = np.round(2 * rng.random((30, 5)), decimals) + 1
            assert not [f for f in _copies(Measured(self.days, value)) if f["p"] < 1e-3]

    def test_patients_who_are_all_alike_are_no_copies(self):
        assert not _copies(Measured(self.days, np.ones((4, 5)) * np.arange(1, 6)))

    @pytest.mark.parametrize("copies", [2, 3, 6, 10])
    @pytest.mark.parametrize("patients", [1, 2, 8])
    def test_are_told_where_many_are_in_the_data_several_times(self, copies, patients):
        value = np.exp(np.random.default_rng(0).standard_normal((8, 5)))
        value = np.concatenate([value, *[value[:patients]] * (copies - 1)])
        found = _copies(Measured(self.days, value))
        assert len(found) == patients * copies * (copies - 1) // 2
        assert found[-1]["p"] < 1e-3


class TestLeftOut:
    """Samples that are missing where levels are low."""

    days = np.array([1, 3, 7, 14, 28])

    def found(self, seed, limit=0.0, at_random=0.0, size=16):
        rng = np.random.default_rng(seed)
        curve = 3 + rng.standard_normal((size, 1)) - 0.1 * self.days
        bound = Measured(self.days, np.exp(curve + 0.3 * rng.standard_normal(curve.shape)))
        bound.individual.mask &= bound.individual.value > limit
        bound.individual.mask[:, 1:] &= rng.random((size, 4)) >= at_random
        return _left_out(bound, 0)

    def test_are_told_with_their_number(self):
        found = [self.found(seed, limit=4.0) for seed in range(20)]
        assert sum(bool(f) and f[0]["p"] < 1e-3 for f in found) >= 16
        (outlier,) = found[0]
        assert outlier["planned"] >= 15 * 4
        assert 10 < outlier["count"] < 40

    def test_are_no_more_frequent_by_chance_than_their_p_value(self):
        found = [f for seed in range(200) for f in self.found(seed, at_random=0.3)]
        assert len(found) > 180
        assert np.mean([f["p"] < 0.05 for f in found]) <= 0.09

    def test_complete_data_and_visit_windows_have_no_gap(self):
        assert not self.found(0)
        bound = Measured(self.days, np.ones((16, 5)))
        bound.individual.time = bound.individual.time + np.arange(16)[:, None] / 50
        assert not _left_out(bound, 0)


class TestUnrelated:
    """Curves that follow nothing of the levels: values and days that do not belong together."""

    days = np.array([1, 3, 7, 14, 28])

    def found(self, noise, seed=0, shuffle=False):
        rng = np.random.default_rng(seed)
        curve = 3 + rng.standard_normal((8, 1)) - 0.07 * self.days
        y = curve + noise * rng.standard_normal(curve.shape)
        value = rng.permuted(np.exp(y), axis=1) if shuffle else np.exp(y)
        if shuffle:  # the fit has found that there is no course
            curve = np.log(value).mean(1, keepdims=True) + 1e-3 * self.days
        return _unrelated(Measured(self.days, value), np.broadcast_to(curve, value.shape))

    @pytest.mark.parametrize("noise", [0.05, 0.5, 1.0])
    def test_a_noisy_course_is_one(self, noise):
        assert not [f for seed in range(20) for f in self.found(noise, seed)]

    def test_shuffled_values_are_notable(self):
        found = [self.found(0.3, seed, shuffle=True) for seed in range(20)]
        assert sum(map(bool, found)) >= 17

    def test_levels_that_do_not_change_are_no_shuffled_ones(self):
        assert not _unrelated(Measured(self.days, np.ones((8, 5))), np.zeros((8, 5)))


class TestColumns:
    """Columns of the patients table that a parameter goes with."""

    def found(self, seed, size=20, apart=0.0, slope=0.0, holes=0):
        rng = np.random.default_rng(seed)
        arm, kg = np.arange(size) % 2, 40 + 40 * rng.random(size)
        data = decaying(patients=size, cohorts=1)
        table = pd.DataFrame({"patient": data.patients["patient"], "cohort": "a"})
        table = table.assign(arm=np.array(["a", "b"])[arm], kg=kg, site=range(size))
        table.loc[: holes - 1, ["arm", "kg"]] = None
        table["name"] = [f"x{i}" for i in range(size)]
        frames = {k: getattr(data, k) for k in ("doses", "observations")}
        bound = POP.bind(ck.Dataset.from_frames(table, **frames))
        effect = apart * arm + slope * kg + 0.5 * rng.standard_normal(size)
        return {f["column"]: f for f in _columns(bound, {"base": effect})}

    def test_words_and_numbers_are_told_with_their_side(self):
        arm = self.found(0, apart=2.0)["arm"]
        assert arm["p"] < 1e-3
        assert arm["ends"] == ["b", "a"]
        assert 5 < arm["ratio"] < 11
        assert self.found(0, slope=-0.05)["kg"]["ratio"] < 0.6

    def test_a_patient_without_the_covariate_is_left_out_and_names_are_no_groups(self):
        found = self.found(1, apart=2.0, holes=4)
        assert found["arm"]["p"] < 1e-3
        assert "name" not in found

    @pytest.mark.slow
    def test_are_no_more_frequent_by_chance_than_their_p_values(self):
        p = [f["p"] for seed in range(100) for f in self.found(seed).values()]
        assert np.mean(np.array(p) < 0.15) <= 0.09  # three columns, corrected for three

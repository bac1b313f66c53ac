"""Ten ways in which a fit goes wrong, what carpk says to each, and that it says it of no other.

Every way is data or a model with one fault, beside a control without it. Those with a fault that
`docs/when_a_fit_goes_wrong.md` shows are run there, by `tests/test_docs.py`; here are the others,
and the controls.
"""

import dataclasses
import re
from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from hierarchies import LINEAR, PRIORS, decaying

import carpk as ck

pytestmark = pytest.mark.slow

QUIET = {"method": "laplace", "progress": False}
POP = ck.Population(LINEAR, varies=["base"], priors=PRIORS)
ARMS = dataclasses.replace(
    POP,
    covariates={"base": ["cohort"]},
    priors=PRIORS | {"beta_base_cohort": dist.Normal(0.0, 2.0)},
)


# --- models and data ------------------------------------------------------------------------------


class Entry(ck.Params):
    volume: ck.Scalar = ck.param(1.0, "L", "volume", "assumed", prior_sd=1.5)
    clearance: ck.Scalar = ck.param(0.2, "L/day", "clearance", "assumed")
    k_in: ck.Scalar = ck.param(0.3, "1/day", "rate of entry", "assumed")


class Phases(ck.Params):
    a: ck.Scalar = ck.param(30.0, "cells/µL", "level on day 0 of one phase", "assumed")
    b: ck.Scalar = ck.param(30.0, "cells/µL", "level on day 0 of the other", "assumed")
    k_a: ck.Scalar = ck.param(0.1, "1/day", "loss rate of the one", "assumed")
    k_b: ck.Scalar = ck.param(0.1, "1/day", "loss rate of the other", "assumed")


class Seen(ck.Params):
    cells: ck.Scalar = ck.param(10.0, "cells/µL", "cells on day 0", "assumed")
    share: ck.Scalar = ck.param(1.0, "1", "share that the assay sees", "assumed")
    halve: ck.Scalar = ck.param(10.0, "day", "half-life", "assumed")


class Late(ck.Params):
    base: ck.Scalar = ck.param(10.0, "cells/µL", "level on day 0", "assumed")
    last: ck.Scalar = ck.param(40.0, "day", "day of the last cell", "assumed", prior_sd=0.3)


def entry(t, p):
    """One compartment with first-order entry: rates of entry and loss may change places."""
    k_out = p.clearance / p.volume
    apart = jnp.where(jnp.abs(p.k_in - k_out) < 1e-6, 1e-6, p.k_in - k_out)
    return 30 * p.k_in / (p.volume * apart) * (jnp.exp(-k_out * t) - jnp.exp(-p.k_in * t))


def closed(name, params, level):
    return ck.ClosedForm(
        name=name, params=params, outputs={"car_t": level}, units={"car_t": "cells/µL"}
    )


ENTRY = closed("entry", Entry, entry)
PHASES = closed(
    "phases", Phases, lambda t, p: p.a * jnp.exp(-p.k_a * t) + p.b * jnp.exp(-p.k_b * t)
)
SEEN = closed("seen", Seen, lambda t, p: p.cells * p.share * jnp.exp(-jnp.log(2) * t / p.halve))
LATE = closed("late", Late, lambda t, p: p.base * jnp.sqrt(1 - t / p.last))
LONG = (1.0, 2.0, 4.0, 7.0, 14.0, 21.0, 28.0, 42.0, 60.0)
SHORT = (1.0, 3.0, 7.0, 14.0, 28.0)
RATES = {"k_a": 0.3, "k_b": 0.02}
FIXED = {"N0": 6.0, "B0": 94.86, "rhoC": 0.0251, "a": 0.423, "kB": 4.05, "gammaB": 1.15}
FIXED |= {"rB": 0.19, "KN": 500.0, "b": 0.525}  # of kimmel2021


def curves(model, truth, varies, days, residual=0.2, patients=8):
    """Simulated patients of a closed form, one of whose parameters varies with an SD of 0.3."""
    rng = np.random.default_rng(0)
    names = [f"p{i}" for i in range(patients)]
    rows = []
    for name in names:
        p = model.params(**truth)
        own = float(getattr(p, varies)) * np.exp(0.3 * rng.standard_normal())
        f = np.asarray(model.level("car_t", jnp.array(days), p.replace(**{varies: own})))
        y = f * np.exp(residual * rng.standard_normal(len(days)))
        rows += [(name, t, "car_t", v, "cells/µL", 0) for t, v in zip(days, y, strict=True)]
    return frames(rows, names)


def frames(rows, names, amount=1e8):
    columns = ["patient", "time", "analyte", "value", "unit", "censored"]
    doses = {"patient": names, "time": 0.0, "product": "car_t", "amount": amount}
    return ck.Dataset.from_frames(
        patients=pd.DataFrame({"patient": names}),
        doses=pd.DataFrame(doses | {"unit": "cells", "duration": 0.0}),
        observations=pd.DataFrame(rows, columns=columns),
        name="simulated",
    )


def changed(data, where=slice(None), **columns):
    """The same data with columns of some observations replaced."""
    table = data.observations.copy()
    for name, value in columns.items():
        table.loc[where, name] = value(table) if callable(value) else value
    return dataclasses.replace(data, observations=table)


def of(data, patient):
    return data.observations["patient"] == patient


def below(data):
    return data.observations["censored"] == 1


def arms(effect):
    """20 patients in two cohorts that differ by `effect` on the log scale."""
    data = decaying(patients=20)
    cohort = data.observations["patient"].map(data.patients.set_index("patient")["cohort"])
    return changed(data, cohort == "c1", value=lambda t: t["value"] * np.exp(effect - 0.8))


def swapped(data, patients):
    """The same data with these patients labelled as if they were of the other cohort."""
    other = data.patients["cohort"].map({"c0": "c1", "c1": "c0"})
    cohort = data.patients["cohort"].where(~data.patients["patient"].isin(patients), other)
    return dataclasses.replace(data, patients=data.patients.assign(cohort=cohort))


# --- what is said ---------------------------------------------------------------------------------


FEW = '"laplace" takes the population parameters'  # any fit of few patients says so


def said(fit):
    return "\n".join(f.text for f in fit.verdict.findings)


def clean(fit, *, censored=False):
    """Ok, and nothing to say but what is said of any such fit."""
    usual = ["partial centring", FEW] + ["M3 likelihood"] * censored
    notes = [n for n in fit.verdict.notes if not any(words in n for words in usual)]
    assert fit.verdict.grade == "OK", fit.verdict
    assert not notes, fit.verdict


@cache
def control(lloq=0.0):
    """A fit without a fault, of 12 patients."""
    return ck.fit(POP, sound(lloq), **QUIET)


@cache
def sound(lloq=0.0):
    return decaying(patients=12, cohorts=1, lloq=lloq)


# --- the ten ways ---------------------------------------------------------------------------------


class TestTwoModes:
    """1. Entry faster than loss, or loss faster than entry: both fit, with different volumes."""

    DATA = curves(ENTRY, {"volume": 1.0, "clearance": 0.1, "k_in": 1.0}, "clearance", LONG)
    POP = ck.Population(ENTRY)
    KNOWN = ck.Population(ENTRY, priors={"volume": dist.LogNormal(0.0, 0.3)})

    def test_chains_are_said_to_stay_at_different_modes(self):
        fit = ck.fit(self.POP, self.DATA, draws=150, tune=200, seed=1, progress=False)
        assert fit.verdict.grade == "DO NOT TRUST"
        assert "2 modes" in said(fit)
        assert "medians by chain" in said(fit)
        assert "no number of draws mends" in said(fit)
        assert "next to nothing" not in said(fit)  # what lies between two modes is no spread

    def test_a_prior_settles_it(self):
        clean(ck.fit(self.KNOWN, self.DATA, **QUIET))


class TestUnidentified:
    """2. Only a product of two parameters is seen; or nothing of one of them."""

    DATA = curves(SEEN, {}, "cells", SHORT)
    POP = ck.Population(SEEN, varies=["cells"])

    def test_a_parameter_without_information_is_named(self):
        early = changed(self.DATA)
        table = early.observations
        early = dataclasses.replace(early, observations=table[table["time"] == 1.0])
        fit = ck.fit(dataclasses.replace(self.POP, fixed={"share": 1.0}), early, **QUIET)
        assert re.search(r"next to nothing about .*halve", said(fit))

    def test_one_of_them_fixed_leaves_nothing_to_say(self):
        clean(ck.fit(dataclasses.replace(self.POP, fixed={"share": 1.0}), self.DATA, **QUIET))


class TestLimits:
    """3. Limits of quantification that are not those of the values."""

    DATA = sound(3.0)

    def test_a_limit_above_values_in_every_row_is_refused(self):
        observations = self.DATA.observations.assign(lloq=30.0)
        with pytest.raises(ck.DatasetError, match="below its LLOQ"):
            ck.Dataset.from_frames(self.DATA.patients, self.DATA.doses, observations)

    def test_half_the_limit_in_place_of_values_repeats(self):
        filled = changed(self.DATA, below(self.DATA), value=1.5, censored=0)
        fit = ck.fit(POP, changed(filled, lloq=np.nan), **QUIET)
        assert fit.verdict.grade == "OK, BUT"
        assert "values of car_t are exactly 1.5, the lowest of all" in said(fit)
        assert "censored = 1" in said(fit)

    def test_the_right_limit_leaves_nothing_to_say(self):
        clean(control(3.0), censored=True)


class TestUnits:
    """4. A thousand times too high, all or one patient."""

    def test_of_two_patients_names_both(self):
        """Each widens the spread in which the other could hide."""
        both = of(sound(), "p3") | of(sound(), "p8")
        fit = ck.fit(POP, changed(sound(), both, value=lambda t: 1000 * t["value"]), **QUIET)
        assert fit.verdict.grade == "DO NOT TRUST"
        assert {"p3", "p8"} <= set(re.findall(r"p\d+", said(fit)))

    def test_the_right_unit_leaves_nothing_to_say(self):
        clean(control())


class TestSwapped:
    """6. Patients with the label of the other arm."""

    def test_cannot_be_told_where_the_arms_overlap(self):
        """Arms 0.8 apart, patients spread by 0.5: the effect shrinks, and nothing says why."""
        fit, right = (
            ck.fit(ARMS, data, **QUIET)
            for data in (swapped(arms(0.8), [f"p{i}" for i in range(6)]), arms(0.8))
        )
        clean(fit)
        clean(right)
        effects = [x.summary().loc["beta_base_cohort[c1]", "median"] for x in (fit, right)]
        assert effects[0] < 0.65 * effects[1]
        assert len(ck.checks.vpc(fit, by="cohort", replicates=100).outside) <= 3

    def test_arms_far_apart_leave_nothing_to_say(self):
        clean(ck.fit(ARMS, arms(3.2), **QUIET))


class TestFewDraws:
    """7. Too few draws: what is said of them is in tests/test_verdict.py."""

    def test_enough_are_enough(self):
        clean(ck.fit(POP, sound(), draws=1000, tune=500, progress=False))


class TestSolver:
    """8. A mesh that is too coarse for precise data; levels that do not exist."""

    MODEL = ck.load_model("kimmel2021")
    DAYS = np.array([1.0, 3.0, 7.0, 14.0, 28.0, 60.0])

    def test_the_default_mesh_does_not_change_the_posterior(self):
        rng, names, rows = np.random.default_rng(0), list("abcd"), []
        for name in names:
            p = self.MODEL.params(KC=139 * np.exp(0.3 * rng.standard_normal()))
            f = ck.solve(self.MODEL, ck.Regimen.cells(0, 1.8e8), self.DAYS, p)["car_t"]
            y = np.asarray(f) * np.exp(0.005 * rng.standard_normal(6))
            rows += [
                (name, t, "car_t", v, "cells/µL", 0) for t, v in zip(self.DAYS, y, strict=True)
            ]
        priors = {"sigma": dist.LogNormal(np.log(0.005), 0.3)}
        pop = ck.Population(self.MODEL, varies=["KC"], fixed=FIXED, priors=priors)
        clean(ck.fit(pop, frames(rows, names, 1.8e8), **QUIET))

    def test_patients_without_levels_are_named(self):
        data = curves(LATE, {"last": 28.3}, "base", SHORT, residual=1.0)
        fit = ck.fit(ck.Population(LATE, varies=["base"]), data, **QUIET)
        assert fit.verdict.grade == "DO NOT TRUST"
        assert "not finite in some draws (p0 in" in said(fit)
        assert "narrower priors" in said(fit)


class TestConflict:
    """9. A prior that the data contradict."""

    DATA = curves(LINEAR, {"base": 30.0}, "base", SHORT)

    def prior(self, median, sd):
        priors = {"base": dist.LogNormal(np.log(median), sd)}
        return ck.Population(LINEAR, varies=["base"], priors=priors)

    def test_without_random_effects_the_data_are_asked_alone(self):
        fit = ck.fit(
            dataclasses.replace(self.prior(10, 0.05), varies=[], fixed={"halve": 10.0}),
            self.DATA,
            **QUIET,
        )
        assert fit.verdict.grade == "OK, BUT"
        assert "observations of car_t lie above the fitted curves" in said(fit)

    @pytest.mark.parametrize(("median", "sd"), [(10.0, 1.0), (29.0, 0.05)])
    def test_a_prior_that_holds_leaves_nothing_to_say(self, median, sd):
        fit = ck.fit(self.prior(median, sd), self.DATA, **QUIET)
        assert fit.ok
        assert "disagree" not in said(fit)
        assert "typical value" not in said(fit)


class TestLabels:
    """10. Two phases that can change their names."""

    DATA = curves(PHASES, {"a": 50.0, "b": 5.0} | RATES, "a", LONG)

    def test_priors_that_do_not_overlap_leave_nothing_to_say(self):
        priors = {name: dist.LogNormal(np.log(x), 0.3) for name, x in RATES.items()}
        clean(ck.fit(ck.Population(PHASES, priors=priors), self.DATA, **QUIET))


# --- no false alarms ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_data_without_a_fault_give_no_trouble(seed):
    """Every second one with a limit of quantification and with arms."""
    odd = bool(seed % 2)
    data = decaying(patients=12, cohorts=1 + odd, lloq=3.0 * odd, seed=100 + seed)
    clean(ck.fit(ARMS if odd else POP, data, **QUIET), censored=odd)


def test_a_file_keeps_what_was_found(tmp_path):
    wrong = changed(sound(), of(sound(), "p3"), value=lambda t: 1000 * t["value"])
    fit = ck.fit(POP, wrong, **QUIET)
    back = ck.load_fit(fit.save(tmp_path / "fit.nc"), population=POP)
    assert back.verdict.grade == "DO NOT TRUST"
    assert str(back.verdict) == str(fit.verdict)

"""A comparison holds no noise of who was drawn, keeps what is uncertain apart from how patients
differ, and says what it rests on."""

import dataclasses
import math
import warnings

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xarray as xr

import carpk as ck
from carpk import comparison
from carpk._arviz import to_idata
from carpk.comparison import compare, published, virtual
from carpk.comparison.arms import ArmSpec
from carpk.comparison.caveats import about_arms
from carpk.verdict.judge import Verdict
from carpk.verdict.words import trouble

ONE = ck.Regimen.cells()
THREE = ck.Regimen.cells(day=[0, 42, 84])
DRAWS = 40
P_SD, Z_SD = 0.4, 0.3  # of ln A: between draws, between patients
A = np.exp(P_SD * scipy.stats.norm.ppf((np.arange(DRAWS) + 0.5) / DRAWS))


class Params(ck.Params):
    A: ck.Scalar = ck.param(1.0, "cells/µL", "height", "assumed", iiv=Z_SD)
    peak: ck.Scalar = ck.param(10.0, "day", "time of the peak", "made up", iiv=0.1)
    MORE: ck.Scalar = ck.covariate(0.0, "1", "how much height acts beside once", "made up")


def bump(t, p):
    """A^(1 + MORE) at the peak, and the dose on its way on the first day."""
    return p.A ** (1 + p.MORE) * (t / p.peak * jnp.exp(1 - t / p.peak)) ** 2 + 50 * jnp.exp(-9 * t)


TOY = ck.ClosedForm(
    name="toy", params=Params, outputs={"car_t": bump}, units={"car_t": "cells/µL"}, doc="A toy."
)
UNSURE = dataclasses.replace(TOY, calibration_draws=lambda: {"A": A})
ARMS = {"less": (ONE, {"MORE": 0.0}), "more": (ONE, {"MORE": 1.0})}


def row(result, outcome, arm, contrast="ratio"):
    return result.table.loc[(outcome, arm, contrast)]


def said(result, words):
    return [text for text in result.caveats if words in text]


# --- a fit whose posterior is known because nothing sampled it ------------------------------------


def two_cohorts(unit="cells/µL"):
    """Made-up published medians of two cohorts that differ in their conditioning."""
    facts = [
        (cohort, "level", day, "median", value, value / 2, 2 * value, "IQR", n)
        for cohort, n, values in (("a", 20, (20.0, 2.0)), ("b", 30, (40.0, 4.0)))
        for day, value in zip((7.0, 28.0), values, strict=True)
    ]
    names = ["cohort", "metric", "time", "statistic", "value", "low", "high", "interval", "n"]
    frame = pd.DataFrame(facts, columns=names)
    analyte = "transgene" if unit == "copies/µg" else "car_t"
    frame = frame.assign(analyte=analyte, unit=unit, lloq=0.5, use="fit", source="made up")
    cohorts = pd.DataFrame({"cohort": ["a", "b"], "conditioning": ["Flu/Cy", "Flu"]})
    return ck.Dataset.from_frames(summaries=frame, cohorts=cohorts, name="made up")


NORMAL = scipy.stats.norm.ppf((np.arange(200) + 0.5) / 200)
KNOWN = {"cmax": 40.0, "tmax": 8.0, "t_double": 0.8, "t_alpha": 5.0, "fb": 0.005}
KNOWN |= {"beta_alpha": 0.02, "omega_cmax": 0.9, "omega_cmax_infusion": 0.4, "sigma": 0.5}


def known_fit(effect_sd=0.0, tmax_sd=0.1, ok=True, unit="cells/µL"):
    """A fit with a conditioning effect on cmax: that of Flu/Cy is twice that of Flu."""
    data = two_cohorts(unit)
    population = ck.Population(
        ck.load_model("piecewise", output=data.analytes[0], unit=unit, cmax=50),
        varies={"cmax": ["patient", "infusion"]},
        covariates={"cmax": ["conditioning"]},
    )
    bound = population.bind(data)
    rng = np.random.default_rng(1)

    def group(spread):
        values = {}
        for name in bound.priors:
            z = rng.permutation(NORMAL).reshape(2, 100)
            if name.startswith("beta_cmax"):
                sd = 1.0 if spread else effect_sd
                values[name] = (("chain", "draw", "level"), (math.log(2) + sd * z)[..., None])
            else:
                sd = 1.0 if spread else {"tmax": tmax_sd}.get(name, 0.05)
                scale = bound.parameters[name].transform
                u = scale.forward(KNOWN[name]) + sd * z
                values[name] = (("chain", "draw"), np.asarray(scale.inverse(u)))
        return xr.Dataset(values)

    idata = to_idata({"posterior": group(False), "prior": group(True)})
    found = () if ok else (trouble("made up", "The draws are made up: sample them."),)
    settings = {"method": "nuts", "chains": 2, "draws": 100, "seed": 0}
    numbers = {"rhat_max": 1.0, "ess_min": 900.0, "divergences": 0.0, "ebfmi_min": 1.0}
    return ck.Fit(population, data, idata, Verdict(found, numbers), settings)


FLU = {"Flu": {"conditioning": "Flu"}, "Flu/Cy": {"conditioning": "Flu/Cy"}}


@pytest.fixture(scope="module")
def doubled():
    """A fit in which one conditioning doubles cmax, exactly, and its comparison."""
    fit = known_fit()
    assert fit.bound.covariates["conditioning"].reference == "Flu"
    return fit, compare(fit, FLU, patients=30, draws=20, seed=3)


class TestTheSamePatients:
    def test_an_effect_that_doubles_the_peak_doubles_it_in_every_patient_of_every_draw(
        self, doubled
    ):
        _, result = doubled
        ratio = result.data.sel(arm="Flu/Cy") / result.data.sel(arm="Flu")
        np.testing.assert_allclose(ratio["cmax"], 2.0, rtol=1e-12)
        np.testing.assert_allclose(ratio["auc0_28d"], 2.0, rtol=1e-12)
        np.testing.assert_array_equal(ratio["tmax"], 1.0)
        cmax = row(result, "cmax", "Flu/Cy")
        np.testing.assert_allclose(cmax[["estimate", "eti90_low", "eti90_high"]].tolist(), 2.0)
        np.testing.assert_allclose(cmax[["patient_low", "patient_high"]].tolist(), 2.0)
        assert cmax["p_above"] == cmax["patients_above"] == 1.0
        assert cmax["mc_se"] < 1e-12

    def test_an_arm_against_itself_is_exactly_one(self):
        result = compare(UNSURE, {"a": ONE, "b": ONE}, patients=20)
        for outcome in result.data:
            ratio = row(result, outcome, "b")
            width = ["estimate", "eti90_low", "eti90_high", "patient_low", "patient_high"]
            assert (ratio[width] == 1.0).all(), outcome
            assert ratio["p_above"] == ratio["patients_above"] == 0.5, outcome

    @pytest.mark.slow
    def test_they_are_the_same_however_many_infusions_they_get(self, doubled):
        fit, _ = doubled
        arms = {"one": ONE, "three": THREE, "two": ck.Regimen.cells([0, 42])}
        result = compare(fit, arms, ["cmax", "auc0_28d"], patients=20, draws=10)
        first = result.data.sel(arm="one")
        for arm in ("three", "two"):
            xr.testing.assert_allclose(result.data.sel(arm=arm).drop_vars("arm"),
                                       first.drop_vars("arm"), rtol=1e-12)  # fmt: skip
        second = compare(fit, {k: arms[k] for k in ("three", "two")}, ["cmax"], infusion=2,
                         patients=20, draws=10)  # fmt: skip
        np.testing.assert_array_equal(*second.data["cmax"].values)
        assert not np.isclose(second.data["cmax"][0], first["cmax"]).any()

    @pytest.mark.slow
    def test_outcomes_are_those_of_a_simulation_with_the_same_seed(self, doubled):
        """By numpy alone, from `simulate`."""
        fit, _ = doubled
        days = np.unique(np.r_[np.arange(0, 120, 0.5), 42.0])
        arms = {
            "once": (ONE, {"conditioning": "Flu"}),
            "again": (THREE, {"conditioning": "Flu/Cy"}),
        }
        result = compare(fit, arms, ["cmax", "tmax"], infusion={"again": 2}, days=days,
                         patients=25, draws=12, seed=6)  # fmt: skip
        peaks = {}
        for name, start in (("once", 0.0), ("again", 42.0)):
            regimen, covariates = arms[name]
            sim = ck.simulate(fit, regimen, days, patients=25, draws=12, seed=6,
                              covariates=covariates)  # fmt: skip
            window = sim["car_t"].sel(time=slice(start + 1, start + 41.5))
            peaks[name] = window.max("time").values, window.idxmax("time").values - start
        x = np.log(peaks["again"][0] / peaks["once"][0])
        cmax = row(result, "cmax", "again")
        m = np.exp(x.mean(axis=1))
        assert cmax["estimate"] == pytest.approx(np.median(m), rel=1e-9)
        assert cmax["eti90_low"] == pytest.approx(np.quantile(m, 0.05), rel=1e-9)
        low = np.exp(np.quantile(x, 0.05, axis=1).mean())
        assert cmax["patient_low"] == pytest.approx(low, rel=1e-9)
        assert cmax["patients_above"] == pytest.approx((x > 0).mean())
        within = x.var(axis=1, ddof=1)
        assert cmax["mc_se"] == pytest.approx(math.sqrt(within.mean() / 25), rel=1e-9)
        days_later = peaks["again"][1] - peaks["once"][1]
        tmax = row(result, "tmax", "again", "difference")
        assert tmax["estimate"] == pytest.approx(np.median(days_later.mean(axis=1)))
        assert result.by_arm.loc[("cmax", "again"), "center"] == pytest.approx(
            np.median(np.exp(np.log(peaks["again"][0]).mean(axis=1))), rel=1e-9
        )


@pytest.fixture(scope="module")
def spread():
    return compare(UNSURE, ARMS, ["cmax"], patients=800, seed=1)


@pytest.mark.slow
class TestWhatIsUncertainAndHowPatientsDiffer:
    """ln of the ratio of peaks is ln A: P_SD between draws, Z_SD between patients, exactly."""

    def test_the_interval_is_that_of_the_parameters(self, spread):
        cmax = row(spread, "cmax", "more")
        half = 1.645 * P_SD
        assert math.log(cmax["eti90_low"]) == pytest.approx(-half, abs=0.06)
        assert math.log(cmax["eti90_high"]) == pytest.approx(half, abs=0.06)
        assert cmax["p_above"] == pytest.approx(0.5, abs=0.05)
        assert cmax["estimate"] == pytest.approx(1.0, abs=0.02)

    def test_the_range_is_that_of_the_patients(self, spread):
        cmax = row(spread, "cmax", "more")
        assert math.log(cmax["patient_low"]) == pytest.approx(-1.645 * Z_SD, abs=0.02)
        assert math.log(cmax["patient_high"]) == pytest.approx(1.645 * Z_SD, abs=0.02)

    def test_the_shares_of_the_variance_are_theirs(self, spread):
        share = row(spread, "cmax", "more")["share_parameters"]
        assert share == pytest.approx(P_SD**2 / (P_SD**2 + Z_SD**2), abs=0.04)
        assert row(spread, "cmax", "more")["mc_se"] == pytest.approx(Z_SD / 800**0.5, rel=0.03)

    @pytest.mark.slow
    def test_few_virtual_patients_do_not_count_as_parameters(self):
        """Without uncertainty of A, four patients leave noise in the means, and no share."""
        sure = dataclasses.replace(TOY, calibration_draws=lambda: {"A": np.ones(400)})
        result = compare(sure, ARMS, ["cmax"], patients=4, draws=400)
        assert row(result, "cmax", "more")["share_parameters"] < 0.05
        assert said(result, "widened by the number of virtual patients")
        more = compare(UNSURE, ARMS, ["cmax"], patients=200)
        assert not said(more, "widened by the number of virtual patients")

    def test_without_a_posterior_there_is_no_interval_and_the_first_line_says_so(self):
        result = compare(TOY, ARMS, patients=20)
        assert math.isnan(row(result, "cmax", "more")["eti90_low"])
        assert math.isnan(row(result, "cmax", "more")["p_above"])
        assert "Parameter uncertainty is NOT included" in repr(result).split("Comparison:")[0]
        assert said(result, "'toy' has no posterior")
        assert said(result, "Assumed values: A.")

    @pytest.mark.slow
    def test_the_noise_of_few_virtual_patients_is_said_where_it_is_all_there_is(self):
        """The standard error of ln ratio is Z_SD / sqrt(patients): 15 % with 4, 1 % with 900."""
        assert said(compare(TOY, ARMS, ["cmax"], patients=4), "leaves a standard error")
        assert not said(compare(TOY, ARMS, ["cmax"], patients=900), "leaves a standard error")

    @pytest.mark.slow
    def test_memory_is_bounded_and_the_answer_does_not_depend_on_it(self, monkeypatch):
        whole = compare(UNSURE, ARMS, patients=10, draws=40)
        monkeypatch.setattr(virtual, "BLOCK", 10 * 200 * 5)
        parts = compare(UNSURE, ARMS, patients=10, draws=40)
        xr.testing.assert_allclose(whole.data, parts.data, rtol=1e-12)
        xr.testing.assert_allclose(whole.curves, parts.curves, rtol=1e-12)


class TestOutcomes:
    def test_a_dose_on_its_way_is_no_peak(self):
        result = compare(TOY, {"a": ONE, "b": THREE}, [ck.nca.cmax, "tmax"], patients=5)
        sim = ck.simulate(TOY, ONE, np.arange(0, 40, 0.25), patients=5)
        highest = sim["car_t"].sel(time=slice(1, None)).max("time").values
        np.testing.assert_allclose(result.data["cmax"].sel(arm="a"), highest, rtol=1e-9)
        after = compare(TOY, {"a": ONE, "b": THREE}, ["cmax"], infusion=None, patients=5)
        assert (after.data["cmax"] < 10).all(), "nor is a later one"

    def test_areas_and_levels_are_those_of_the_curve(self):
        result = compare(TOY, ARMS, [ck.nca.auc_to(28), "auc0_28d", "level_20d"], patients=2)
        sim = ck.simulate(TOY, ONE, np.linspace(0, 28, 2801), patients=2, after=True)
        area = [float(ck.nca.auc(sim["time"].values, c)) for c in sim["car_t"].values[0]]
        np.testing.assert_allclose(result.data["auc_to_28"].sel(arm="less")[0], area, rtol=0.02)
        np.testing.assert_array_equal(result.data["auc_to_28"], result.data["auc0_28d"])
        assert result.data["auc_to_28"].attrs["units"] == "day*cells/µL"
        at = sim["car_t"].sel(time=20.0, method="nearest")
        np.testing.assert_allclose(result.data["level_20d"].sel(arm="less"), at, rtol=1e-4)

    def test_persistence_and_detection_are_differences_from_the_limit_on(self):
        result = compare(
            TOY, ARMS, ["persistence", "detectable_30d"], lloq=0.5, patients=50, seed=2
        )
        sim = ck.simulate(TOY, ONE, np.linspace(0, 90, 9001), patients=50, seed=2)["car_t"].values
        above = (sim >= 0.5).mean(axis=-1) * 90
        np.testing.assert_allclose(result.data["persistence"].sel(arm="less"), above, atol=0.1)
        detected = row(result, "detectable_30d", "more", "difference")
        x = result.data["detectable_30d"]
        assert detected["estimate"] == pytest.approx(float((x[1] - x[0]).mean()))
        assert ("detectable_30d", "more", "ratio") not in result.table.index

    def test_all_arms_are_followed_equally_long(self):
        result = compare(TOY, {"a": ONE, "b": THREE}, {"last": ck.nca.tlast}, patients=2)
        np.testing.assert_allclose(result.data["last"], 42.0)
        assert "42 days from the infusion" in result.basis
        longer = compare(TOY, {"a": ONE, "b": THREE}, {"last": ck.nca.tlast}, patients=2,
                         infusion=None)  # fmt: skip
        np.testing.assert_allclose(longer.data["last"], 174.0)

    def test_a_function_of_ones_own_is_as_good_as_a_name(self):
        result = compare(TOY, ARMS, {"tail": lambda t, c: c[-1]}, patients=3)
        np.testing.assert_allclose(
            result.data["tail"], compare(TOY, ARMS, ["level_90d"], patients=3).data["level_90d"]
        )

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"arms": {"a": ONE}}, "there is 1 arm, but a comparison needs two"),
            ({"arms": {"a": ONE, "b": "Flu"}}, "the arm 'b' must be a Regimen"),
            ({"reference": "c"}, "the reference 'c' is not an arm; arms are less, more"),
            ({"outcomes": ["peak"]}, "the outcome 'peak' is unknown; names are cmax"),
            ({"outcomes": ["level"]}, "the outcome 'level' is unknown"),
            ({"outcomes": ["auc0_100d"]}, "needs 100 days .* can be compared over 90"),
            ({"outcomes": ["persistence"]}, r"needs the limit of quantification .*: lloq="),
            ({"outcomes": ["tumor_nadir"]}, "has no output 'tumor'"),
            ({"outcomes": [3]}, "must be a function .* or a name, but is 3"),
            ({"outcomes": []}, "there is no outcome"),
            ({"outcomes": {"f": lambda t, c: float(c[0])}}, "write it with jax.numpy"),
            ({"outcomes": {"f": lambda t, c: c}}, "must give one number per curve"),
            ({"outcomes": {"f": lambda t, c: jnp.nan}}, "'f' is defined for no patient"),
            ({"infusion": 2}, r"has 1 infusion\(s\), but infusion 2 is"),
            ({"output": "alc"}, "has no output 'alc'"),
            ({"days": [0.0, 0.5]}, "only 0.5 days after the infusion can be compared"),
            ({"days": [3.0, 1.0]}, "must be ascending times"),
            ({"patients": 1}, "must be at least 2"),
            ({"draws": 10}, "need a fit, or a structural model with a posterior"),
        ],
    )
    def test_what_cannot_be_compared_is_refused_with_advice(self, arguments, words):
        with pytest.raises(ck.CarpkError, match=words):
            compare(TOY, **({"arms": ARMS, "patients": 2} | arguments))


# --- differential equations -----------------------------------------------------------------------


class Growth(ck.Params):
    r: ck.Scalar = ck.param(0.1, "1/day", "loss rate", "made up", iiv=0.2)


class Cells(ck.States):
    C: ck.Scalar = ck.state("cells/µL", "cells", 1.0)
    B: ck.Scalar = ck.state("mL", "tumor", 100.0, log=True)


GROWTH = ck.ODEModel(
    name="growth",
    params=Growth,
    states=Cells,
    vector_field=lambda t, y, p: Cells(C=-p.r * y.C, B=y.B * (0.05 - 0.04 * y.C)),
    targets={"car_t": ck.Target("C", scale=lambda p: 1e-7)},
    outputs={
        "car_t": lambda t, y, p: y.C,
        "tumor": lambda t, y, p: y.B,
        "transgene": lambda t, y, p: 30 * y.C,
    },
    units={"car_t": "cells/µL", "tumor": "mL", "transgene": "copies/µg"},
    one_cell={"tumor": 1e-9},
)
DAYS = np.linspace(0, 40, 41)
DOSE = ck.Regimen.cells(0, 1e8)


class TestEquations:
    @pytest.mark.slow
    def test_the_nadir_stops_at_one_cell_and_says_so(self):
        """B' = B (0.05 - 0.04 C): ten times the cells take the tumor below one cell."""
        result = compare(GROWTH, {"1": DOSE, "10": ck.Regimen.cells(0, 1e9)}, days=DAYS, patients=4)
        nadir = result.data["tumor_nadir"]
        np.testing.assert_allclose(nadir.sel(arm="10"), 1e-9 / 100, rtol=1e-6)
        assert (nadir.sel(arm="1") > 1e-8).all()
        assert said(result, "less than one cell is left at some time in some patients (0% under '1")
        assert not said(result, "no solution")
        assert "left_out" not in repr(result)

    def test_lymphodepletion_and_copies_per_ug_are_warned_of_and_cells_are_not(self):
        fewer = ck.Regimen((ck.Multiply(-1, 0.5, "B"),))
        arms = {"none": ArmSpec(DOSE, {}), "some": ArmSpec(fewer + DOSE, {})}
        with pytest.warns(ck.CarpkWarning, match="may be leukopenia"):
            (text,) = about_arms(GROWTH, arms, "none", "transgene")
        assert "may be leukopenia" in text
        same = {"1": arms["some"], "2": ArmSpec(fewer + ck.Regimen.cells(0, 2e8), {})}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not list(about_arms(GROWTH, arms, "none", "car_t"))
            assert not list(about_arms(GROWTH, same, "1", "transgene"))
            modelled = dataclasses.replace(
                GROWTH,
                outputs={**GROWTH.outputs, "anc": lambda t, y, p: 3.0},
                units={**GROWTH.units, "anc": "1e9/L"},
            )
            (text,) = about_arms(modelled, arms, "none", "transgene")
        assert "over the leukocytes that the model predicts" in text

    def test_arms_without_cells_are_refused(self):
        drug = ck.Regimen((ck.Multiply(-1, 0.5, "B"),))
        with pytest.raises(ck.RegimenError, match="the arm 'none' has no infusion of cells"):
            compare(GROWTH, {"cells": DOSE, "none": drug})

    def test_equations_need_to_know_what_is_given(self):
        with pytest.raises(ck.RegimenError, match="covariates only, but 'growth' needs to know"):
            compare(GROWTH, {"a": {}, "b": DOSE}, patients=2)


# --- caveats --------------------------------------------------------------------------------------


class TestCaveats:
    def test_a_covariate_of_a_fit_was_not_randomized(self, doubled):
        fit, result = doubled
        assert said(result, "Not randomized: the effect of conditioning is that between")
        same = compare(fit, {"1": ONE, "3": THREE}, ["cmax"], patients=3, draws=5)
        assert not said(same, "Not randomized")

    def test_an_effect_as_wide_as_its_prior_is_the_priors_answer(self, doubled):
        words = "The prior drove the answer: the effect of conditioning (Flu/Cy) on cmax"
        vague = known_fit(effect_sd=1.0)
        assert said(compare(vague, FLU, ["cmax"], patients=3), words)
        assert not said(doubled[1], "The prior drove")
        same = compare(vague, {"1": ONE, "3": THREE}, ["cmax"], patients=3)
        assert not said(same, words), "it is the same in both arms"

    @pytest.mark.slow
    def test_a_parameter_without_data_is_named_where_the_contrast_depends_on_it(self):
        """How much of a second infusion is there on day 30 depends on tmax."""
        vague = known_fit(tmax_sd=1.0)
        arms = {"once": ONE, "twice": ck.Regimen.cells([0, 20])}
        result = compare(vague, arms, ["level_30d"], infusion=None, patients=30, draws=150)
        assert said(result, "the data say next to nothing about tmax")
        assert not said(compare(vague, FLU, ["cmax"], patients=30), "next to nothing about")
        sharp = compare(known_fit(), arms, ["level_30d"], infusion=None, patients=30, draws=150)
        assert not said(sharp, "next to nothing about")

    def test_a_dose_without_an_effect_is_no_finding(self):
        words = "'toy' is a closed form, whose curves do not follow the number of cells"
        ten = ck.Regimen.cells(0, 10 * ONE.infusions[0].amount)
        arms = {"one": (ONE, {"MORE": 0.0}), "ten": (ten, {"MORE": 0.0})}
        result = compare(TOY, arms, ["cmax"], patients=2)
        assert said(result, words.replace("toy", TOY.name))
        assert not said(compare(TOY, ARMS, ["cmax"], patients=2), "follow the number of cells")

    def test_a_fit_in_doubt_is_the_first_thing_said(self, doubled):
        result = compare(known_fit(ok=False), FLU, ["cmax"], patients=3, draws=5)
        assert repr(result).startswith("DO NOT TRUST the fit behind this")
        assert said(result, "The fit cannot be trusted: The draws are made up: sample them.")
        assert repr(doubled[1]).startswith("cmax of Flu/Cy against Flu: x 2 (90 % credible")

    def test_what_was_not_fitted_is_extrapolation(self, doubled):
        fit, result = doubled
        assert said(result, "the data end on day 28, the comparison 90 days after")
        assert not said(result, "infusions, but no patient")
        three = compare(fit, {"1": ONE, "3": THREE}, ["cmax"], patients=3, draws=5, days=DAYS)
        assert said(three, "'3' has 3 infusions, but no patient behind the fit had more than 1")
        early = compare(fit, FLU, ["cmax"], patients=3, draws=5, days=np.linspace(0, 28, 29))
        assert not said(early, "Extrapolation")

    def test_doses_of_different_definition_are_named(self):
        per_m2, per_kg = (ck.Regimen.cells(0, 1e6, per=per) for per in ("m2", "kg"))
        result = compare(TOY, {"a": per_m2, "b": per_kg}, ["cmax"], patients=2)
        assert said(result, "(a: car_t in cells/m2; b: car_t in cells/kg)")
        more = ck.Regimen.cells(0, 2e6, per="kg")
        assert not said(compare(TOY, {"a": more, "b": per_kg}, ["cmax"], patients=2), "defined")

    def test_drugs_that_a_closed_form_does_not_feel_are_no_finding(self):
        both = ck.Regimen.lymphodepletion("Flu/Cy") + ONE
        with pytest.warns(ck.CarpkWarning, match="have no effect"):
            result = compare(TOY, {"a": ONE, "b": both}, ["cmax"], patients=2)
        assert said(result, "a contrast of 1 is no finding")
        assert not said(compare(TOY, ARMS, ["cmax"], patients=2), "no finding")

    def test_parameters_that_a_posterior_leaves_out_are_named(self):
        result = compare(UNSURE, ARMS, ["cmax"], patients=20)
        assert said(result, "Of 2 parameters 1 are uncertain here; taken as known: peak.")
        assert not said(result, "has no posterior")

    def test_a_model_without_spread_says_that_all_patients_are_one(self):
        same = compare(ck.load_model("ogasawara2021"), {"1": ONE, "3": THREE}, patients=2)
        assert said(same, "every virtual patient is the typical one")
        assert not said(compare(TOY, ARMS, patients=2), "the typical one")

    def test_a_fit_in_copies_warns_of_the_denominator_when_conditioning_differs(self):
        with pytest.warns(ck.CarpkWarning, match="may be leukopenia"):
            compare(known_fit(unit="copies/µg"), FLU, ["cmax"], patients=3, draws=5)

    def test_an_outcome_that_some_patients_lack_is_counted(self):
        some = {"late": lambda t, c: jnp.where(jnp.interp(30, t, c) > 0.2, c[-1], jnp.nan)}
        result = compare(TOY, ARMS, some, patients=200, seed=1)
        left = int(row(result, "late", "more")["left_out"])
        assert 0 < left < 200
        assert said(result, f"late is not defined for {left} of 200 virtual patients")
        arms = ARMS | {"other": (ONE, {"MORE": -2.0})}
        three = compare(TOY, arms, some, patients=200, seed=1).table["left_out"]
        assert (three == three.iloc[0]).all(), "who lacks it in one arm is left out of all"
        assert three.iloc[0] > left

    def test_it_is_never_a_tool_for_clinical_decisions(self, doubled):
        assert "not a tool for clinical decisions" in doubled[1].caveats[-1]


# --- published cohorts ----------------------------------------------------------------------------


def fact(statistic, value, n, interval="", low=math.nan, high=math.nan, spread=math.nan, **more):
    base = {"statistic": statistic, "value": value, "n": n, "interval": interval, "low": low}
    return base | {"high": high, "spread": spread, "lloq": math.nan, "use": "fit"} | more


def drawn(row, draws=20_000, seed=0):
    return published.population_value(row, draws, np.random.default_rng(seed))


class TestPublished:
    def test_a_geometric_mean_has_the_t_distribution_of_its_log(self):
        cv = 80.0
        x = np.log(drawn(fact("geometric mean", 100.0, 6, "CV%", spread=cv)) / 100)
        sd = math.sqrt(math.log1p(0.8**2))
        p = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
        exact = scipy.stats.t(5).ppf(p) * sd / math.sqrt(6)
        np.testing.assert_allclose(np.quantile(x, p), exact, atol=0.02)

    @pytest.mark.parametrize(
        ("row", "sd"),
        [  # large samples: sigma sqrt(pi / 2 n); CV / sqrt(n)
            (fact("median", 9.0, 900, "IQR", 9 * math.exp(-0.6745), 9 * math.exp(0.6745)),
             math.sqrt(math.pi / 1800)),
            (fact("median", 9.0, 900, "IQR", 0.1, 9 * math.exp(0.6745), lloq=1.0),
             math.sqrt(math.pi / 1800)),
            (fact("mean", 9.0, 900, "SD", spread=4.5), 0.5 / 30),
            (fact("mean", 9.0, 900, "CV%", spread=50.0), 0.5 / 30),
        ],
    )  # fmt: skip
    def test_large_cohorts_have_the_standard_error_of_the_textbook(self, row, sd):
        x = np.log(drawn(row, 4000) / 9)
        assert x.std() == pytest.approx(sd, rel=0.06)
        assert np.median(x) == pytest.approx(0.0, abs=0.003)

    @pytest.mark.parametrize("interval", ["IQR", "range", "CV%", "SD"])
    def test_intervals_of_small_cohorts_hold_the_truth_as_often_as_they_say(self, interval):
        """Eight log-normal patients, sigma 1, 600 times over; 90 % within 4 standard errors."""
        rng = np.random.default_rng(11)
        hits = 0
        for z in rng.standard_normal((600, 8)):
            y = np.exp(z)
            if interval in ("IQR", "range"):
                ends = np.quantile(y, [0.25, 0.75] if interval == "IQR" else [0, 1])
                row, truth = fact("median", np.median(y), 8, interval, *ends), 1.0
            elif interval == "CV%":
                cv = 100 * math.sqrt(math.expm1(z.var(ddof=1)))
                row, truth = fact("geometric mean", np.exp(z.mean()), 8, "CV%", spread=cv), 1.0
            else:
                row = fact("mean", y.mean(), 8, "SD", spread=y.std(ddof=1))
                truth = math.exp(0.5)
            x = published.population_value(row, 200, rng)
            low, high = np.quantile(x, [0.05, 0.95])
            hits += low < truth < high
        assert hits / 600 == pytest.approx(0.9, abs=0.05)

    def test_counts_are_binomial_with_a_flat_prior(self):
        x = drawn(fact("count", 7, 9))
        np.testing.assert_allclose(
            np.quantile(x, [0.05, 0.5, 0.95]),
            scipy.stats.beta(8, 3).ppf([0.05, 0.5, 0.95]),
            atol=0.01,
        )

    def test_a_value_alone_has_no_interval(self):
        for row in (fact("median", 9.0, 9), fact("median", 9, 9, "IQR", 4, 16, use="value")):
            assert drawn(row) is None

    def test_the_ratio_of_two_cohorts_has_the_interval_of_two_log_normals(self):
        """Welch: nearly exact for cohorts of this size."""
        rows = []
        for cohort, mean, n, cv in (("a", 10.0, 40, 60.0), ("b", 15.0, 30, 90.0)):
            one = fact("geometric mean", mean, n, "CV%", spread=cv)
            rows.append(one | {"cohort": cohort, "analyte": "car_t", "metric": "cmax"})
        frame = pd.DataFrame(rows).assign(time=math.nan, unit="cells/µL", source="made up")
        data = ck.Dataset.from_frames(summaries=frame, name="made up")
        result = compare(data, {"A": "a", "B": "b"}, draws=20_000)
        cmax = row(result, "cmax, geometric mean", "B")
        one, two = (math.log1p((cv / 100) ** 2) / n for n, cv in ((40, 60.0), (30, 90.0)))
        free = (one + two) ** 2 / (one**2 / 39 + two**2 / 29)
        half = scipy.stats.t(free).ppf(0.95) * math.sqrt(one + two)
        assert cmax["estimate"] == pytest.approx(1.5, rel=0.01)
        assert cmax["eti90_low"] == pytest.approx(1.5 * math.exp(-half), rel=0.02)
        assert cmax["eti90_high"] == pytest.approx(1.5 * math.exp(half), rel=0.02)
        p = scipy.stats.t(free).cdf(math.log(1.5) / math.sqrt(one + two))
        assert cmax["p_above"] == pytest.approx(p, abs=0.01)
        assert math.isnan(cmax["patient_low"])

    def test_responders_of_tisa_cel_are_as_published_elsewhere_within_the_interval(self):
        """Mueller 2018 has ratios of 1.74 (Cmax) and 2.04 (AUC0-28d), at another data cut."""
        study = ck.load_study("eliana_ensign")
        arms = {"CR": "responders", "NR": "non_responders"}
        result = compare(study, arms, reference="NR")
        cmax = row(result, "cmax, geometric mean", "CR")
        assert cmax["estimate"] == pytest.approx(32_700 / 19_500, rel=0.01)
        assert cmax["eti90_low"] < 1.74 < cmax["eti90_high"]
        area = row(result, "auc0_28d, geometric mean", "CR")
        assert area["estimate"] == pytest.approx(300 / 210, rel=0.01)
        assert area["eti90_low"] < 2.04 < area["eti90_high"]
        tmax = row(result, "tmax, median", "CR", "difference")
        assert tmax["estimate"] == pytest.approx(9.83 - 20.0)
        assert math.isnan(tmax["eti90_low"])
        assert said(result, "tmax, median (CR, NR): no interval can be used")
        assert said(result, "only 3 of 11 patients")
        assert said(result, "the contrast describes, it does not predict")
        assert said(result, "Not randomized")
        assert said(result, "What is known to differ: CR: response CR/CRi; NR: response no resp")
        assert not said(result, "leukopenia"), "their lymphodepletion was the same"
        again = compare(study.dataset(), arms, ["cmax"], reference="NR")
        assert list(again.data) == ["cmax, geometric mean"]
        assert said(again, "the contrast describes, it does not predict")

    def test_cohorts_that_differ_in_conditioning_warn_of_copies_per_ug(self):
        with pytest.warns(ck.CarpkWarning, match="may be leukopenia"):
            compare(two_cohorts("copies/µg"), {"A": "a", "B": "b"})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compare(two_cohorts(), {"A": "a", "B": "b"})

    def test_what_is_not_published_of_both_is_named_or_refused(self):
        data = two_cohorts()
        rows = data.summaries
        less = rows[~((rows["cohort"] == "b") & (rows["time"] == 28))].reset_index(drop=True)
        part = dataclasses.replace(data, summaries=less)
        result = compare(part, {"A": "a", "B": "b"})
        assert list(result.data) == ["level_7d, median"]
        assert said(result, "level_28d, median is published of a only")
        none = dataclasses.replace(data, summaries=rows[rows["cohort"] == "a"])
        with pytest.raises(ck.DatasetError, match="'B' must be the name of a cohort"):
            compare(none, {"A": "a", "B": "b"})
        with pytest.raises(ck.DatasetError, match="no statistic of both 'a' and 'b'"):
            compare(data, {"A": "a", "B": "b"}, ["cmax"])
        with pytest.raises(ck.CarpkError, match="names of metrics"):
            compare(data, {"A": "a", "B": "b"}, [ck.nca.cmax])


# --- the face of a result -------------------------------------------------------------------------


def test_a_saved_comparison_opens_with_xarray_alone(doubled, tmp_path):
    _, result = doubled
    path = result.save(tmp_path / "c.nc")
    with xr.open_dataset(path, engine="h5netcdf") as read:
        np.testing.assert_array_equal(read["cmax"], result.data["cmax"])
        assert read["cmax"].attrs["units"] == "cells/µL"
        assert read.attrs["caveats"].split("\n") == list(result.caveats)
        assert read["curves"].dims == ("arm", "quantile", "time")
    assert result.data["cmax"].attrs["uncertain"] == ["Flu", "Flu/Cy"], "saving changes nothing"
    table = pd.read_csv(result.save(tmp_path / "c.csv"), index_col=[0, 1, 2])
    assert table.loc[("cmax", "Flu/Cy", "ratio"), "estimate"] == pytest.approx(2.0)
    facts = compare(two_cohorts(), {"A": "a", "B": "b"})
    with xr.open_dataset(facts.save(tmp_path / "f.nc"), engine="h5netcdf") as read:
        assert read["level_7d, median"].dims == ("arm", "draw")


def test_draws_are_the_populations_contrasts(doubled):
    _, result = doubled
    assert result.draws.shape[0] == 20
    np.testing.assert_allclose(result.draws[("cmax", "Flu/Cy", "ratio")], 2.0, rtol=1e-12)


def test_three_arms_have_two_contrasts_and_the_figure_shows_them():
    arms = ARMS | {"most": (ONE, {"MORE": 2.0})}
    result = compare(UNSURE, arms, ["cmax", "tmax"], reference="more", patients=20)
    assert result.arms == ["more", "less", "most"]
    assert set(result.table.loc["cmax"].index.get_level_values("arm")) == {"less", "most"}
    figure = result.plot()
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["cmax: less", "cmax: most", "tmax: less", "tmax: most"]
    assert "more" in figure.axes[0].get_xlabel()
    assert len(figure.axes) == 2
    assert len(compare(two_cohorts(), {"A": "a", "B": "b"}).plot().axes) == 1
    plt.close("all")


def test_the_module_names_what_users_need():
    assert comparison.__all__ == ["Comparison", "compare"]

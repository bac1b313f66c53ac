"""Covariates of the equations: known of each patient, never estimated, never filled in silently."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

import carpk as ck
from carpk.population.bound import BoundPopulation

FILE = """
import carpk as ck


class Params(ck.Params):
    k: ck.Scalar = ck.param(0.1, "1/day", "loss rate", "made up", iiv=0.3)
    V: ck.Scalar = ck.param(5.0, "L", "volume at 70 kg", "made up", iiv=0.2)
    WT: ck.Scalar = ck.covariate(70.0, "kg", "body weight", "made up")
    LOW: ck.Scalar = ck.covariate(0.0, "1", "1 in the fast class", "made up", share=0.25)


class States(ck.States):
    C: ck.Scalar = ck.state("cells", "cells", log=True)


model = ck.ODEModel(
    name="diluted",
    params=Params,
    states=States,
    vector_field=lambda t, y, p: States(C=-p.k * (1 + p.LOW) * y.C),
    targets={"car_t": ck.Target("C")},
    outputs={"car_t": lambda t, y, p: y.C / (p.V * p.WT / 70 * 1e6)},
    units={"car_t": "cells/µL"},
    correlation={("k", "V"): 0.9},
    one_cell={"car_t": 2.0},
)
"""
DAYS = np.array([0.5, 7.0, 28.0])
DOSE = ck.Regimen.cells(0, 1e8)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "diluted.py"
    path.write_text(FILE, encoding="utf-8")
    return ck.load_model(path)


def weighed(weights, column="WT"):
    """Three patients of whom this is known."""
    rows = [(p, t, "car_t", 10.0, "cells/µL") for p in "abc" for t in (1.0, 5.0)]
    names = ["patient", "time", "analyte", "value", "unit"]
    doses = [(p, 0.0, "car_t", 1e8, "cells") for p in "abc"]
    return ck.Dataset.from_frames(
        patients=pd.DataFrame({"patient": list("abc"), column: weights}),
        doses=pd.DataFrame(doses, columns=["patient", "time", "product", "amount", "unit"]),
        observations=pd.DataFrame(rows, columns=names),
    )


def individual_predictions(bound):
    """Levels of the patients at the typical values, shape (patient, time)."""
    values = {name: bound.population.model.params.info()[name].value for name in ("k", "V")}
    phi = bound.population.typical(values, bound.patient_design)
    params = bound.population.structural({k: np.broadcast_to(v, 3) for k, v in phi.items()})
    if "WT" not in phi:
        params = params.replace(WT=np.full(3, params.WT))
    return np.asarray(bound.individual_predictions(params.replace(LOW=np.zeros(3))))


def test_describe_says_which_fields_are_covariates(model):
    assert dict(model.describe()["scale"]) == {
        "k": "log",
        "V": "log",
        "WT": "covariate",
        "LOW": "covariate",
    }
    assert model.params.covariates() == ("WT", "LOW")


class TestSimulation:
    @pytest.mark.slow
    def test_gives_each_patient_their_own_value(self, model):
        sim = ck.simulate(model, DOSE, DAYS, covariates={"WT": 35.0})
        reference = ck.simulate(model, DOSE, DAYS)
        np.testing.assert_allclose(sim["car_t"], 2 * reference["car_t"], rtol=1e-4)
        weights = np.array([70.0, 35.0, 20.0])
        three = ck.simulate(model, DOSE, DAYS, patients=3, covariates={"WT": weights, "LOW": 0.0})
        held = three["car_t"].values[0, :, 0] * three["V"].values[0, :, 0] * weights / 70
        k = three["k"].values[0, :, 0]
        np.testing.assert_allclose(held, 100 * np.exp(-0.5 * k), rtol=1e-3)

    def test_draws_latent_classes_with_their_share_and_effects_with_their_correlation(self, model):
        sim = ck.simulate(model, DOSE, DAYS, patients=4000)
        low = sim["LOW"].values[0, :, 0]
        assert set(low) == {0.0, 1.0}
        assert low.mean() == pytest.approx(0.25, abs=0.03)
        k, v = (np.log(sim[name].values[0, :, 0]) for name in ("k", "V"))
        assert np.corrcoef(k, v)[0, 1] == pytest.approx(0.9, abs=0.02)
        assert k.std() == pytest.approx(0.3, rel=0.05)
        assert v.std() == pytest.approx(0.2, rel=0.05)

    def test_leaves_the_typical_patient_in_the_typical_class(self, model):
        assert ck.simulate(model, DOSE, DAYS)["LOW"].values.item() == 0.0

    @pytest.mark.exhaustive
    def test_names_the_day_on_which_less_than_one_cell_is_left(self, model):
        """20 exp(-0.1 t) falls below 2 on day 23.03."""
        sim = ck.simulate(model, DOSE, [0.0, 23.0, 23.1, 40.0])
        assert sim.extinct("car_t").item() == 23.1
        assert "less than one cell is left at some time in 100%" in repr(sim)
        solution = ck.solve(model, DOSE, [0.0, 23.0, 23.1, 40.0])
        assert solution.extinct == {"car_t": 23.1}
        assert "less than one cell from day 23.1" in repr(solution)
        early = ck.simulate(model, DOSE, DAYS[:2])
        assert np.isnan(early.extinct("car_t").item())
        assert "one cell" not in repr(early)

    @pytest.mark.parametrize(
        ("covariates", "words"),
        [
            ({"weight": 35.0}, "'weight' is not a covariate of 'diluted'; it has WT, LOW"),
            ({"WT": [35.0, 20.0]}, "must be a finite number, or one for each of the 3 patients"),
            ({"WT": np.nan}, "'WT' must be a finite number"),
        ],
    )
    def test_refuses_what_it_cannot_use(self, model, covariates, words):
        with pytest.raises(ck.ModelError, match=words):
            ck.simulate(model, DOSE, DAYS, patients=3, covariates=covariates)


class TestFit:
    def test_takes_the_column_of_its_name(self, model):
        bound = BoundPopulation.from_data(ck.Population(model), weighed([70.0, 35.0, 20.0], "wt"))
        expected = 20 * np.exp(-0.1 * np.array([1.0, 5.0])) * np.array([[1.0], [2.0], [3.5]])
        np.testing.assert_allclose(individual_predictions(bound), expected, rtol=1e-4)
        assert bound.at_reference == {"LOW": 0.0}
        assert "WT" not in bound.priors
        assert bound.design_at()["WT"] == [70.0]

    def test_says_so_where_the_data_do_not_have_it(self, model):
        bound = BoundPopulation.from_data(ck.Population(model), weighed([9.0, 9.0, 9.0], "age"))
        assert bound.at_reference == {"WT": 70.0, "LOW": 0.0}
        fixed = BoundPopulation.from_data(
            ck.Population(model, fixed={"WT": 35.0}), weighed([1.0, 1.0, 1.0])
        )
        assert fixed.at_reference == {"LOW": 0.0}
        np.testing.assert_allclose(
            individual_predictions(fixed), 2 * individual_predictions(bound), rtol=1e-4
        )

    def test_refuses_missing_values_and_words(self, model):
        with pytest.raises(ck.DatasetError, match="WT"):
            BoundPopulation.from_data(ck.Population(model), weighed([70.0, np.nan, 20.0]))
        with pytest.raises(ck.FitError, match="must hold numbers, but has 'heavy'"):
            BoundPopulation.from_data(ck.Population(model), weighed(["heavy", "light", "light"]))

    @pytest.mark.parametrize("settings", [{"varies": ["WT"]}, {"covariates": {"k": ["WT"]}}])
    def test_refuses_to_estimate_it(self, model, settings):
        with pytest.raises(ck.ModelError, match="is a covariate in the equations of 'diluted'"):
            ck.Population(model, **settings)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((70.0, "", "weight"), "every covariate needs a unit and a meaning"),
        ((np.inf, "kg", "weight"), "the reference value must be a finite number"),
        ((0.0, "1", "class", "", 1.5), "a share must lie between 0 and 1"),
        ((2.0, "1", "class", "", 0.5), "belongs to a covariate that is 0 or 1"),
    ],
)
def test_a_covariate_without_meaning_is_refused(arguments, words):
    with pytest.raises(ck.ModelError, match=words):
        ck.covariate(*arguments)


def test_a_correlation_of_what_does_not_vary_is_refused(model):
    with pytest.raises(ck.ModelError, match="must name two parameters that have an iiv"):
        dataclasses.replace(model, correlation={("k", "WT"): 0.5})

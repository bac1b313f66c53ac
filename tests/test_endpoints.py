"""Several endpoints in one fit, each with its own residual model; and doses per m² or kg."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats

import carpk as ck
from carpk.inference.draws import pointwise
from carpk.inference.storage import decode_population, encode_population
from carpk.population.replicates import cohort_values

DAYS = {"cells": [1.0, 4.0, 9.0], "host": [-1.0, 2.0, 9.0, 20.0]}


class Params(ck.Params):
    grow: ck.Scalar = ck.param(0.3, "1/day", "growth rate of the cells", "assumed")
    kill: ck.Scalar = ck.param(0.02, "L/mg/day", "killing of host cells", "assumed")
    WT: ck.Scalar = ck.covariate(70.0, "kg", "weight")
    BSA: ck.Scalar = ck.covariate(1.8, "m²", "body surface")


class States(ck.States):
    C: ck.Scalar = ck.state("cells/µL", "cells")
    H: ck.Scalar = ck.state("cells/µL", "host cells", 500.0, log=True)
    D: ck.Scalar = ck.state("mg", "drug")


MODEL = ck.ODEModel(
    name="small",
    params=Params,
    states=States,
    vector_field=lambda t, y, p: States(C=p.grow * y.C, H=-p.kill * y.D * y.H, D=-2.0 * y.D),
    targets={"car_t": ck.Target("C", scale=lambda p: 1e-6), "drug": ck.Target("D", unit="mg")},
    outputs={"cells": lambda t, y, p: y.C, "host": lambda t, y, p: y.H},
    units={"cells": "cells/µL", "host": "cells/µL"},
)


def levels(grow, kill, amount=100.0, host=500.0):
    """The same by hand: cells from day 0, host cells after a drug on day -2."""
    cells = np.exp(grow * np.array(DAYS["cells"]))
    gone = amount / 2.0 * (1 - np.exp(-2.0 * (np.array(DAYS["host"]) + 2)))
    return cells, host * np.exp(-kill * gone)


def dataset(analytes=("cells", "host"), **columns):
    """Simulated levels of two patients; the first count of host cells is below the LLOQ of 20."""
    rows = []
    for patient, factor in (("a", 1.3), ("b", 0.6)):
        for analyte, y in zip(("cells", "host"), levels(0.3, 0.02), strict=True):
            for i, (day, level) in enumerate(zip(DAYS[analyte], y * factor, strict=True)):
                blq = analyte == "host" and i == 0
                value = 20.0 if blq else level
                rows.append((patient, day, analyte, value, "cells/µL", 20.0 if blq else 0.1, blq))
    names = ["patient", "time", "analyte", "value", "unit", "lloq", "censored"]
    observations = pd.DataFrame(rows, columns=names).astype({"censored": int})
    observations = observations[observations["analyte"].isin(analytes)]
    doses = [
        (p, *dose)
        for p in ("a", "b")
        for dose in ((0.0, "car_t", 1e6, "cells", 0.0), (-2.0, "drug", 100.0, "mg", 0.0))
    ]
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(
            doses, columns=["patient", "time", "product", "amount", "unit", "duration"]
        ),
        observations=observations,
        name="simulated",
        **columns,
    )


@pytest.fixture(scope="module")
def bound():
    both = ck.Population(MODEL, varies=["grow"], analytes=["cells", "host"], rtol=1e-8)
    return both.bind(dataset())


THETA = {"grow": 0.25, "kill": 0.03, "omega_grow": 0.4, "sigma_cells": 0.3, "sigma_host": 0.7}


def two_patients(grow):
    params = MODEL.params(grow=grow, kill=THETA["kill"])
    return jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x), (2,)), params)


def by_hand(data, grow):
    """ln likelihood of every observation (patient, day, analyte), with SciPy alone."""
    expected = {}
    for patient, rate in zip(("a", "b"), grow, strict=True):
        truth = dict(zip(("cells", "host"), levels(rate, THETA["kill"]), strict=True))
        for row in data.observations[data.observations["patient"] == patient].itertuples():
            f = truth[row.analyte][DAYS[row.analyte].index(row.time)]
            own = scipy.stats.lognorm(THETA[f"sigma_{row.analyte}"], scale=f)
            one = own.logcdf(row.lloq) if row.censored else own.logpdf(row.value)
            expected[patient, row.time, row.analyte] = one
    return expected


class TestSeveralEndpoints:
    def test_have_a_residual_parameter_each(self, bound):
        assert set(bound.priors) == set(THETA)
        assert dict(bound.endpoints) == {"cells": "cells", "host": "host"}

    def test_give_each_observation_the_likelihood_of_its_own_level_and_assay(self, bound):
        grow = np.array([0.2, 0.35])
        params = two_patients(grow)
        each = np.asarray(bound.observation_log_likelihoods(params, THETA))
        a = bound.individual
        expected = by_hand(bound.data, grow)
        assert a.mask.sum() == len(expected) == 14
        for i, j in zip(*np.nonzero(a.mask), strict=True):
            key = (a.patients[i], a.time[i, j], a.analytes[a.analyte[i, j]])
            assert each[i, j] == pytest.approx(expected[key], abs=1e-5), key

    def test_with_residual_models_of_their_own(self):
        residual = {"cells": ck.LogNormal(), "host": ck.Proportional()}
        both = ck.Population(MODEL, analytes=["cells", "host"], residual=residual)
        assert {"sigma_cells", "sigma_prop_host"} < set(both.default_priors())
        again = decode_population(encode_population(both), MODEL)
        assert again.residual == residual
        assert again.outputs_of == both.outputs_of

    def test_store_log_likelihoods_per_output(self, bound):
        samples = {k: np.full((1, 2), v) for k, v in THETA.items()}
        samples["eta_grow"] = np.zeros((1, 2, 2))
        groups = pointwise(bound, samples)
        assert groups["log_likelihood"]["cells"].dims == ("chain", "draw", "obs_id_cells")
        expected = by_hand(bound.data, [0.25, 0.25])
        total = sum(float(v[0, 0].sum()) for v in groups["log_likelihood"].data_vars.values())
        assert total == pytest.approx(sum(expected.values()), abs=1e-4)
        assert groups["observed_data"]["host"].size == 8

    def test_are_measured_with_their_own_noise(self, bound):
        f = bound.individual_predictions(two_patients(np.array([0.2, 0.35])))
        ratio = np.log(bound.measured(f, jnp.ones_like(f), THETA) / f)
        a = bound.individual
        assert ratio[a.mask & (a.analyte == 0)] == pytest.approx(0.3)
        assert ratio[a.mask & (a.analyte == 1)] == pytest.approx(0.7)


def test_one_endpoint_keeps_its_plain_names():
    one = ck.Population(MODEL, analytes=["host"]).bind(dataset())
    assert set(one.priors) == {"grow", "kill", "sigma"}
    assert one.individual.mask.sum() == 8


@pytest.mark.parametrize(
    ("analytes", "data", "message"),
    [
        ((), ("cells", "host"), r"several analytes .* fit them together, analytes=\['cells', 'ho"),
        (["cells", "host"], ("cells",), "has no 'host', which `analytes` names as an endpoint"),
    ],
)
def test_endpoints_that_do_not_fit_the_data_are_refused(analytes, data, message):
    with pytest.raises(ck.FitError, match=message):
        ck.Population(MODEL, analytes=analytes).bind(dataset(data))


def test_endpoints_that_do_not_fit_the_model_are_refused():
    with pytest.raises(ck.ModelError, match="has no output 'alc'"):
        ck.Population(MODEL, analytes=["cells", "alc"])
    with pytest.raises(ck.ModelError, match="must be given for each of several endpoints"):
        ck.Population(MODEL, analytes=["cells", "host"], residual={"cells": ck.LogNormal()})


class TestDosesPerSize:
    REGIMEN = ck.Regimen.cells(0, 1e6, per="kg") + ck.Regimen(
        (ck.Bolus(-2.0, 50.0, "drug", "mg", per="m2"),)
    )

    @pytest.mark.parametrize("size", [{"WT": 70.0, "BSA": 1.8}, {"WT": 20.0, "BSA": 0.8}])
    def test_are_those_of_the_patient(self, size):
        params = MODEL.params(**size)
        days = sorted({*DAYS["cells"], *DAYS["host"]})
        own = ck.solve(MODEL, self.REGIMEN, days, params)
        absolute = self.REGIMEN.resolve(weight=size["WT"], bsa=size["BSA"])
        plain = ck.solve(MODEL, absolute, days, MODEL.params())
        np.testing.assert_allclose(own["cells"], plain["cells"], rtol=1e-7)
        np.testing.assert_allclose(own["host"], plain["host"], rtol=1e-7)

    def test_follow_each_of_many_patients(self):
        sizes = {"WT": [70.0, 20.0], "BSA": [1.8, 0.8]}
        sim = ck.simulate(MODEL, self.REGIMEN, [-1.0, 5.0], patients=2, covariates=sizes)
        cells, host = sim["cells"].values[0, :, 1], sim["host"].values[0, :, 0]
        np.testing.assert_allclose(cells, np.array([70, 20]) * np.exp(1.5), rtol=1e-4)
        gone = np.array([90.0, 40.0]) / 2 * (1 - np.exp(-2.0))
        np.testing.assert_allclose(host, 500 * np.exp(-0.02 * gone), rtol=1e-4)

    def test_are_refused_where_half_of_the_size_is_missing(self):
        with pytest.raises(ck.ModelError, match="give WT but not 'BSA'"):
            ck.simulate(MODEL, self.REGIMEN, [-1.0, 5.0], covariates={"WT": 20.0})


class TestFactsOfSeveralAnalytes:
    """Cohort `all` with summaries of both endpoints, `late` with those of host cells alone."""

    REGIMEN = ck.Regimen([ck.Bolus(0.0, 1e6), ck.Bolus(-2.0, 100.0, "drug", unit="mg")])

    def summaries(self, rows=((4.0, "cells", 3.0), (9.0, "host", 50.0)), **columns):
        every = [("all", *row) for row in rows] + [("late", 20.0, "host", 40.0)]
        table = pd.DataFrame(every, columns=["cohort", "time", "analyte", "value"])
        table = table.assign(metric="level", statistic="median", n=15, unit="cells/µL", use="fit")
        return table.assign(source="made up", **columns)

    @pytest.fixture(scope="class")
    def alone(self):
        return self.bound(ck.Dataset.from_frames(summaries=self.summaries()))

    def bound(self, data):
        both = ck.Population(
            MODEL,
            varies=["grow", "kill"],
            analytes=["cells", "host"],
            regimens={"all": self.REGIMEN, "late": self.REGIMEN},
            virtual_patients=64,
        )
        return both.bind(data)

    def test_enter_one_likelihood_each_with_its_own_residual_model(self, alone):
        bound = alone
        theta = THETA | {"omega_kill": 0.3}
        assert set(bound.priors) == set(theta)
        of = jax.jit(bound.summary_log_likelihoods)
        each = of(theta)
        for name, moves in {"sigma_cells": [0], "sigma_host": [1], "kill": [1]}.items():
            change = np.asarray(of(theta | {name: 1.5 * theta[name]})["all"] - each["all"])
            assert np.flatnonzero(abs(change[:2]) > 1e-6).tolist() == moves, name
        assert {k: len(x) for k, x in each.items()} == {"all": 3, "late": 2}
        for cohort, i, output, day, value in (
            ("all", 0, "cells", 4.0, 3.0),
            ("all", 1, "host", 9.0, 50.0),
            ("late", 0, "host", 20.0, 40.0),
        ):
            patients = bound.virtual_patients(theta, cohort)
            at = bound.cohort_predictor(cohort, np.array([day]), outputs=(output,))
            f = np.asarray(at(patients))[:, 0]
            sigma = theta[f"sigma_{output}"]
            u = scipy.stats.norm.cdf(np.log(value / f) / sigma).mean()
            pdf = scipy.stats.lognorm.pdf(value, sigma, scale=f).mean()
            exact = scipy.stats.beta.logpdf(u, 8, 8) + np.log(pdf)
            assert float(each[cohort][i]) == pytest.approx(exact, abs=1e-3)

    def test_enter_beside_the_patients_of_another_endpoint(self):
        data = dataset(("cells",), summaries=self.summaries(rows=((9.0, "host", 50.0),)))
        bound = self.bound(data)
        assert bound.analyte == "host"
        assert set(bound.endpoints) == {"cells", "host"}
        assert bound.individual.analytes == ("cells",) or list(bound.individual.analytes) == [
            "cells"
        ]
        assert set(bound.cohorts) == {"all", "late"}

    def test_may_be_of_the_same_days(self, alone):
        days, which = np.array([4.0, 9.0, 9.0, 4.0]), np.array([0, 0, 1, 1])
        patients = alone.virtual_patients(THETA | {"omega_kill": 0.3}, "all")
        outputs = ("cells", "host")
        found = alone.cohort_predictor("all", days, outputs=outputs, which=which)(patients)
        each = [
            alone.cohort_predictor("all", days[which == i], outputs=(output,))(patients)
            for i, output in enumerate(outputs)
        ]
        np.testing.assert_allclose(found, np.concatenate(each, axis=1), rtol=1e-3)

    def test_are_replicated_by_endpoint(self, alone):
        bound = alone
        theta = {k: np.full(1, v) for k, v in (THETA | {"omega_kill": 0.3}).items()}
        theta |= {"sigma_cells": np.full(1, 0.01), "sigma_host": np.full(1, 0.02)}
        found = cohort_values(
            bound, "all", theta, bound.cohorts["all"].summaries, (), np.random.default_rng(1)
        )
        assert [x.shape for _, x in found] == [(1, 15), (1, 15)]
        check = ck.checks.prior_predictive(bound.population, bound.data, draws=30, seed=1)
        names = check.summaries.index.get_level_values("statistic")
        assert list(names)[:2] == ["cells level day 4, median", "host level day 9, median"]
        assert list(names)[2:] == ["level day 20, median"]

    def test_are_converted_to_the_unit_of_the_model_with_the_observations(self):
        observed = dataset(("host",))
        table = self.summaries(rows=((9.0, "host", 0.05),), interval="SD", spread=0.02, lloq=0.001)
        table = table.assign(unit="1e9/L", value=[0.05, 0.04])
        data = ck.Dataset.from_frames(summaries=table, doses=observed.doses)
        kept = data.in_units({"host": "cells/µL"}).summaries
        assert kept["value"].tolist() == pytest.approx([50, 40])
        assert kept["spread"].tolist() == pytest.approx([20, 20])
        assert kept["lloq"].tolist() == [1, 1]
        assert set(kept["unit"]) == {"cells/µL"}
        other = ck.Dataset.from_frames(summaries=table.assign(analyte="crp", unit="ng/mL"))
        assert other.in_units({"crp": "pg/mL"}).summaries["value"].tolist() == [50, 40]

"""Laws that every structural model in the library obeys, and what single models claim."""

import copy
import dataclasses
import itertools
import math
import pickle
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import carpk as ck
from carpk.library.models import options_of
from carpk.models import stein2019
from carpk.population.bound import match_analytes
from carpk.solver.events import BOLUS, INFUSION, REPLACE, Schedule
from carpk.solver.solve import Solver, solve_all, solve_many

NAMES = ck.list_models()
ODES = [name for name in NAMES if isinstance(ck.load_model(name), ck.ODEModel)]
CLOSED_FORMS = [name for name in NAMES if name not in ODES]
YEAR = np.concatenate([np.linspace(0, 30, 121), np.linspace(31, 365, 112)])
OFF_CORNERS = jnp.array([0.4, 2.1, 5.3, 8.2, 10.6, 14.3, 28.1, 90.2, 364.0])
CORNERS = {"tmax": 1.0, "lag": 1.5}  # parameter -> days around it where `smooth` is rounded
FREE = {"piecewise": {"output": "transgene", "unit": "copies/µg", "cmax": 24_000.0}}
DRUG = {"absorption": "parallel", "output": "drug_a", "unit": "ng/mL", "product": "drug_a"}
FREE |= {f"{count}_compartment": DRUG for count in ("one", "two", "three")}
FEW = 16  # combinations of options that are all tried
MANY = 4  # options; the variants of a model with more of them are tried in the slow tests
HEAVY = {"hardiansyah2019", "niche_full", "owens2021", "singh2021"}  # a minute for each law
HEAVIER = HEAVY | {"barros2021", "muellerschoell2021", "niche"}  # to differentiate
SEVERAL = np.array([3.0, 7.0, 14.0, 28.0, 60.0])  # days of gradients and of both routes


def variants(name):
    """Every combination of a model's options, the default first; one changed at a time if many."""
    options = {key: choices for key, choices in options_of(name).items() if choices}
    if name in FREE and not options:
        return [{}, FREE[name]]
    every = [dict(zip(options, each, strict=True)) for each in itertools.product(*options.values())]
    if len(every) <= FEW:
        return every
    default = every[0]
    return [each for each in every if len(each.items() - default.items()) <= 1]


VARIANTS = [
    pytest.param(
        name,
        options,
        id="-".join([name, *map(str, options.values())]),
        marks=[pytest.mark.slow] * (i > 0 and len(options) > MANY),
    )
    for name in NAMES
    for i, options in enumerate(variants(name))
]


def but(heavy):
    """The differential equations; those that are heavy, weekly."""
    mark = pytest.mark
    return [pytest.param(n, marks=mark.exhaustive if n in heavy else mark.slow) for n in ODES]


def pattern(model):
    """Its own typical dosing."""
    return next(iter(model.regimens.values()))


def prior_patients(model, size, seed=0):
    """Patients whose typical values are drawn from the default priors, leaves (size,)."""
    keys = jax.random.split(jax.random.key(seed), 200)
    priors = ck.Population(model).default_priors()
    draws = {n: priors[n].sample(k, (size,)) for n, k in zip(priors, keys, strict=False)}
    own = model.params.info()
    values = {n: draws.get(n, jnp.full(size, i.value)) for n, i in own.items()}
    return model.params(**values)


def random_patients(model, size, seed=0):
    """Parameters one standard normal from the typical values on their own scales."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, info in model.params.info().items():
        u = info.transform.forward(info.value) + rng.normal(size=size)
        values[name] = jnp.asarray(info.transform.inverse(u))
    return model.params(**values)


def on_scale(model, output, smooth):
    """Level at OFF_CORNERS as a function of all parameters, each on its estimation scale."""
    infos = model.params.info()

    @jax.jit
    def levels(u):
        p = {n: i.transform.inverse(x) for (n, i), x in zip(infos.items(), u, strict=True)}
        return model.level(output, OFF_CORNERS, model.params(**p), smooth=smooth)

    return levels, jnp.array([float(i.transform.forward(i.value)) for i in infos.values()])


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=[pytest.mark.slow] * (x in ODES)) for x in NAMES]
)
def test_reproduces_what_its_paper_reports(name):
    model = ck.load_model(name)
    for quantity, (derive, reported, *tolerance) in model.published.items():
        rel = tolerance[0] if tolerance else 0.02
        assert float(derive(model.params())) == pytest.approx(reported, rel=rel), quantity


@pytest.mark.parametrize("name", NAMES)
class TestEveryModel:
    def test_is_held_to_its_paper_where_it_cites_one(self, name):
        model = ck.load_model(name)
        assert model.name == name
        if model.reference:
            assert model.reference.startswith("doi:10.")
            assert model.published

    def test_gives_every_parameter_a_unit_a_meaning_and_a_source(self, name):
        for symbol, info in ck.load_model(name).params.info().items():
            assert info.unit, symbol
            assert len(info.about) > 4, symbol
            assert info.source, symbol

    def test_gives_every_output_and_derived_quantity_a_unit_and_a_number(self, name):
        model = ck.load_model(name)
        assert set(model.units) == set(model.outputs)
        for symbol, (derive, unit) in model.derived.items():
            assert unit, symbol
            assert float(derive(model.params())) > 0, symbol
            assert symbol not in model.params.info()

    def test_has_outputs_in_units_that_data_can_have(self, name):
        """Nobody measures "relative"; data in 1e9/L are kept in cells/µL and come back."""
        model, level = ck.load_model(name), 0.25
        for output, unit in model.units.items():
            row = {"patient": ["1"], "time": 7.0, "analyte": output, "value": level, "unit": unit}
            doses = pd.DataFrame({"patient": ["1"]}).assign(
                time=0.0, product="car_t", amount=1e8, unit="cells", duration=0.0
            )
            data = ck.Dataset.from_frames(observations=pd.DataFrame(row), doses=doses)
            assert match_analytes(ck.Population(model), data) == {output: output}
            again = data.in_units({output: unit}).observations
            assert again["unit"].tolist() == [unit]
            assert again["value"].tolist() == [pytest.approx(level, rel=1e-12)]

    def test_prints_as_a_table(self, name):
        model = ck.load_model(name)
        shown = repr(model)
        assert shown.startswith(f"{type(model).__name__} {name!r}: ")
        for symbol, info in model.params.info().items():
            row = next(line for line in shown.splitlines()[1:] if line.split()[0] == symbol)
            assert info.unit in row
            assert info.about in row
            assert f"{info.value:g}" in row
        for unit in model.units.values():
            assert f"[{unit}]" in shown

    def test_says_in_a_line_what_it_is_and_at_length_where_it_comes_from(self, name):
        model = ck.load_model(name)
        assert 20 < len(model.about) < 130
        assert model.about.endswith(".")
        if model.reference:
            assert model.reference.removeprefix("doi:") in " ".join(model.doc.split())


ODE_VARIANTS = [variant for variant in VARIANTS if variant.values[0] in ODES]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
class TestEveryVariant:
    def test_remembers_its_options_and_can_be_pickled(self, name, options):
        model = ck.load_model(name, **options)
        assert model.origin == {"name": name, "options": options}
        assert pickle.loads(pickle.dumps(model)) == model
        patient = model.params()
        assert copy.deepcopy(patient) == patient
        again = pickle.loads(pickle.dumps(patient))
        assert again == patient
        assert type(again) is type(patient)


@pytest.mark.parametrize(("name", "options"), ODE_VARIANTS)
class TestEveryODEVariant:
    def test_has_equations_that_fit_its_states(self, name, options):
        model = ck.load_model(name, **options)
        model.check()
        model.check_derivatives()
        start = model.start(model.params())
        assert all(float(getattr(start, symbol)) >= 0 for symbol in model.states.names())
        assert model.regimens
        for regimen in model.regimens.values():
            Schedule.of(model, [regimen], [400.0])  # every dose has somewhere to go


@pytest.mark.parametrize("name", CLOSED_FORMS)
class TestEveryClosedForm:
    def test_stays_finite_and_never_negative_over_a_year(self, name):
        model = ck.load_model(name)
        patients = random_patients(model, 200)
        for output in model.outputs:
            for smooth in (False, True):
                level = partial(model.level, output, YEAR, smooth=smooth, after=True)
                typical = level(model.params())
                assert (np.asarray(typical) > 0).all()
                levels = jax.vmap(level)(patients)
                assert np.isfinite(levels).all()
                assert (np.asarray(levels) >= 0).all()

    @pytest.mark.parametrize("smooth", [False, True])
    def test_has_gradients_equal_to_finite_differences(self, name, smooth):
        model = ck.load_model(name)
        for output in model.outputs:
            levels, u = on_scale(model, output, smooth)
            exact = np.asarray(jax.jacrev(levels)(u))
            steps = 1e-5 * np.eye(u.size)
            central = np.stack([(levels(u + h) - levels(u - h)) / 2e-5 for h in steps], axis=1)
            scale = np.asarray(levels(u))[:, None]
            np.testing.assert_allclose(exact / scale, central / scale, rtol=1e-6, atol=1e-7)
            assert (np.abs(exact / scale).max(axis=0) > 1e-6).all(), "a parameter has no effect"

    def test_is_rounded_off_near_its_corners_only(self, name):
        model = ck.load_model(name)
        typical = dict(model.params().items())
        t = np.linspace(0, 365, 7301)
        away = np.ones_like(t, bool)
        for corner, days in CORNERS.items():
            away &= np.abs(t - typical.get(corner, -math.inf)) > days
        for output in model.outputs:
            exact = np.asarray(model.level(output, t, model.params()))
            smooth = np.asarray(model.level(output, t, model.params(), smooth=True))
            np.testing.assert_allclose(smooth[away], exact[away], rtol=0.05)
            np.testing.assert_allclose(smooth, exact, rtol=0.2)

    def test_peaks_once_at_tmax_with_cmax(self, name):
        model = ck.load_model(name)
        p = model.params()
        for output in model.outputs:
            t = np.sort(np.append(YEAR, p.tmax))
            level = np.asarray(model.level(output, t, p))
            assert t[level.argmax()] == p.tmax
            assert level.max() == pytest.approx(p.cmax, rel=1e-12)
            assert (np.diff(level[level.argmax() :]) < 0).all()
            assert (np.diff(level[: level.argmax() + 1]) >= 0).all()

    def test_works_compiled_and_batched(self, name):
        model = ck.load_model(name)
        patients = random_patients(model, 5)
        for output in model.outputs:
            one = lambda p, output=output: model.level(output, YEAR, p)  # noqa: E731
            together = jax.jit(jax.vmap(one))(patients)
            for i in range(5):
                alone = one(jax.tree.map(lambda x, i=i: x[i], patients))
                np.testing.assert_allclose(together[i], alone, rtol=1e-9)

    def test_gives_levels_with_its_options(self, name):
        for options in variants(name):
            model = ck.load_model(name, **options)
            assert np.isfinite(model.level(next(iter(model.outputs)), YEAR, model.params())).all()


class TestEveryODEModel:
    @pytest.mark.parametrize("name", ODES)
    def test_gives_every_state_a_unit_a_meaning_and_a_start(self, name):
        model = ck.load_model(name)
        states = model.states.describe()
        assert (states["unit"].str.len() > 0).all()
        assert (states["about"].str.len() > 4).all()
        start = model.start(model.params())
        assert all(float(getattr(start, symbol)) >= 0 for symbol in states.index)

    @pytest.mark.parametrize("name", but(HEAVY))
    def test_stays_finite_and_never_negative_over_a_year_and_responds_to_a_dose(self, name):
        """The typical patient, who is the last, and others at draws of the priors."""
        model = ck.load_model(name)
        drawn = prior_patients(model, 7)
        everybody = jax.tree.map(jnp.append, drawn, model.params())
        dosed = solve_many(model, pattern(model), YEAR[::4], everybody, start=-10.0)
        assert dosed.failures == {}
        rows = dosed.solver.schedule.rows
        schedule = dataclasses.replace(
            dosed.solver.schedule, rows=rows._replace(events=without(rows.events))
        )
        line = None if dosed.solver.line is None else schedule.fixed()
        untouched = solve_all(
            dataclasses.replace(dosed.solver, schedule=schedule, line=line), everybody
        )
        change = 0.0
        for output, levels in dosed.outputs.items():
            assert np.isfinite(levels).all(), output
            assert (levels >= 0).all(), output
            gap = np.abs(levels[-1] - untouched.outputs[output][-1]).max()
            change = max(change, gap / np.abs(levels[-1]).max())
        assert change > 0.01

    @pytest.mark.parametrize("name", but(HEAVIER))
    def test_has_gradients_equal_to_finite_differences_and_routes_that_agree(self, name):
        """Of every output with respect to every parameter; compiled, alone and in a batch."""
        model = ck.load_model(name)
        infos = model.params.info()
        schedule = Schedule.of(model, [pattern(model)], SEVERAL)
        reference = jax.tree.map(lambda x: jnp.full((1, 1), x), model.params())
        solver = Solver.prepare(schedule, reference, rtol=1e-6, share=1.0)
        values = [aside(i) if i.is_covariate else i.value for i in infos.values()]
        forward = [i.transform.forward for i in infos.values()]
        u = jnp.array([float(f(x)) for f, x in zip(forward, values, strict=True)])

        def levels(u):  # (patient, output, time)
            values = {n: i.transform.inverse(x) for (n, i), x in zip(infos.items(), u, strict=True)}
            outputs = solver(model.params(**values))
            return jnp.stack([outputs[k] for k in model.outputs], axis=1)

        exact = np.asarray(jax.jit(jax.jacrev(lambda u: levels(u[:, None])[0]))(u))
        step = 1e-4 * np.maximum(1.0, np.abs(u))
        moved = np.concatenate([u + np.diag(step), u - np.diag(step), u[None]])
        batch = np.asarray(jax.jit(levels)(jnp.asarray(moved.T)))
        up, down, typical = batch[: u.size], batch[u.size : -1], batch[-1]
        central = np.moveaxis((up - down) / (2 * step[:, None, None]), 0, -1)
        peak = np.abs(typical).max(axis=1)[:, None, None]
        assert np.isfinite(exact).all()
        size = np.abs(exact / peak).max()
        np.testing.assert_allclose(exact / peak, central / peak, atol=1e-4 * max(1.0, size))
        felt = np.abs(exact / peak).max(axis=(0, 1))
        silent = [n for n, x in zip(infos, felt, strict=True) if x < 1e-9]
        assert [n for n in silent if not infos[n].is_covariate] == [], "a parameter has no effect"
        patient = model.params(**dict(zip(infos, values, strict=True)))
        adaptive = ck.solve(model, pattern(model), SEVERAL, patient, rtol=1e-9, method="kvaerno5")
        for got, output in zip(typical, model.outputs, strict=True):
            expected = np.asarray(adaptive[output])
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6 * expected.max())


def aside(covariate):
    """A value beside the reference, where every effect is felt."""
    return 0.5 if covariate.value in (0, 1) else 1.2 * covariate.value


def without(events):
    """The same events with hardly anything in them: the same compiled code serves both."""
    dose = np.isin(events.kind, (BOLUS, INFUSION, REPLACE))
    return events._replace(amount=np.where(dose, 1e-9 * events.amount, events.amount))


# --- single models --------------------------------------------------------------------------------


def test_piecewise_takes_name_unit_and_peak_of_the_assay():
    model = ck.load_model("piecewise", **FREE["piecewise"])
    plain = ck.load_model("piecewise")
    assert dict(model.units) == {"transgene": "copies/µg"}
    assert dict(plain.units) == {"car_t": "cells/µL"}
    assert model.params.info()["cmax"].unit == "copies/µg"
    ratio = model.level("transgene", YEAR, model.params(), after=True) / plain.level(
        "car_t", YEAR, plain.params(), after=True
    )
    np.testing.assert_allclose(ratio, 24_000 / 50, rtol=1e-12)


def test_stein_read_as_variances_has_the_square_roots_as_spread():
    sd = ck.load_model("stein2019").describe()["iiv"]
    variance = ck.load_model("stein2019", omega_is="variance").describe()["iiv"]
    np.testing.assert_allclose(variance, np.sqrt(sd), rtol=1e-12)
    assert dict(sd) == {
        "foldx": 2.4,
        "tmax": 0.38,
        "cmax": 0.65,
        "alpha": 0.91,
        "fb": 0.8,
        "beta": 0.86,
    }
    with pytest.raises(ck.ModelError, match='must be "sd" or "variance", but is \'cv\''):
        ck.load_model("stein2019", omega_is="cv")


class TestComedicationInStein:
    MODEL = ck.load_model("stein2019", comedication="on")
    P = MODEL.params()
    F = 1.2

    def level(self, t, **known):
        params = self.P.replace(**known)
        return np.asarray(self.MODEL.level("transgene", np.atleast_1d(t), params, after=True))

    @pytest.mark.parametrize("tau", [0.0, 3.0, 5.7, 9.0])
    def test_the_peak_is_the_growth_with_and_without_the_drug(self, tau):
        """C(Tmax) = R0 exp(rho [tau + F (Tmax - tau)])."""
        p, rho = self.P, np.log(3_900) / 9.3
        peak = p.cmax / p.foldx * np.exp(rho * (tau + self.F * (p.tmax - tau)))
        assert self.level(p.tmax, tocilizumab=tau)[0] == pytest.approx(peak, rel=1e-12)
        assert peak > p.cmax

    def test_the_decline_starts_from_that_peak_and_keeps_its_shape(self):
        t = np.array([9.3, 12.0, 28.0, 300.0])
        treated, untreated = self.level(t, tocilizumab=5.7), self.level(t)
        np.testing.assert_allclose(treated / treated[0], untreated / untreated[0], rtol=1e-12)

    @pytest.mark.parametrize("tau", [9.3, 12.0, stein2019.NEVER])
    def test_a_drug_from_the_peak_on_has_no_effect(self, tau):
        plain = ck.load_model("stein2019")
        exact = plain.level("transgene", YEAR, plain.params(), after=True)
        np.testing.assert_allclose(self.level(YEAR, tocilizumab=tau), exact, rtol=1e-12)

    def test_before_the_first_dose_nothing_changes(self):
        t = np.linspace(0, 5.7, 30)
        np.testing.assert_allclose(self.level(t, tocilizumab=5.7), self.level(t), rtol=1e-12)

    def test_two_drugs_multiply(self):
        rho = np.log(3_900) / 9.3
        days = 3.0 + self.F * (7.5 - 3.0) + self.F * 0.9 * (9.3 - 7.5)
        peak = 24_000 / 3_900 * np.exp(rho * days)
        got = self.level(9.3, tocilizumab=3.0, steroids=7.5, F_ster=0.9)[0]
        assert got == pytest.approx(peak, rel=1e-12)

    def test_a_drug_given_before_the_infusion_acts_from_the_infusion_on(self):
        """The days before the infusion once counted as growth."""
        np.testing.assert_allclose(
            self.level(YEAR, tocilizumab=-2.0), self.level(YEAR, tocilizumab=0.0), rtol=1e-12
        )

    def test_compartments_add_up_to_the_level_of_the_treated_patient(self):
        p = self.P.replace(tocilizumab=5.7)
        both = self.MODEL.states(jnp.asarray(YEAR), p)
        total = sum(getattr(both, name) for name in both.names())
        np.testing.assert_allclose(total, self.level(YEAR, tocilizumab=5.7), rtol=1e-9)

    @pytest.mark.parametrize("column", [False, True])
    def test_first_doses_are_filled_from_the_doses_unless_a_column_has_them(self, column):
        given = [
            *[(p, 0.0, "car_t", 1e8, "cells") for p in "ABC"],
            *[("A", -1.0, "dexamethasone", 10, "mg"), ("A", 3.0, "tocilizumab", 560, "mg")],
            *[("A", 4.0, "tocilizumab", 560, "mg"), ("B", 7.0, "methylprednisolone", 80, "mg")],
        ]
        doses = pd.DataFrame(given, columns=["patient", "time", "product", "amount", "unit"])
        seen = {"patient": list("ABC"), "time": 14.0, "analyte": "transgene", "value": 9e3}
        own = {"patient": list("ABC"), **({"tocilizumab": [2.0, 6.0, 6.0]} if column else {})}
        data = ck.Dataset.from_frames(
            pd.DataFrame(own), doses, pd.DataFrame(seen).assign(unit="copies/µg")
        )
        bound = ck.Population(self.MODEL, fixed={"F_ster": 0.9}).bind(data)
        theta = {name: getattr(self.P, name) for name in bound.population.estimated}
        found = bound.population_predictions({**theta, "sigma": 0.5})[:, 0]
        first = [2.0, 6.0, 6.0] if column else [3.0, stein2019.NEVER, stein2019.NEVER]
        steroids = [stein2019.NEVER, 7.0, stein2019.NEVER]
        exact = [
            self.level(14.0, tocilizumab=a, steroids=b, F_ster=0.9)[0]
            for a, b in zip(first, steroids, strict=True)
        ]
        np.testing.assert_allclose(found, exact, rtol=1e-9)


def test_ogasawara_waits_for_its_lag():
    """C = C0 until the lag, C0 exp(rho (t - lag)) after it."""
    model = ck.load_model("ogasawara2021")
    p = model.params()
    start = p.cmax * 2 ** (-(p.tmax - p.lag) / p.t_double)
    level = model.level("transgene", np.array([0.0, 3.0, p.lag + 2 * p.t_double]), p, after=True)
    np.testing.assert_allclose(level, [start, start, 4 * start], rtol=1e-12)


def test_rounding_steins_peak_moves_it_by_less_than_is_said():
    """The docstring of `smooth_level`: an error of -3 % to +4 %, the top 0.3 % above cmax."""
    model = ck.load_model("stein2019")
    p = model.params()
    t = np.linspace(7, 12, 1001)
    smooth = np.asarray(model.level("transgene", t, p, smooth=True))
    error = smooth / np.asarray(model.level("transgene", t, p)) - 1
    assert -0.035 < error.min() < -0.02
    assert 0.02 < error.max() < 0.045
    assert smooth.max() / p.cmax == pytest.approx(1.003, abs=0.001)

"""The switches of both niche models: agreement with SciPy, what they show, and their absence."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from agreement import assert_has_gradients, reference
from test_niche import FLU_CY, assert_agrees, peak, solve_each

import carpk as ck
from carpk.models import _niche_antigens as antigens
from carpk.models import _niche_cure as cure
from carpk.models import _niche_exhaustion as exhaustion
from carpk.models import _niche_graft as graft
from carpk.models import _niche_immunity as immunity
from carpk.models import _niche_parts as parts
from carpk.models import ahamadi2017
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver

NAMES = ("niche", "niche_full")
FORMS = pytest.mark.parametrize("name", NAMES)
EITHER = pytest.mark.parametrize(
    "name", ["niche", pytest.param("niche_full", marks=pytest.mark.exhaustive)]
)
CELLS = parts.ONCE
THRICE = parts.before_each(parts.FLU_3 + parts.CY_3)
AGAIN = ck.Regimen.cells([42, 84], 1.45e8)
PEMBROLIZUMAB = parts.doses("pembrolizumab", (14, 35, 56, 77), 200.0)  # at once, as the reference
NIVOLUMAB = parts.doses("nivolumab", (14, 28, 42, 56, 70, 84), 150.0)
SWITCHES = {  # case of the reference -> options, what is given, other values
    "immunity": ({"immunity": "on"}, FLU_CY + AGAIN, {}),
    "exhaustion": ({"exhaustion": "on"}, FLU_CY, {}),
    "pembrolizumab": ({"exhaustion": "pembrolizumab"}, FLU_CY + PEMBROLIZUMAB, {}),
    "nivolumab": ({"exhaustion": "nivolumab"}, FLU_CY + NIVOLUMAB, {}),
    "two": ({"products": "two"}, "second product", {}),
    "two, exhaustion, immunity": (
        {"products": "two", "exhaustion": "on", "immunity": "on"},
        "second product",
        {},
    ),
    "graft": ({"graft": "on"}, "graft", {}),
    "graft, fratricide": ({"graft": "on"}, "graft", {"FRATRICIDE": 0.3}),
    "cure": ({"cure": "on"}, FLU_CY, {}),
}
ADDED = {  # options -> what they add to states and parameters
    ("immunity", "on"): ({"J"}, {"rJ", "eJ", "CJ", "dJ", "j0", "kJ"}),
    ("exhaustion", "on"): ({"X"}, {"kEX", "dX"}),
    ("exhaustion", "nivolumab"): ({"X"}, {"kEX", "dX", "eps", "kres", "Kd"}),
    ("cure", "on"): ({"w"}, {"turnover"}),
}
EQUATIONS = {
    antigens: ("slopes", "start", "tumor"),
    cure: ("slope", "no_cell_left"),
    exhaustion: ("slopes", "slopes_with_antibody", "occupancy"),
    graft: ("slopes",),
    immunity: ("slope", "loss"),
}
OF_SWITCHES = "J|X|Nd|Hm|D|w|Bpp|Bpm|Bmp|Bmm|.*_2"


def load(name, **options):
    """The form with the values that the reference has."""
    return ck.load_model(name, **({"values": "as_full"} if name == "niche" else {}), **options)


def regimen_of(model, given):
    """The regimen itself, or the one of the model that has this in its name."""
    if isinstance(given, ck.Regimen):
        return given
    return next(r for name, r in model.regimens.items() if given in name)


def one(model, regimen, days, **changes):
    """One patient from day -10."""
    return solve_each(model, {"it": (regimen, changes)}, np.asarray(days, float))["it"]


class TestEquations:
    @FORMS
    @pytest.mark.parametrize("case", SWITCHES)
    def test_agree_with_scipy(self, name, case):
        options, given, changes = SWITCHES[case]
        model = load(name, **options)
        table = reference(name, case)
        days = table.index.to_numpy()
        run = one(model, regimen_of(model, given), days, **changes)
        if "graft" in case:  # before a graft there is 1e-30 of each
            table = table.assign(**{n: table[n].where(days > 30, 0.0) for n in ("Nd", "D")})
        assert_agrees(run, days, table)


class TestOff:
    @FORMS
    def test_there_is_nothing_of_them(self, name, monkeypatch):
        """No state, no parameter, no output, and no line of their equations runs."""
        for scenario, terms in EQUATIONS.items():
            for term in terms:
                monkeypatch.setattr(scenario, term, None)
        model = load(name)
        assert not [n for n in model.states.names() if re.fullmatch(OF_SWITCHES, n)]
        extra = {n for scenario in EQUATIONS for n in scenario.Params.info()}
        extra |= set(exhaustion.CheckpointParams.info())
        assert not extra & set(model.params.info())
        assert not [n for n in model.params.info() if n.endswith("_2")]
        assert set(model.inputs) <= {"flu", "cy"}
        assert set(model.targets) == {"car_t", "fludarabine", "cyclophosphamide"}
        y, c = model.start(model.params()), {name: 0.0 for name in model.inputs}
        traced = jax.make_jaxpr(model.vector_field)(0.0, y, model.params(), c)
        assert len(traced.in_avals) == 1 + len(y.names()) + len(model.params.info()) + len(c)

    @FORMS
    @pytest.mark.parametrize("switch", ADDED)
    def test_each_adds_its_own_and_nothing_else(self, name, switch):
        plain, model = load(name), load(name, **dict([switch]))
        states, params = ADDED[switch]
        assert set(model.states.names()) - set(plain.states.names()) == states
        assert set(model.params.info()) - set(plain.params.info()) == params

    @FORMS
    def test_together_they_are_refused_where_that_makes_no_sense(self, name):
        for options, named in (
            ({"products": "two", "graft": "on"}, 'products="two" and graft="on"'),
            ({"products": "two", "cure": "on"}, 'products="two" and cure="on"'),
            ({"denominator": "constant", "graft": "on"}, 'denominator="constant" and graft="on"'),
        ):
            with pytest.raises(ck.ModelError, match=re.escape(named)):
                load(name, **options)


@EITHER
class TestDesign:
    DAYS = np.arange(-9.0, 120.0, 0.5)

    def test_with_immunity_a_later_infusion_expands_less(self, name):
        """In a tumor that is not killed: one that is killed less stimulates more."""
        peaks = {}
        for switch in ("off", "on"):
            model = load(name, disease="solid", immunity=switch)
            run = one(model, THRICE, self.DAYS, gB=1e-3)
            peaks[switch] = [peak(run, self.DAYS, d + 1, d + 42)[0] for d in (0, 42, 84)]
        assert peaks["on"][0] == pytest.approx(peaks["off"][0], rel=0.02)
        assert peaks["on"][1] < 0.75 * peaks["off"][1]
        assert peaks["on"][2] < 0.5 * peaks["off"][2]
        assert 0 < run.immunity.min() < 2e-4 < 0.3 < run.immunity.max() < 1

    def test_with_exhaustion_fewer_cells_kill_and_an_antibody_brings_some_back(self, name):
        model = load(name, exhaustion="pembrolizumab", disease="solid")
        antibody = FLU_CY + ahamadi2017.doses(200.0, 21.0, 6).shift(14)
        cases = {"without": (FLU_CY, {}), "with": (antibody, {})}
        runs = solve_each(model, cases, self.DAYS)
        plain = one(load(name, disease="solid"), FLU_CY, self.DAYS)
        early, late = (self.DAYS > 1) & (self.DAYS < 14), self.DAYS > 20
        tired, helped = runs["without"], runs["with"]
        assert (tired.states.E[early] < plain.states.E[early]).all()
        np.testing.assert_allclose(tired.states.E[early], helped.states.E[early], rtol=1e-6)
        assert (
            helped.states.X[late]
            < helped.states.E[late] * tired.states.X[late] / tired.states.E[late]
        ).all()
        assert helped.tumor[-1] < tired.tumor[-1]
        assert (helped.pd1_occupancy[late] > 0.99).all()
        assert not tired.pd1_occupancy.any()

    def test_without_doses_an_antibody_changes_nothing(self, name):
        runs = [
            one(load(name, exhaustion=choice), FLU_CY, self.DAYS).car_t
            for choice in ("on", "nivolumab")
        ]
        np.testing.assert_allclose(*runs, rtol=1e-7)

    def test_a_tumor_escapes_one_product_without_its_antigen_and_the_second_takes_it(self, name):
        model = load(name, products="two")
        second = FLU_CY + ck.Regimen.cells(28, 1.45e9, product="car_t_2")
        often = {"mu1": 1e-3}
        cases = {
            "rare": (FLU_CY, {}),
            "often": (FLU_CY, often),
            "second": (second, often),
            "neither": (second, often | {"NEITHER": 0.01}),
        }
        runs = solve_each(model, cases, self.DAYS)
        escaped = {case: run.tumor[-1] for case, run in runs.items()}
        assert escaped["often"] > 10 * escaped["rare"]
        assert runs["often"].antigen_1[-1] < 0.01 < 0.99 < runs["often"].antigen_1[0]
        assert escaped["second"] < 0.5 * escaped["often"]
        assert escaped["neither"] > escaped["second"] + 1.0
        total = runs["second"].car_t_1 + runs["second"].car_t_2
        np.testing.assert_allclose(runs["second"].car_t, total, rtol=1e-12)
        assert not runs["often"].car_t_2.any()
        assert model.params.info()["rho_2"].value == model.params.info()["rho"].value

    def test_the_donor_takes_over_only_while_car_t_cells_hold_host_myeloid_cells_down(self, name):
        model = load(name, graft="on")
        days = np.arange(-9.0, 500.0)
        cases = {
            "in time": (FLU_CY + graft.REGIMEN, {}),
            "too late": (FLU_CY + graft.REGIMEN.shift(300), {}),
            "no CAR-T": (parts.FLU_3 + parts.CY_3 + graft.REGIMEN, {}),
            "fratricide": (FLU_CY + graft.REGIMEN, {"FRATRICIDE": 0.5}),
        }
        runs = solve_each(model, cases, days)
        day = np.searchsorted(days, 100)
        assert runs["in time"].chimerism_myeloid[day] > 0.9
        assert runs["no CAR-T"].chimerism_myeloid[day] < 0.1
        assert runs["too late"].chimerism_myeloid[-1] < 0.1
        assert runs["in time"].anc[np.searchsorted(days, 28)] < 0.5  # pancytopenia
        assert runs["in time"].anc[-1] == pytest.approx(4.0, rel=0.05)
        assert peak(runs["fratricide"], days)[0] < peak(runs["in time"], days)[0]
        run = runs["in time"]
        myeloid = run.states.Hm + run.states.D
        np.testing.assert_allclose(run.wbc, run.alc + myeloid, rtol=1e-12)
        both = run.states.N + run.states.Nd
        np.testing.assert_allclose(run.alc, both + run.car_t, rtol=1e-12)

    def test_the_chance_of_cure_rises_with_killing(self, name):
        model = load(name, cure="on")
        cases = {rate: (FLU_CY, {"gB": rate}) for rate in (0.5, 2.5, 5.0)}
        runs = solve_each(model, cases, np.append(self.DAYS, [200.0, 300.0]))
        low, middle, high = (run.cure[-1] for run in runs.values())
        assert 0 <= low < 1e-12 < middle < 1e-6 < 0.001 < high < 1
        assert (np.diff(runs[5.0].cure) >= -1e-12).all()


FELT = {  # options -> what is given, and outputs and states that feel them, all above 0
    "immunity, exhaustion": (
        {"immunity": "on", "exhaustion": "on"},
        FLU_CY,
        ("car_t", "immunity"),
    ),
    "two": ({"products": "two"}, "second product", ("car_t_1", "car_t_2", "antigen_1", "tumor")),
    "pembrolizumab, cure": (
        {"exhaustion": "pembrolizumab", "cure": "on"},
        FLU_CY + PEMBROLIZUMAB,
        ("car_t", "pd1_occupancy", "w"),
    ),
    "nivolumab, graft": (
        {"exhaustion": "nivolumab", "graft": "on"},
        FLU_CY + NIVOLUMAB + graft.REGIMEN,
        ("car_t", "pd1_occupancy", "chimerism_t", "chimerism_myeloid"),
    ),
}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        pytest.param("niche", "immunity, exhaustion", marks=pytest.mark.exhaustive),
        pytest.param("niche_full", "two", marks=pytest.mark.exhaustive),
        pytest.param("niche", "pembrolizumab, cure", marks=pytest.mark.exhaustive),
        ("niche", "nivolumab, graft"),
    ],
)
def test_gradients_are_those_of_central_differences(name, case):
    """Of the sum of these ln and that of the transgene, with respect to every parameter."""
    options, given, felt = FELT[case]
    model = load(name, **options)
    schedule = Schedule.of(model, [regimen_of(model, given)], [32.0, 36.0, 40.0], start=-10.0)
    typical = jax.tree.map(lambda x: jnp.full((1, 1), x), model.params())
    solver = Solver.prepare(schedule, typical, rtol=1e-2, share=1.0)  # any mesh will do
    assert solver.mesh is not None, solver.why

    def together(params):
        states, outputs, *_ = solver.run(params)
        levels = vars(states) | outputs
        return {"all": math.prod(levels[x] for x in (*felt, "transgene"))}

    assert_has_gradients(model, together, "all", size=1e-5, rtol=1e-3)

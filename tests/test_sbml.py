"""SBML files: what they mean here, and what is refused. Every text is made by these tests."""

import math
import pickle
import re
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import carpk as ck
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver

libsbml = pytest.importorskip("libsbml")

SECONDS = {"minute": 60, "hour": 3600, "day": 86400, "week": 604800}


def tag(element, /, *inside, **attributes):
    """An XML element."""
    written = "".join(f' {k}="{v}"' for k, v in attributes.items() if v is not None)
    return f"<{element}{written}>{''.join(inside)}</{element}>"


def listed(name, *items):
    return tag(f"listOf{name}", *items) if items else ""


def mathml(formula):
    node = libsbml.parseL3Formula(formula)
    assert node is not None, libsbml.getLastParseL3Error()
    return libsbml.writeMathMLToString(node).split("?>", 1)[1]


def participants(name, text, three):
    """A side of a reaction from "A + 2 B"."""
    terms = [term.split() for term in text.split("+") if term.strip()]
    constant = "true" if three else None
    return listed(
        name,
        *(
            tag(
                "speciesReference",
                species=term[-1],
                stoichiometry=term[0] if term[1:] else 1,
                constant=constant,
            )
            for term in terms
        ),
    )


def sbml(
    version="3.2",
    time="day",
    functions=None,
    sizes=None,
    species=None,
    parameters=None,
    first=None,
    rules=(),
    reactions=None,
    events=None,
    units="",
):
    """The text of a file, from infix formulas.

    species: name -> attributes; rules: "x = formula", "x' = formula", or algebraic; reactions:
    name -> ("A + 2 B -> C", rate, local parameters); events: name -> (trigger, "x = formula", ..).
    """
    level, three = version.split("."), version[0] == "3"
    if time:
        second = tag("unit", kind="second", multiplier=SECONDS[time], exponent=1, scale=0)
        units += tag("unitDefinition", listed("Units", second), id="t" if three else "time")
    plain = {"hasOnlySubstanceUnits": "false", "boundaryCondition": "false", "constant": "false"}
    changes = {"Assignment": [], "Rate": []}
    for rule in rules:
        name, _, formula = rule.rpartition(" = ")
        if not name:
            changes["Rate"].append(tag("algebraicRule", mathml(formula)))
            continue
        kind = "Rate" if "'" in name else "Assignment"
        variable = name.strip().rstrip("'")
        changes[kind].append(tag(f"{kind.lower()}Rule", mathml(formula), variable=variable))
    all_reactions = []
    for name, (scheme, rate, local) in (reactions or {}).items():
        left, right = scheme.split("->")
        kind = "localParameter" if three else "parameter"
        constants = [tag(kind, id=k, value=v) for k, v in local.items()]
        law = mathml(rate) + listed(kind[0].upper() + kind[1:] + "s", *constants)
        all_reactions.append(
            tag(
                "reaction",
                participants("Reactants", left, three) + participants("Products", right, three),
                tag("kineticLaw", law),
                id=name,
                reversible="false",
                fast="false" if version == "3.1" else None,
            )
        )
    yes = "true" if three else None
    all_events = []
    for name, (trigger, *changed) in (events or {}).items():
        pairs = [change.split("=", 1) for change in changed]
        done = [tag("eventAssignment", mathml(f), variable=x.strip()) for x, f in pairs]
        when = tag("trigger", mathml(trigger), initialValue=yes, persistent=yes)
        changed = listed("EventAssignments", *done)
        all_events.append(tag("event", when, changed, id=name, useValuesFromTriggerTime=yes))
    volumes = (sizes or {"V": 1.0}).items()
    model = [
        listed(
            "FunctionDefinitions",
            *(
                tag("functionDefinition", mathml(f), id=name)
                for name, f in (functions or {}).items()
            ),
        ),
        listed("UnitDefinitions", *([units] if units else [])),
        listed(
            "Compartments",
            *(
                tag("compartment", id=k, size=v, spatialDimensions=3, constant="true")
                for k, v in volumes
            ),
        ),
        listed(
            "Species",
            *(
                tag("species", **{"id": name, "compartment": "V", **plain, **about})
                for name, about in (species or {}).items()
            ),
        ),
        listed(
            "Parameters",
            *(
                tag("parameter", id=k, value=v, constant="false")
                for k, v in (parameters or {}).items()
            ),
        ),
        listed(
            "InitialAssignments",
            *(tag("initialAssignment", mathml(f), symbol=k) for k, f in (first or {}).items()),
        ),
        listed("Rules", *changes["Assignment"], *changes["Rate"]),
        listed("Reactions", *all_reactions),
        listed("Events", *all_events),
    ]
    space = f"http://www.sbml.org/sbml/level{level[0]}/version{level[1]}"
    space += "/core" if three else ""
    whole = tag(
        "model",
        *(f"\n{part}" for part in model if part),
        id="m",
        name="The title",
        timeUnits="t" if three and time else None,
    )
    document = tag("sbml", whole, xmlns=space, level=level[0], version=level[1])
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{document}'


@pytest.fixture
def load(tmp_path):
    """Writes a text to a file and loads it."""

    def loaded(text=None, name="file.xml", **content):
        path = tmp_path / name
        path.write_text(sbml(**content) if text is None else text, encoding="utf-8")
        return ck.load_model(path)

    return loaded


def flat(text):
    """Without line breaks."""
    return " ".join(text.split())


def decay(**more):
    """x' = -k x from 8, k = 0.5, in the file's time."""
    return {"parameters": {"x": 8.0, "k": 0.5}, "rules": ["x' = -k * x"], **more}


def levels(model, days, regimen=None, **options):
    """Outputs of the typical patient from day 0 on; after events, at their time."""
    regimen = model.regimens.get("file", ck.Regimen()) if regimen is None else regimen
    solution = ck.solve(model, regimen, days, start=0.0, after=True, **options)
    assert not solution.reason
    return {name: np.asarray(x) for name, x in solution.outputs.items()}


def slopes(model, day=0.0, **y):
    """Derivatives per day, where states are not as at the start."""
    start = model.start(model.params())
    level = type(start)(**{**vars(start), **y})
    return {k: float(v) for k, v in vars(model.vector_field(day, level, model.params())).items()}


def output(model, name, day=0.0):
    """An output with the states as at the start."""
    return float(model.outputs[name](day, model.start(model.params()), model.params()))


class TestWhatTheEquationsMean:
    @pytest.mark.slow
    def test_rate_rules_give_the_librarys_own_model(self, load):
        rate = "(rhoC + b * (T - KN)^2 / (a * T^2 + (T - KN)^2))"
        model = load(
            parameters={
                **{"N": 6.0, "C": 0.36, "B": 94.86, "T": None, "KN": 500.0, "KC": 139.0},
                **{"rN": 0.17, "rhoC": 0.0251, "a": 0.423, "b": 0.525, "rB": 0.19},
                **{"gammaB": 1.15, "kB": 4.05},
            },
            rules=[
                "T = N + C",
                "N' = -rN * N * ln(T / KN)",
                f"C' = -{rate} * C * ln(T / KC)",
                "B' = rB * B - gammaB * B * C / (kB + C)",
            ],
        )
        days = np.linspace(0, 120, 25)
        ours = ck.load_model("kimmel2021")
        theirs = ck.solve(ours, ours.regimens["paper"], days, after=True)
        mine = levels(model, days)
        for name, output in {"N": "t_cells", "C": "car_t", "B": "tumor"}.items():
            np.testing.assert_allclose(mine[name], theirs[output], rtol=1e-6)
        np.testing.assert_allclose(mine["T"], mine["N"] + mine["C"], rtol=1e-12)

    NETWORK = {  # noqa: RUF012
        "sizes": {"V": 2.5},
        "species": {
            "prey": {"initialConcentration": 4.0},
            "hunter": {"initialAmount": 3.0, "hasOnlySubstanceUnits": "true"},
            "grass": {"initialAmount": 5.0, "boundaryCondition": "true"},
        },
        "parameters": {"k": 0.02},
        "reactions": {
            "birth": ("grass + prey -> 3 prey", "V * k * grass * prey", {"k": 0.3}),
            "meal": ("prey + hunter -> 2 hunter", "k * prey * hunter", {}),
            "death": ("hunter ->", "k * hunter", {"k": 0.4}),
        },
    }

    @staticmethod
    def network(t, y):
        """Prey as a concentration, hunters as an amount, in 2.5 L; a birth adds two prey."""
        prey, hunter = y
        birth, meal = 2.5 * 0.3 * (5.0 / 2.5) * prey, 0.02 * prey * hunter
        return [(2 * birth - meal) / 2.5, meal - 0.4 * hunter]

    def test_reactions_agree_with_scipy(self, load):
        model, days = load(**self.NETWORK), np.linspace(0, 6, 13)
        truth = solve_ivp(self.network, (0, 6), [4, 3], "DOP853", days, rtol=1e-12, atol=1e-12).y
        mine = levels(model, days)
        np.testing.assert_allclose(mine["prey"], truth[0], rtol=1e-6)
        np.testing.assert_allclose(mine["hunter"], truth[1], rtol=1e-6)

    @pytest.mark.parametrize("version", ["2.4", "3.1", "3.2"])
    def test_reactions_mean_the_same_in_every_version(self, load, version):
        model = load(version=version, **self.NETWORK)
        names = ("k", "grass_0", "prey_0", "hunter_0", "V", "birth_k", "death_k")
        assert set(model.params.info()) == set(names)
        assert list(model.outputs) == ["prey", "hunter"]
        expected = dict(zip(("prey", "hunter"), self.network(0, (7.0, 2.0)), strict=True))
        assert slopes(model, prey=7.0, hunter=2.0) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize("version", ["2.4", "3.2"])
    def test_functions_rules_and_initial_assignments(self, load, version):
        """Rules in any order; functions whose arguments have the names of parameters."""
        model = load(
            version=version,
            functions={"less": "lambda(x, y, x - y)", "twice": "lambda(y, less(y, -y))"},
            parameters={"x": 8.0, "y": 3.0, "k": None, "half": None, "sum": None, "z": None},
            first={"k": "half / z", "z": "2 * x"},
            rules=["sum = less(half, y)", "half = x / 2", "x' = -k * twice(x)", "z' = 1"],
        )
        assert set(model.params.info()) == {"x_0", "y"}
        assert slopes(model, x=5.0, z=1.0) == pytest.approx({"x": -(4 / 16) * 10, "z": 1.0})
        assert output(model, "sum") == 1.0
        start = model.start(model.params(x_0=2.0))
        assert (float(start.x), float(start.z)) == (2.0, 4.0)

    def test_every_function_has_its_value(self, load):
        formulas = {
            "2 * 3 - -4 / 5": 6.8,
            "2^3 + 10^-2 + (-2)^2": 12.01,
            "root(3, 27) + sqrt(16)": 7.0,
            "log(2, 8) + log10(1000) + ln(exp(2))": 8.0,
            "abs(-3) + floor(2.7) + ceil(2.1)": 8.0,
            "max(1, 5, 3) - min(2, 0.5, 4)": 4.5,
            "quotient(7, 2) + rem(7, 2)": 4.0,
            "sin(1) + cos(1) + tan(1)": math.sin(1) + math.cos(1) + math.tan(1),
            "sec(1) * cos(1) + csc(1) * sin(1) + cot(1) * tan(1)": 3.0,
            "sinh(1) + cosh(1) + tanh(1)": math.e + math.tanh(1),
            "sech(1) * cosh(1) + csch(1) * sinh(1) + coth(1) * tanh(1)": 3.0,
            "arcsin(0.5) + arccos(0.5) + arctan(2)": math.pi / 2 + math.atan(2),
            "arcsec(2) + arccsc(2) + arccot(0.5)": math.pi / 2 + math.atan(2),
            "arcsinh(1) + arccosh(2) + arctanh(0.5)": math.asinh(1)
            + math.acosh(2)
            + math.atanh(0.5),
            "arccsch(1) + arcsech(0.5) + arccoth(2)": math.asinh(1)
            + math.acosh(2)
            + math.atanh(0.5),
            "pi + exponentiale": math.pi + math.e,
            "avogadro / 1e23": 6.02214179,
            "piecewise(1, x > 9, 2, x > 7, 3)": 2.0,
            "piecewise(1, x > 9, 3)": 3.0,
            "piecewise(1, x >= 8 && x <= 8, 3)": 1.0,
            "piecewise(1, x < 3 || !(x == 8), 3)": 3.0,
            "piecewise(1, xor(x != 8, true), 3)": 1.0,
            "piecewise(1, implies(x == 8, false), 3)": 3.0,
            "piecewise(1, gt(9, x, 7), 3)": 1.0,
            "k + 2 * time": 0.5,
        }
        names = [f"v{i}" for i in range(len(formulas))]
        parameters = {"x": 8.0, "k": 0.5, **dict.fromkeys(names)}
        rules = [f"{name} = {formula}" for name, formula in zip(names, formulas, strict=True)]
        model = load(parameters=parameters, rules=["x' = -k * x", *rules])
        for (formula, value), name in zip(formulas.items(), names, strict=True):
            assert output(model, name) == pytest.approx(value, rel=1e-12), formula

    def test_a_piece_that_does_not_hold_leaves_no_nan_in_derivatives(self, load):
        rules = ["x' = -k * x", "y = piecewise(sqrt(x - 9) + ln(x - 9), x > 9, k * x^2)"]
        model = load(parameters={"x": 8.0, "k": 0.5, "y": None}, rules=rules)
        y, p = model.start(model.params()), model.params()
        slope = jax.grad(lambda level: model.outputs["y"](0.0, type(y)(x=level), p))(8.0)
        assert float(slope) == pytest.approx(8.0)

    def test_a_constant_species_and_a_conversion_factor(self, load):
        """L3: what happens, in mol, counts a thousandfold in the species' own unit."""
        text = sbml(
            sizes={"V": 4.0},
            species={
                "A": {"initialAmount": 8.0, "conversionFactor": "f"},
                "E": {"initialConcentration": 2.0, "constant": "true", "boundaryCondition": "true"},
            },
            parameters={"f": 1000.0, "k": 1e-3},
            reactions={"decay": ("A + E -> E", "k * E * A * V", {})},
        )
        model = load(text)
        assert {"E", "f"} <= set(model.params.info())
        assert model.params.info()["A_0"].unit == "unit not stated"
        assert model.params.info()["A_0"].about == "A at time 0"
        assert output(model, "A") == 2.0
        assert slopes(model, A=3.0) == pytest.approx({"A": -6.0})

    def test_a_species_without_space_is_an_amount(self, load):
        text = sbml(
            sizes={"V": 4.0},
            species={"A": {"initialAmount": 8.0}},
            reactions={"decay": ("A ->", "k * A", {"k": 0.5})},
        )
        model = load(text.replace('size="4.0" spatialDimensions="3"', 'spatialDimensions="0"'))
        assert slopes(model) == {"A": -4.0}

    def test_the_mesh_route_has_the_exact_gradient(self, load):
        model = load(**decay())
        schedule = Schedule.of(model, [ck.Regimen()], np.array([0.0, 1.0, 3.0]))

        def last(params):
            return solver(jax.tree.map(lambda x: jnp.asarray(x, float)[None], params))["x"][0, -1]

        reference = jax.tree.map(lambda x: jnp.full((1, 1), x), model.params())
        solver = Solver.prepare(schedule, reference, rtol=1e-6)
        assert "mesh" in solver.describe()
        slopes = jax.grad(last)(model.params())
        assert float(slopes.k) == pytest.approx(-3 * 8 * math.exp(-1.5), rel=1e-5)
        assert float(slopes.x_0) == pytest.approx(math.exp(-1.5), rel=1e-5)


class TestTime:
    @pytest.mark.parametrize("version", ["2.4", "3.1"])
    @pytest.mark.parametrize(("unit", "day"), [("hour", 24.0), ("week", 1 / 7), ("day", 1.0)])
    def test_rates_events_and_the_clock_are_turned_into_days(self, load, version, unit, day):
        content = decay(events={"dose": (f"time >= {2 * day}", "x = x + 4")})
        content["parameters"]["clock"] = None
        content["rules"] = [*content["rules"], "clock = time"]
        with warnings.catch_warnings():
            warnings.simplefilter("error", ck.CarpkWarning)
            model = load(version=version, time=unit, **content)
        assert [e.time for e in model.regimens["file"].events] == [pytest.approx(2.0)]
        assert output(model, "clock", 3.0) == pytest.approx(3 * day)
        assert slopes(model) == pytest.approx({"x": -4.0 * day})
        assert ("A day has" in model.doc) == (unit != "day")

    @pytest.mark.parametrize(("version", "where"), [("2.4", '"time"'), ("3.1", "timeUnits")])
    def test_time_without_a_unit_is_days_and_says_so_once(self, load, version, where):
        with pytest.warns(ck.CarpkWarning, match=f"taken as the day.*{where}"):
            model = load(version=version, time=None, **decay())
        assert "does not state its unit of time" in flat(model.doc)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ck.CarpkWarning)
            ck.load_model(model.origin["name"])
        assert slopes(model) == {"x": -4.0}


class TestEvents:
    CONTENT = {  # noqa: RUF012
        "parameters": {"x": 8.0, "k": 0.5, "dose": 3.0, "at": 2.0, "free": 1.0},
        "events": {
            "add": ("time >= at", "x = x + 2 * dose"),
            "take": ("geq(time, 4) && time < 4.5", "x = x * 0.25"),
            "both": ("6 < time", "x = dose + x / 2"),
            "set": ("time > 8", "x = dose", "free = 5"),
            "early": ("time >= 0", "x = 1000"),
        },
    }

    @pytest.mark.parametrize("version", ["2.4", "3.1", "3.2"])
    def test_they_are_doses_and_changes_of_state(self, load, version):
        model = load(version=version, **decay(**self.CONTENT))
        assert [
            (type(e).__name__, e.time, e.amount, e.compartment)
            for e in model.regimens["file"].events
        ] == [
            ("Bolus", 2.0, 6.0, "x"),
            ("Multiply", 4.0, 0.25, "x"),
            ("Multiply", 6.0, 0.5, "x"),
            ("Bolus", 6.0, 3.0, "x"),
            ("Replace", 8.0, 3.0, "x"),
            ("Replace", 8.0, 5.0, "free"),
        ]
        assert {"dose", "at"}.isdisjoint(model.params.info())
        assert "'early' never happens" in flat(model.doc)

    def test_they_have_their_effect(self, load):
        x, e = [8 * math.exp(-0.5)], math.exp(-1.0)
        x.append(8 * e + 6)
        x.append(x[1] * e * 0.25)
        x.append(x[2] * e / 2 + 3)
        x.extend([3.0, 3 * e])
        mine = levels(load(**decay(**self.CONTENT)), [1.0, 2.0, 4.0, 6.0, 8.0, 10.0])
        np.testing.assert_allclose(mine["x"], x, rtol=1e-6)
        np.testing.assert_allclose(mine["free"], [1, 1, 1, 1, 5, 5])

    def test_an_event_that_was_false_before_the_start_happens_at_the_start(self, load):
        text = sbml(**decay(events={"dose": ("time >= 0", "x = x + 4")}))
        model = load(text.replace('initialValue="true"', 'initialValue="false"'))
        assert [(e.time, e.amount) for e in model.regimens["file"].events] == [(0.0, 4.0)]

    def test_ones_own_go_into_a_state_by_its_name(self, load):
        """What starts at 0 has no parameter for it."""
        model = load(**decay(parameters={"x": 0.0, "k": 0.5}))
        assert set(model.params.info()) == {"k"}
        regimen = ck.Regimen((ck.Replace(0.0, 8.0, "x"), ck.Bolus(1.0, 4.0, product="x")))
        x = levels(model, [2.0], regimen)["x"]
        assert x == pytest.approx([8 * math.exp(-1.0) + 4 * math.exp(-0.5)])

    def test_a_dose_is_in_mg_where_the_state_is_a_mass(self, load):
        milligram = tag("unit", kind="gram", exponent=1, scale=-3, multiplier=1)
        text = sbml(
            units=tag("unitDefinition", listed("Units", milligram), id="milligram"),
            **decay(events={"dose": ("time >= 1", "x = x + 4")}),
        )
        model = load(text.replace('id="x"', 'id="x" units="milligram"'))
        assert model.units["x"] == "mg"
        assert model.regimens["file"].doses[0].unit == "mg"


class TestConditionsOnTime:
    """The equations change on a day: a state does it, so that no solver steps over it."""

    CONTENT = {  # noqa: RUF012
        "parameters": {"x": 1.0, "grow": 0.8, "fall": 0.3, "peak": 3.0},
        "rules": ["x' = piecewise(grow, time <= peak, -fall) * x"],
    }

    def test_a_day_that_is_a_parameter_stays_one(self, load):
        model = load(**self.CONTENT)
        model.check()
        model.check_derivatives()
        days = np.array([1.0, 3.0, 5.0])
        for peak in (3.0, 4.0):
            x = np.exp(0.8 * np.minimum(days, peak) - 0.3 * np.maximum(days - peak, 0))
            mine = levels(model, days, params=model.params(peak=peak))
            np.testing.assert_allclose(mine["x"], x, rtol=1e-6)
        assert list(model.outputs) == ["x"]
        assert 'regimens["file"]' in model.doc

    @pytest.mark.slow
    def test_the_gradient_knows_of_the_day(self, load):
        model = load(**self.CONTENT)
        schedule = Schedule.of(model, [model.regimens["file"]], np.array([1.0, 5.0]))

        def last(peak):
            params = model.params(peak=peak)
            return solver(jax.tree.map(lambda x: jnp.asarray(x, float)[None], params))["x"][0, -1]

        reference = jax.tree.map(lambda x: jnp.full((1, 1), x), model.params())
        solver = Solver.prepare(schedule, reference, rtol=1e-6)
        x = math.exp(0.8 * 3 - 0.3 * 2)
        assert float(last(3.0)) == pytest.approx(x, rel=1e-5)
        assert float(jax.grad(last)(3.0)) == pytest.approx(1.1 * x, rel=1e-4)

    def test_a_window_between_numbers_is_two_changes(self, load):
        """An hour's infusion in a file in hours, though no step of the solver looks there."""
        model = load(
            time="hour",
            parameters={"x": 0.0, "k": 0.1, "rate": None, "start": None},
            rules=[
                "start = 24 * 5",
                "rate = piecewise(7, time >= start && time - start < 1, 0)",
                "x' = rate - k * x",
            ],
        )
        changes = [e.time for e in model.regimens["file"].events]
        assert changes == [pytest.approx(5.0), pytest.approx(5 + 1 / 24)]
        left = 70 * (1 - math.exp(-0.1)) * math.exp(-0.1 * 23)
        mine = levels(model, [0.0, 4.9, 6.0])
        np.testing.assert_allclose(mine["x"], [0, 0, left], rtol=1e-6)
        np.testing.assert_allclose(mine["rate"], 0.0)

    def test_a_condition_that_is_decided_before_the_start_is_none(self, load):
        rules = ["x' = piecewise(1, time > -1, 1000) - k * x"]
        model = load(parameters={"x": 0.0, "k": 0.5}, rules=rules)
        assert not model.regimens
        assert slopes(model) == {"x": 1.0}


class TestTheModelAsAnObject:
    def test_parameters_have_unit_meaning_and_source(self, load):
        per_day = tag("unit", kind="second", exponent=-1, scale=0, multiplier=86400)
        cell = tag("unit", kind="item", exponent=1, scale=0, multiplier=1)
        microlitre = tag("unit", kind="litre", exponent=1, scale=-6, multiplier=1)
        units = [("per_day", per_day), ("substance", cell), ("volume", microlitre)]
        text = sbml(
            version="2.4",
            units="".join(tag("unitDefinition", listed("Units", u), id=k) for k, u in units),
            species={"C": {"initialConcentration": 2.0, "name": "CAR-T cells"}},
            parameters={"k": -0.5, "none": 0.0},
            reactions={"growth": ("-> C", "V * (none - k) * C", {})},
        )
        text = text.replace('id="k"', 'id="k" name="net loss" units="per_day"')
        info = load(text, "mine.sbml").params.info()
        k = info["k"]
        assert (k.value, k.unit, k.about, k.source) == (-0.5, "1/day", "net loss", "mine.sbml, k")
        assert k.bounds == info["none"].bounds == (-math.inf, math.inf)
        assert info["none"].unit == "unit not stated"
        start = info["C_0"]
        assert (start.unit, start.about, start.source) == (
            *("item/µL", "CAR-T cells at time 0", "mine.sbml, C"),
        )
        assert start.bounds == (0.0, math.inf)
        assert info["V"].unit == "µL"

    def test_it_prints_and_says_what_was_made_of_the_file(self, load):
        notes = "<notes><body><p>Cells &amp; more.</p><p>doi:10.1000/xyz.7.</p></body></notes>"
        text = sbml(**decay(events={"dose": ("time > 1", "x = x + 1")}))
        text = text.replace('timeUnits="t">', f'timeUnits="t">{notes}'.replace("<body>", BODY))
        model = load(text)
        assert model.about == "The title"
        assert "Cells & more." in model.doc
        assert 'Its events are in regimens["file"].' in flat(model.doc)
        assert model.reference == "doi:10.1000/xyz.7"
        assert "x_0" in repr(model)
        assert model.states.describe().loc["x", "unit"] == "unit not stated"

    def test_an_unread_constant_is_left_out(self, load):
        model = load(**decay(parameters={"x": 8.0, "k": 0.5, "spare": 3.0}))
        assert set(model.params.info()) == {"x_0", "k"}
        assert "Left out, as no equation has them: spare, V." in flat(model.doc)

    def test_names_that_python_has_for_itself(self, load):
        model = load(
            parameters={"lambda": 0.5, "names": 8.0, "items": 2.0, "items_": 3.0, "self": 1.0},
            rules=["names' = -lambda * names * items / items_ * self"],
        )
        assert set(model.params.info()) == {"lambda_", "items__", "items_", "self_", "names_0"}
        assert slopes(model) == pytest.approx({"names_": -8.0 / 3})

    def test_it_is_the_same_until_the_file_changes(self, load):
        model, text = load(**decay()), sbml(**decay())
        assert load(text).vector_field is model.vector_field
        assert hash(load(text)) == hash(model)
        changed = load(text.replace('value="8.0"', 'value="9.0"'))
        assert changed.params().x_0 == 9.0
        assert changed.vector_field is not model.vector_field

    def test_it_can_be_pickled(self, load):
        model = load(**decay(events={"dose": ("time > 1", "x = x + 1")}))
        again = pickle.loads(pickle.dumps(model))
        assert again == model
        assert again.params is model.params
        assert pickle.loads(pickle.dumps(model.params(k=0.7))).k == 0.7


BODY = '<body xmlns="http://www.w3.org/1999/xhtml">'


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"rules": ["x' = -k * delay(x, 1)"]}, r"the rule for 'x' uses 'delay'"),
            ({"rules": ["x' = -k * factorial(x)"]}, "uses 'factorial'"),
            ({"rules": ["x' = -k * rateOf(x)"]}, "uses 'rateOf'"),
            ({"rules": ["x' = -k * nowhere"]}, "'nowhere', which the file does not define"),
            ({"rules": ["x' = f(k)"]}, r"calls 'f' with 1 arguments, but the file has no formula"),
            (
                {"rules": ["x' = f(k)"], "functions": {"f": "lambda(a, b, a + b)"}},
                "calls 'f' with 1 arguments",
            ),
            ({"parameters": {"x": 8.0, "k": None}}, "'k' has no value at time 0"),
            ({"parameters": {"x": None, "k": 1.0}}, "'x' has no value at time 0"),
            (
                {
                    "parameters": {"x": 1, "k": None, "a": None},
                    "rules": ["x' = k", "k = a", "a = k"],
                },
                "defined by itself",
            ),
            ({"first": {"x": "ln(-k)"}}, "'x' is nan at time 0"),
            ({"rules": ["V = 2", "x' = -k * x"]}, "the rule for 'V' changes the compartment 'V'"),
            ({"rules": ["x = k"]}, "no differential equation"),
            ({"rules": ["x - 2 * k"]}, "algebraic rule"),
            ({"rules": ["x' = sin(time) * floor(time / 7)"]}, "the rule for 'x' switches with"),
            ({"rules": ["x' = piecewise(1, rem(time, 7) < 1, 0)"]}, "give its pulses as a Regimen"),
            ({"rules": ["x' = piecewise(1, time > x, 0)"]}, "not once and at a known time"),
            ({"rules": ["x' = piecewise(1, sin(time) > 0, 0)"]}, "not once and at a known time"),
            ({"rules": ["x' = piecewise(1, time == 3, 0)"]}, "not once and at a known time"),
            (
                {"events": {"e": ("x > 3", "x = 1")}},
                "trigger of event 'e' is not a time, but x > 3",
            ),
            ({"events": {"e": ("time > x", "x = 1")}}, "event 'e' switches with time, but not"),
            ({"events": {"e": ("time > 3 || time < 1", "x = 1")}}, "is not a time"),
            ({"events": {"e": ("time > 3", "x = x^2")}}, r"event 'e' sets 'x' to x\^2, but may"),
            (
                {"events": {"e": ("time > 3", "x = k"), "f": ("time > 4", "k = 2")}},
                "event 'e' sets 'x' to k, but may only",
            ),
            ({"events": {"e": ("time > 3", "x = x - 2")}}, "event 'e' cannot be given as a dose"),
            ({"events": {"e": ("time > 3", "V = 2")}}, "event 'e' changes the compartment 'V'"),
            (
                {"reactions": {"R": ("nobody ->", "k", {})}},
                "names 'nobody', which is not a species",
            ),
        ],
    )
    def test_what_is_not_an_equation_of_ours_is_refused_by_name(self, load, change, words):
        with pytest.raises(ck.ModelError, match=words):
            load(**decay(**change))

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ('fast="false"', 'fast="true"', "'R' is fast"),
            ("<kineticLaw>.*</kineticLaw>", "", "'R' has no kinetic law"),
            (' stoichiometry="1"', "", "the stoichiometry of 'S' in reaction 'R' .* not given"),
            ('<speciesReference species="S"', '<speciesReference id="y" species="S"', "a formula"),
            ("</trigger>", f"</trigger><delay>{mathml('2')}</delay>", "event 'e' has a delay"),
            ("</trigger>", f"</trigger><priority>{mathml('2')}</priority>", "'e' has a priority"),
            ('compartment="V"', 'compartment="W"', "'S' is in no compartment"),
            ('size="1.0" ', "", "'V' has no value at time 0"),
            ("</listOfRules>", "", r"line \d+: .*[Tt]ag mismatch.* Correct the file"),
            ('id="S" ', 'id="S" colour="red" ', r"line \d+: .*colour"),
            ("<ci> k </ci>", "<limit/>", r"line \d+: "),
            ("level3", "level1", "no model of SBML Level 2 or 3|line"),
        ],
    )
    def test_parts_of_a_file_are_refused_by_name(self, load, old, new, words):
        text = sbml(
            version="3.1",
            species={"S": {"initialAmount": 2.0}},
            parameters={"x": 8.0, "k": 0.5},
            first={"y": "2"} if 'id="y"' in new else None,
            rules=["x' = -k * x"],
            reactions={"R": ("S ->", "k * S", {})},
            events={"e": ("time > 3", "x = 1")},
        )
        changed = re.sub(old, lambda _: new, text, flags=re.S)
        assert changed != text
        with pytest.raises(ck.ModelError, match=words):
            load(changed)

    @pytest.mark.parametrize(
        ("package", "required", "part"),
        [
            ("comp", "true", ""),
            ("comp", "true", '<comp:listOfPorts><comp:port comp:id="p" comp:idRef="k"/>'),
            ("layout", "false", '<layout:listOfLayouts><layout:layout layout:id="l"/>'),
        ],
    )
    def test_a_package_is_refused_where_it_is_needed_and_used(self, load, package, required, part):
        space = f"http://www.sbml.org/sbml/level3/version1/{package}/version1"
        head = f' xmlns:{package}="{space}" {package}:required="{required}" level='
        text = sbml(version="3.1", **decay()).replace(" level=", head, 1)
        if part:
            ending = f"</{part[1 : part.index('>')]}></model>"
            text = text.replace("</model>", part + ending)
        if part and required == "true":
            with pytest.raises(ck.ModelError, match="needs the SBML package 'comp'"):
                load(text)
        else:
            assert load(text)

    @pytest.mark.parametrize("text", ["", "hello", "<html><body>no</body></html>", "{}"])
    def test_what_is_not_sbml_is_refused(self, load, text):
        with pytest.raises(ck.ModelError, match=r"file\.xml, line \d+: "):
            load(text)

    def test_without_libsbml_it_says_what_to_install(self, load, monkeypatch):
        monkeypatch.setitem(sys.modules, "libsbml", None)
        monkeypatch.delitem(sys.modules, "carpk.sbml", raising=False)
        monkeypatch.delattr(sys.modules["carpk"], "sbml", raising=False)
        with pytest.raises(ck.ModelError, match=r'pip install "carpk\[sbml\]"'):
            load(**decay())

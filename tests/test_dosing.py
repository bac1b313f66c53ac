"""Regimens: they add up, sort, shift and resolve; what cannot be given is refused with advice."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import carpk as ck
from carpk import dosing
from carpk.dosing import body
from carpk.dosing.regimen import PRESETS

CELLS = ck.Regimen.cells(day=[0, 42, 84], amount=1e8)


def days(regimen):
    return [float(event.time) for event in regimen.events]


def test_regimens_add_up_in_order_of_time_whatever_the_order_of_the_sum():
    flucy = ck.Regimen.lymphodepletion("Flu/Cy")
    both = CELLS + flucy
    assert days(both) == sorted(days(CELLS) + days(flucy))
    assert days(flucy + CELLS) == days(both)
    assert len(both.infusions) == 3
    assert len(both.drugs) == 6
    assert (both + ck.Regimen()).describe().equals(both.describe())


def test_a_regimen_does_not_add_to_anything_else():
    with pytest.raises(TypeError):
        CELLS + 1


def test_shift_moves_every_event_and_nothing_else():
    moved = CELLS.shift(-7)
    assert days(moved) == [-7, 35, 77]
    assert days(CELLS) == [0, 42, 84]
    assert moved.shift(7).describe().equals(CELLS.describe())


def test_one_amount_serves_all_days_and_a_list_goes_day_by_day():
    assert [e.amount for e in CELLS.events] == [1e8] * 3
    fractionated = ck.Regimen.cells(day=[2, 0, 1], amount=[6e7, 1e7, 3e7])
    assert [(e.time, e.amount) for e in fractionated.events] == [(0, 1e7), (1, 3e7), (2, 6e7)]


THREE = "-5, -4, -3"
PRINTED = {  # preset -> (product, amount, unit, days), written down from the sources
    "Flu/Cy": [("fludarabine", 30, "mg/m2", THREE), ("cyclophosphamide", 500, "mg/m2", THREE)],
    "Flu/Cy 30/300": [
        ("fludarabine", 30, "mg/m2", THREE),
        ("cyclophosphamide", 300, "mg/m2", THREE),
    ],
    "Flu/Cy 40/500 x2": [
        ("fludarabine", 40, "mg/m2", "-4, -3"),
        ("cyclophosphamide", 500, "mg/m2", "-4, -3"),
    ],
    "Flu/Cy 25/60 mg/kg": [
        ("cyclophosphamide", 60, "mg/kg", "-6"),
        ("fludarabine", 25, "mg/m2", THREE),
    ],
    "tisa-cel": [
        ("fludarabine", 30, "mg/m2", "-6, -5, -4, -3"),
        ("cyclophosphamide", 500, "mg/m2", "-6, -5"),
    ],
    "HEROS Flu/Cy": [  # both for two days, Flu for three more, two days of rest (NCT00902044)
        ("fludarabine", 25, "mg/m2", "-7, -6, -5, -4, -3"),
        ("cyclophosphamide", 30, "mg/kg", "-7, -6"),
    ],
    "HEROS Flu": [("fludarabine", 25, "mg/m2", "-7, -6, -5, -4, -3")],
    "Flu 25 x5": [("fludarabine", 25, "mg/m2", "-6, -5, -4, -3, -2")],
    "Flu": [("fludarabine", 30, "mg/m2", THREE)],
    "bendamustine": [("multiply N", 0.5, "", "-4, -3")],
}


def test_presets_hold_the_doses_of_their_sources():
    table = dosing.presets()
    columns = ["product", "amount", "unit", "days"]
    found = {
        name: [tuple(row) for row in rows[columns].to_numpy()]
        for name, rows in table.groupby("preset", sort=False)
    }
    assert found == PRINTED
    assert (table["source"] != "").all()
    read = {"Flu/Cy"}  # of which doses and days were read; all others say what they assume
    assert set(table["preset"][table["assumed"] == ""]) == read


def test_a_preset_is_the_trial_arm_that_names_it():
    tisa_cel = ck.load_study("eliana_ensign").arms["tisa_cel"].lymphodepletion
    assert tisa_cel.describe().equals(ck.Regimen.lymphodepletion("tisa-cel").describe())


def test_fludarabine_runs_for_half_an_hour_and_cyclophosphamide_for_one():
    table = ck.Regimen.lymphodepletion("HEROS Flu/Cy").describe()
    hours = {k: set(24 * g["duration"]) for k, g in table.groupby("product")}
    assert hours == {"fludarabine": {0.5}, "cyclophosphamide": {1.0}}


def test_every_preset_can_be_written_by_hand():
    for name, preset in PRESETS.items():
        by_hand = ck.Regimen.lymphodepletion(flu=preset.flu, cy=preset.cy)
        by_hand += ck.Regimen(tuple(ck.Multiply(day, share, "N") for day, share in preset.left))
        assert ck.Regimen.lymphodepletion(name).describe().equals(by_hand.describe())


def test_a_dose_may_say_itself_what_it_is_per():
    mixed = ck.Regimen.lymphodepletion(flu=[(-5, 25)], cy=[(-6, 60, "kg"), (-5, 900, "")])
    assert list(mixed.describe()["unit"]) == ["mg/kg", "mg/m2", "mg"]
    assert "60 mg/kg" in repr(mixed)
    assert "25 mg/m2" in repr(mixed)
    resolved = mixed.resolve(bsa=1.8, weight=70.0)
    assert [e.amount for e in resolved.events] == pytest.approx([4200.0, 45.0, 900.0])
    per_kg = ck.Regimen.lymphodepletion(flu=[(-5, 1), (-4, 30, "m2")], per="kg")
    assert list(per_kg.describe()["unit"]) == ["mg/kg", "mg/m2"]


def test_doses_given_by_an_iterator_are_not_lost():
    once = ck.Regimen.lymphodepletion(flu=((d, 30.0) for d in (-5, -4, -3)))
    assert once.describe().equals(ck.Regimen.lymphodepletion("Flu").describe())


@pytest.mark.slow
def test_bendamustine_leaves_its_share_of_the_hosts_t_cells():
    """600 of the 800 lymphocytes/µL from which Flu/Cy takes 700: a quarter is left of N."""
    model = ck.load_model("kimmel2021")
    later = ck.Regimen.cells(0, 1.8e8) + ck.Regimen.lymphodepletion("bendamustine").shift(90)
    still = model.params(rN=1e-12, rhoC=1e-12, b=1e-12)  # cells that hardly grow in between
    days = [85.0, 86.5, 88.0]
    plain = ck.solve(model, ck.Regimen.cells(0, 1.8e8), days, still)
    after = ck.solve(model, later, days, still)
    ratio = np.asarray(after.states.N) / np.asarray(plain.states.N)
    np.testing.assert_allclose(ratio, [1.0, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(after["car_t"], plain["car_t"], rtol=1e-6)  # CAR-T cells are spared


def test_bendamustine_in_a_model_without_these_cells_is_refused():
    regimen = ck.Regimen.lymphodepletion("bendamustine")
    with pytest.raises(ck.RegimenError, match="'N' is not a state of 'langenhorst2019'"):
        ck.solve(ck.load_model("langenhorst2019"), regimen, [0.0])


def test_an_arm_prints_bendamustine(tmp_path):
    (tmp_path / "about.toml").write_text('title = "simulated"\n', encoding="utf-8")
    (tmp_path / "arms.toml").write_text(
        '[benda.lymphodepletion]\npreset = "bendamustine"\n'
        '[mixed.lymphodepletion]\nflu = [[-5, 25]]\ncy = [[-6, 60, "kg"]]\n',
        encoding="utf-8",
    )
    arms = ck.load_study(tmp_path).arms
    assert "  multiply N 0.5 on days -4, -3" in repr(arms["benda"])
    assert "  cyclophosphamide 60 mg/kg on day -6" in repr(arms["mixed"])


def drug(**more):
    return ck.Infusion(0.0, 9.0, product="drug", **more)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ck.Regimen.lymphodepletion("Cy/Flu"), "known are 'Flu/Cy', .* can be given as"),
        (lambda: ck.Regimen.lymphodepletion("Flu", cy=[(-5, 500)]), "preset 'Flu' and doses"),
        (lambda: ck.Regimen.lymphodepletion("Flu", per="kg"), "'Flu' says itself what its doses"),
        (lambda: ck.Regimen.lymphodepletion(cy=[-5, 500]), r"is \(day, amount\) or .* found -5"),
        (lambda: ck.Regimen.lymphodepletion(flu=["-5"]), "fludarabine is .* found '-5'"),
        (lambda: ck.Regimen.lymphodepletion(flu=[(-5, 30, "lb")]), "known are 'm2', 'kg'"),
        (lambda: ck.Regimen((ck.Infusion(0.0, 1.0, 0.0),)), "longer than 0 days.* is a Bolus"),
        (lambda: ck.Regimen((ck.Infusion(0.0, 1.0, math.nan),)), "longer than 0 days"),
        (lambda: ck.Regimen((drug(),)), "a duration .* or a rate .* one of the two"),
        (lambda: ck.Regimen((drug(duration=1.0, rate=3.0),)), "one of the two"),
        (lambda: ck.Regimen((drug(rate=-3.0),)), "rate -3.0, but .* above 0 .* or -1 or -2"),
        (lambda: ck.Regimen((drug(rate=3.0, ss=3),)), "ss must be 0, 1 or 2, but is 3"),
        (lambda: ck.Regimen((drug(rate=3.0, ss=1),)), "give it, or amount 0 and a rate"),
        (lambda: ck.Regimen((ck.Bolus(0.0, 9.0, "drug", "mg", ss=2),)), "ii, .* must be above 0"),
        (lambda: ck.Regimen((ck.Bolus(0.0, 1e8, ss=1, ii=1.0),)), "cells multiply"),
        (lambda: ck.Regimen((ck.Bolus(0.0, 1e8, addl=10**12, ii=1.0),)), "not written out"),
        (lambda: ck.Regimen.cells(amount=-1e8), r"amount -100000000.0, but .* above 0"),
        (lambda: ck.Regimen.cells(amount=0), "must be above 0"),
        (lambda: ck.Regimen.cells(amount=math.inf), "must be above 0"),
        (lambda: ck.Regimen((ck.Bolus(0, np.int64(-1)),)), "must be above 0"),
        (lambda: ck.Regimen.cells(day=math.nan), "the day must be a finite number"),
        (lambda: ck.Regimen.cells(day=[0, 42], amount=[1e8] * 3), "2 days and 3 amounts"),
        (lambda: ck.Regimen.cells(per="lb"), "known are 'm2', 'kg'"),
        (lambda: ck.Regimen((ck.Bolus(0.0, 1.0, unit="g"),)), "known are 'cells' and 'mg'"),
        (lambda: ck.Regimen((ck.Bolus(0.0, 1.0, addl=-1, ii=1.0),)), "addl must be a whole number"),
        (lambda: ck.Regimen((ck.Bolus(0.0, 1.0, addl=2),)), "2 additional doses, so ii"),
        (lambda: ck.Regimen((ck.Bolus(0.0, 1.0, addl=2, ii=math.inf),)), "but it is inf"),
        (lambda: ck.Regimen((ck.Reset(math.nan),)), "Reset on day nan: the day must be a finite"),
        (lambda: ck.Regimen((ck.Replace(0.0, -1.0, "tumor"),)), "Replace on day 0.0 of 'tumor'"),
        (lambda: ck.Regimen((ck.Multiply(0.0, math.inf, "b"),)), "it must be at least 0"),
        (lambda: ck.Regimen.cells(per="kg").resolve(bsa=1.8), r"per kg; .* resolve\(weight=...\)"),
        (lambda: ck.Regimen.lymphodepletion("Flu").resolve(weight=70), r"resolve\(bsa=...\)"),
        (lambda: CELLS.resolve(height=170), "Give height and weight, or bsa"),
        (lambda: CELLS.resolve(height=170, weight=70, bsa=1.8), "in place of `bsa`"),
    ],
)
def test_what_cannot_be_given_is_refused_with_advice(make, words):
    with pytest.raises(ck.RegimenError, match=words):
        make()


@pytest.mark.parametrize("dose", [ck.Bolus(-2.0, 1e6), ck.Infusion(-2.0, 30.0, 0.5, "drug")])
def test_additional_doses_are_written_out(dose):
    """ADDL further doses, II days apart, each like the first."""
    short = ck.Regimen((dataclasses.replace(dose, addl=3, ii=1.5),))
    long = ck.Regimen(tuple(dataclasses.replace(dose, time=t) for t in (-2.0, -0.5, 1.0, 2.5)))
    assert short.describe().equals(long.describe())
    assert [(e.addl, e.ii) for e in short.events] == [(0, 0.0)] * 4
    assert (short.shift(1) + ck.Regimen()).describe().equals(long.shift(1).describe())


def test_additional_doses_fall_in_with_other_events():
    regimen = ck.Regimen((ck.Bolus(0.0, 1e6, addl=2, ii=2.0), ck.Reset(3.0), ck.Bolus(-1.0, 5.0)))
    assert days(regimen) == [-1, 0, 2, 3, 4]


CHANGES = (ck.Replace(2.0, 5.0, "tumor"), ck.Reset(1.0), ck.Multiply(3.0, 0.1, "tumor"))


def test_changes_of_state_are_events_but_not_doses():
    table = ck.Regimen(CHANGES).describe()
    assert list(table["time"]) == [1, 2, 3]
    assert list(table["product"]) == [
        "reset of every compartment",
        "replace tumor",
        "multiply tumor",
    ]
    assert math.isnan(table["amount"][0])
    assert list(table["amount"][1:]) == [5.0, 0.1]
    both = CELLS + ck.Regimen(CHANGES)
    assert both.doses == both.infusions == CELLS.events
    assert both.drugs == ()
    assert "multiply tumor" in repr(both)


def test_events_of_one_time_stay_in_the_order_given():
    """A reset and then a dose is EVID 4; a dose and then a reset is a reset."""
    reset, dose = ck.Regimen((ck.Reset(0.0),)), ck.Regimen.cells(0.0)
    late = ck.Regimen.cells(7.0)
    for first, second in [(reset, dose), (dose, reset)]:
        kinds = [type(event) for event in (late + first + second).events]
        assert kinds == [type(first.events[0]), type(second.events[0]), ck.Bolus]
    many = (ck.Reset(1.0), ck.Bolus(1.0, 5.0, addl=1, ii=1.0), ck.Multiply(1.0, 2.0, "tumor"))
    assert [type(e) for e in ck.Regimen(many).shift(-4).events] == [type(e) for e in many] + [
        ck.Bolus
    ]


def test_changes_of_state_are_shifted_and_left_as_they_are_by_a_patients_size():
    regimen = ck.Regimen(CHANGES) + ck.Regimen.cells(0, 2e6, per="kg")
    assert days(regimen.shift(-3)) == [-3, -2, -1, 0]
    resolved = regimen.resolve(weight=70.0)
    assert resolved.events[0].amount == 1.4e8
    assert resolved.events[1:] == regimen.events[1:]


def test_resolve_makes_amounts_absolute_for_one_patient():
    regimen = (
        ck.Regimen.lymphodepletion(flu=[(-5, 30)])
        + ck.Regimen.cells(0, 2e6, per="kg")
        + ck.Regimen.cells(42, 5e7)
    )
    resolved = regimen.resolve(bsa=1.8, weight=70.0)
    assert [e.amount for e in resolved.events] == pytest.approx([54.0, 1.4e8, 5e7])
    assert [e.per for e in resolved.events] == ["", "", ""]
    assert [e.product for e in resolved.events] == ["fludarabine", "car_t", "car_t"]
    assert resolved.resolve().describe().equals(resolved.describe())


def test_height_and_weight_give_the_body_surface():
    regimen = ck.Regimen.lymphodepletion("HEROS Flu/Cy")
    by_height = regimen.resolve(height=112.0, weight=20.0)
    by_surface = regimen.resolve(bsa=float(body.bsa(112, 20)), weight=20.0)
    assert by_height.describe().equals(by_surface.describe())
    assert by_height.events[0].amount == pytest.approx(25 * 0.789, rel=1e-3)
    with pytest.raises(ck.CarpkError, match=r"height is 1\.12, but it must be in cm"):
        regimen.resolve(height=1.12, weight=20.0)


def test_a_regimen_is_a_pytree_whose_days_and_amounts_are_traced():
    doubled = jax.jit(lambda r: jax.tree.map(lambda x: 2 * x, r))(CELLS)
    assert days(doubled) == [0, 84, 168]

    def total(regimen):
        return sum(event.amount for event in regimen.events)

    assert float(jax.jit(total)(CELLS)) == 3e8
    assert days(jax.grad(total, allow_int=True)(CELLS)) == [0, 0, 0]


def test_a_schedule_is_optimised_through_its_day():
    """Shifting and adding with a traced day once failed: sorting asked for its value."""

    def first_day_after(gap):
        regimen = ck.Regimen.cells(0.0) + ck.Regimen.cells(0.0).shift(gap)
        return sum(event.time**2 for event in regimen.events)

    assert float(jax.jit(first_day_after)(3.0)) == 9.0
    assert float(jax.grad(first_day_after)(3.0)) == 6.0


def test_the_table_has_a_row_per_event_and_prints():
    regimen = CELLS + ck.Regimen.lymphodepletion("Flu/Cy")
    table = regimen.describe()
    assert list(table.columns) == ["time", "product", "amount", "unit", "duration"]
    assert len(table) == 9
    assert list(table["time"]) == days(regimen)
    assert set(table["unit"]) == {"mg/m2", "cells"}
    assert "cyclophosphamide" in repr(regimen)
    assert "1e+08" in repr(regimen)
    assert repr(ck.Regimen()) == "Regimen()"
    assert list(ck.Regimen().describe().columns) == list(table.columns)


def test_a_steady_state_is_that_of_the_first_dose_and_is_shown():
    dose = ck.Bolus(0.0, 9.0, "drug", "mg", addl=2, ii=0.5, ss=1)
    regimen = ck.Regimen((dose, ck.Infusion(3.0, 0.0, product="drug", rate=7.0, ss=2)))
    assert [(e.ss, e.ii) for e in regimen.events] == [(1, 0.5), (0, 0.0), (0, 0.0), (2, 0.0)]
    assert [*regimen.describe()][-3:] == ["ss", "ii", "rate"]
    assert regimen.describe()["rate"].iloc[-1] == 7.0
    assert (regimen + ck.Regimen()).describe().equals(regimen.describe())


def test_the_rate_of_an_infusion_is_per_body_size_where_its_amount_is():
    per = ck.Regimen((ck.Infusion(0.0, 9.0, product="drug", rate=7.0, per="m2"),))
    (event,) = per.resolve(bsa=1.5).events
    assert (event.amount, event.rate, event.days) == (13.5, 10.5, 9 / 7)
    modelled = ck.Regimen((ck.Infusion(0.0, 9.0, product="drug", rate=-1, per="m2"),))
    assert modelled.resolve(bsa=1.5).events[0].rate == -1

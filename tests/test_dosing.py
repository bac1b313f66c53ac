"""Regimens: they add up, sort, shift and resolve; what cannot be given is refused with advice."""

import dataclasses
import math

import jax
import numpy as np
import pytest

import carpk as ck
from carpk.dosing import PRESETS

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


@pytest.mark.parametrize(
    ("preset", "flu", "cy"),
    [("Flu/Cy", 30.0, 500.0), ("Flu/Cy 30/300", 30.0, 300.0), ("Flu", 30.0, None)],
)
def test_presets_hold_the_published_doses(preset, flu, cy):
    """ZUMA-1: 30 and 500 mg/m² on days -5, -4, -3; CARTITUDE-1: 30 and 300 mg/m²."""
    table = ck.Regimen.lymphodepletion(preset).describe()
    assert set(table["unit"]) == {"mg/m2"}
    given = {k: (list(g["time"]), set(g["amount"])) for k, g in table.groupby("product")}
    expected = {"fludarabine": ([-5, -4, -3], {flu})}
    if cy:
        expected["cyclophosphamide"] = ([-5, -4, -3], {cy})
    assert given == expected
    hours = {k: set(24 * g["duration"]) for k, g in table.groupby("product")}
    assert hours["fludarabine"] == {0.5}


def test_every_preset_can_be_written_by_hand():
    for name, doses in PRESETS.items():
        by_hand = ck.Regimen.lymphodepletion(**doses).describe()
        assert ck.Regimen.lymphodepletion(name).describe().equals(by_hand)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ck.Regimen.lymphodepletion("Cy/Flu"), "known are 'Flu/Cy', .* can be given as"),
        (lambda: ck.Regimen.lymphodepletion("Flu", cy=[(-5, 500)]), "preset 'Flu' and doses"),
        (lambda: ck.Regimen.lymphodepletion("Flu", per="kg"), "'Flu' is per m2, not 'kg'"),
        (lambda: ck.Regimen((ck.Infusion(0.0, 1.0, 0.0),)), "longer than 0 days.* is a Bolus"),
        (lambda: ck.Regimen((ck.Infusion(0.0, 1.0, math.nan),)), "longer than 0 days"),
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

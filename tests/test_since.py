"""Days since the last infusion, the same in every table, check and figure.

Fits here are known, not sampled: a posterior of one draw, behind simulated data.
"""

import dataclasses
import functools

import jax
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import carpk as ck
from carpk._arviz import to_idata
from carpk.checks.observed import middle
from carpk.dataset.overview import since_last
from carpk.errors import DatasetError
from carpk.verdict.judge import Verdict
from carpk.verdict.words import trouble

FIRST = ("first", "last")
DRUG = ck.disposition.one_compartment(output="drug")
GIVEN = {"a": (0.0, 28.0), "b": (0.0,), "c": (0.0, 28.0, 90.0)}
# patient, day -> day since the last infusion, its number; one taken at the time of an infusion was
# taken before it
SEEN = {
    ("a", -1.0): (-1.0, 1),
    ("a", 7.0): (7.0, 1),
    ("a", 28.0): (28.0, 1),
    ("a", 35.0): (7.0, 2),
    ("b", 35.0): (35.0, 1),
    ("c", 14.0): (14.0, 1),
    ("c", 42.0): (14.0, 2),
    ("c", 97.0): (7.0, 3),
    ("c", 300.0): (210.0, 3),
}
KINDS = {
    "cells": ("car_t", "cells", "cells/µL", "infusion", ck.load_model("piecewise")),
    "drug": ("drug", "mg", "mg/L", "dose", DRUG),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def dataset(kind, given=GIVEN, seen=SEEN, record=None):
    name, amount, level, _, _ = KINDS[kind]
    doses = pd.DataFrame(
        [(p, t, name, 1e8, amount) for p, times in given.items() for t in times],
        columns=["patient", "time", "product", "amount", "unit"],
    )
    rows = pd.DataFrame(
        [(p, t, name, 5.0 if t > 0 else 0.1, level, 0.1, int(t <= 0)) for p, t in seen],
        columns=["patient", "time", "analyte", "value", "unit", "lloq", "censored"],
    )
    if kind == "cells":
        doses.loc[len(doses)] = ["a", -3.0, "fludarabine", 30.0, "mg/m2"]
    if kind == "drug":  # which has no level before the first dose
        rows = rows[rows["time"] > 0]
    if record is not None:
        doses, rows = doses.assign(record=np.arange(len(doses))), rows.assign(record=record)
    return ck.Dataset.from_frames(doses=doses, observations=rows, name="simulated")


def known(kind, data):
    """A fit whose posterior is one draw, the typical patient."""
    name, *_, model = KINDS[kind]
    varies = {"cells": "cmax", "drug": "CL"}[kind]
    pop = ck.Population(model, varies=[varies], analytes=[name])
    bound = pop.bind(data)
    key = jax.random.key(0)
    centre = {n: np.median(p.sample(key, (99,)), axis=0) for n, p in bound.priors.items()}
    values = {n: (("chain", "draw"), np.full((1, 1), x)) for n, x in centre.items()}
    values[f"eta_{varies}"] = (("chain", "draw", "patient"), np.zeros((1, 1, len(bound.patients))))
    posterior = xr.Dataset(values, coords={"patient": list(bound.patients)})
    verdict = Verdict((trouble("made up", "Known, not sampled."),), {})
    return ck.Fit(pop, data, to_idata({"posterior": posterior}), verdict, {"seed": 0})


@pytest.fixture(scope="module")
def fits():
    return functools.cache(lambda kind: known(kind, dataset(kind)))


@each_kind
@pytest.mark.parametrize("order", [1, -1])
def test_days_count_from_the_dose_before_the_sample(kind, order):
    data = dataset(kind)
    rows = data.observations.iloc[::order]
    days, number = since_last(data, rows)
    right = [SEEN[key] for key in zip(rows["patient"], rows["time"], strict=True)]
    assert list(zip(days, number, strict=True)) == right


@pytest.mark.parametrize(("record", "right"), [(0, (28.0, 1)), (9, (0.0, 2))])
@each_kind
def test_a_sample_recorded_after_a_dose_of_its_time_belongs_to_it(kind, record, right):
    data = dataset(kind, {"a": (0.0, 28.0)}, [("a", 28.0)], record=record)
    days, number = since_last(data, data.observations)
    assert (days[0], number[0]) == right


@pytest.mark.filterwarnings("ignore:.*read as untreated")
def test_a_patient_without_doses_keeps_the_days():
    data = dataset("drug", {"a": (0.0,)}, [("a", 7.0), ("z", 9.0)])
    days, number = since_last(data, data.observations)
    assert (days.tolist(), number.tolist()) == ([7, 9], [1, 0])
    told = data.summary(since="last")
    assert told["treated"].tolist() == [0, 1]
    assert told["samples"].tolist() == [1, 1]


@each_kind
def test_a_summary_has_a_row_per_infusion(kind):
    name, _, _, word, _ = KINDS[kind]
    data = dataset(kind, GIVEN | {"c": (0.0, 28.0, 90.0, 400.0)})
    told = data.summary(since="last")
    assert told.index.names == ["arm", word, "analyte"]
    assert told.index.get_level_values(word).tolist() == [1, 2, 3, 4]
    assert told["treated"].tolist() == [3, 2, 1, 1]
    assert told["samples"].tolist() == [5 if kind == "cells" else 4, 2, 2, 0]
    assert told["last_day"].tolist()[:3] == [35, 14, 210]
    assert told["first_day"].tolist()[:3] == [-1 if kind == "cells" else 7, 7, 7]
    first = data.summary(since="first")
    pd.testing.assert_frame_equal(first, data.summary())
    assert [*told] == [column for column in first if column != "infusions"]
    assert first.loc[("all", name), "last_day"] == 300


@each_kind
@pytest.mark.parametrize("since", FIRST)
@pytest.mark.parametrize("strata", [False, True])
def test_a_vpc_has_its_bins_and_panels_on_the_axis(kind, since, strata, fits):
    fit, word = fits(kind), KINDS[kind][3]
    by = word if strata else None
    bins = [-1, 10, 30, 300]
    result = ck.checks.vpc(fit, by=by, since=since, bins=bins, replicates=20)
    t = result.points
    right = {key: day if since == "last" else key[1] for key, (day, _) in SEEN.items()}
    number = {key: str(n) if strata else "all" for key, (_, n) in SEEN.items()}
    keys = [key for key in SEEN if key[1] > 0 or kind == "cells"]
    assert t["time"].tolist() == [right[key] for key in keys]
    assert t["stratum"].tolist() == [number[key] for key in keys]
    assert (t["bin"] == np.searchsorted(bins[1:-1], t["time"], side="right")).all()
    assert result.table["n"].groupby(result.table["statistic"]).sum()["50 %"] == len(keys)
    assert result.table["time_high"].max() == t["time"].max()
    figure = result.plot()
    words = f"days after the last {word}" if since == "last" else "days after infusion"
    assert figure.axes[-1].get_xlabel() == f"{words} (log scale)"
    assert (words in repr(result)) == (since == "last")
    assert len({axis.get_title(loc="left") for axis in figure.axes} - {""}) == (3 if strata else 1)
    plt.close("all")


@each_kind
def test_individual_fits_have_a_panel_per_infusion(kind, fits):
    fit, word = fits(kind), KINDS[kind][3]
    figure = ck.plot.individual_fits(fit, since="last")
    panels = [axis for axis in figure.axes if axis.get_visible()]
    labels = [axis.get_title() for axis in panels]
    assert labels == [f"a, {word} 1", f"a, {word} 2", "b", *(f"c, {word} {n}" for n in (1, 2, 3))]
    seen = [
        sorted(day for line in axis.lines if line.get_marker() in "ov" for day in line.get_xdata())
        for axis in panels
    ]
    before = [-1] if kind == "cells" else []
    assert seen == [[*before, 7, 28], [7], [35], [14], [14], [7, 210]]
    for axis, stop in zip(panels, (28, 999, 999, 28, 62, 999), strict=True):
        pred = axis.lines[0].get_xydata()
        drawn = pred[np.isfinite(pred[:, 1]), 0]
        assert drawn.max() == pytest.approx(min(stop, 210), abs=4)
        assert drawn.min() == pytest.approx(0, abs=0.1)
    for axis, start in zip(panels[:2], (0, 28), strict=True):  # those of the first patient
        curve = axis.lines[1].get_xydata()[60]
        at = fit.bound.patient_predictor(np.array([start + curve[0]]), smooth=False)
        level = at(fit.bound.typical_patients(middle(fit.draws())))[0, 0]
        assert curve[1] == pytest.approx(float(level), rel=1e-3)
    assert any("after the last" in text.get_text() for text in figure.texts)
    plt.close("all")


@pytest.mark.parametrize(
    "call",
    [
        lambda fit: fit.data.summary(since="infusion"),
        lambda fit: fit.data.plot(since="infusion"),
        lambda fit: ck.checks.vpc(fit, since="infusion"),
        lambda fit: ck.plot.individual_fits(fit, since="infusion"),
    ],
)
def test_an_axis_that_there_is_not_is_refused(call, fits):
    with pytest.raises(DatasetError, match='since must be "first" or "last", but is \'infusion\''):
        call(fits("cells"))


def test_a_covariate_called_infusion_goes_before_its_number(fits):
    data = dataset("cells")
    people = data.patients.assign(infusion=["x", "y", "x"])
    fit = known("cells", dataclasses.replace(data, patients=people))
    result = ck.checks.vpc(fit, by="infusion", bins=[-1, 10, 300], replicates=20)
    assert set(result.points["stratum"]) == {"x", "y"}

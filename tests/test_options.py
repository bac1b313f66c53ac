"""`options.interval_prob` is the one setting of every interval that is shown."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hierarchies import LINEAR, decaying

import carpk as ck
from carpk._options import options

CELLS = ck.Regimen.cells(0, 1e8)
FLU_CY = ck.Regimen.lymphodepletion("Flu/Cy") + CELLS
PATIENTS = {"weight": [70, 90], "height": [170, 180], "age": [40, 60], "egfr": [100, 70]}


@pytest.fixture(scope="module")
def fit():
    population = ck.Population(LINEAR, varies=["base"])
    return ck.fit(population, decaying(patients=9), method="laplace", draws=200, progress=False)


def low_high(table):
    """Lower and upper ends of the table of some result, by the names of its columns."""
    low = next(c for c in table if str(c).endswith("low") and not str(c).startswith("iiv"))
    x = table[[low, low.replace("low", "high")]].to_numpy(float)
    return x[np.isfinite(x).all(axis=1)].T


# what shows intervals -> made of a fit of patients and one of cohorts; its table
SHOWN = {
    "fit": (lambda a, b: a, lambda x: x.summary()),
    "simulation": (
        lambda a, b: ck.simulate(b.population.model, CELLS, np.arange(40.0), patients=30),
        lambda x: x.summary(),
    ),
    "comparison": (
        lambda a, b: ck.compare(b, {"one": CELLS, "two": CELLS}, ["cmax"], patients=5, draws=20),
        lambda x: x.by_arm,
    ),
    "comparison of cohorts": (
        lambda a, b: ck.compare(
            ck.load_study("eliana_ensign"), {"CR": "responders", "NR": "non_responders"}
        ),
        lambda x: x.table,
    ),
    "predictive": (
        lambda a, b: ck.checks.posterior_predictive(b, draws=60),
        lambda x: x.summaries,
    ),
    "vpc": (lambda a, b: ck.checks.vpc(a, replicates=60), lambda x: x.table[["low", "high"]]),
    "sensitivity": (lambda a, b: ck.checks.sensitivity(a), lambda x: x.moved),
    "exposure": (
        lambda a, b: ck.exposure(FLU_CY, **PATIENTS),
        lambda x: x.table.filter(like="flu_auc"),
    ),
}


@pytest.mark.parametrize("what", SHOWN)
def test_every_interval_has_the_set_probability(what, fit, known_fit):
    make, table = SHOWN[what]
    found = {}
    for prob in (0.5, 0.9):
        with ck.options(interval_prob=prob):
            found[prob] = low_high(table(make(fit, known_fit)))
    (low, high), (lower, higher) = found[0.5], found[0.9]
    assert (lower <= low).all()
    assert (high <= higher).all()
    assert (higher - lower > high - low).any()


@pytest.mark.parametrize("what", sorted(SHOWN.keys() - {"sensitivity", "exposure"}))
def test_texts_and_columns_name_it(what, fit, known_fit):
    make, table = SHOWN[what]
    with ck.options(interval_prob=0.8):
        made = make(fit, known_fit)
        text, columns = repr(made), " ".join(map(str, table(made).columns))
    assert "80 %" in text
    assert "90 %" not in text
    assert "eti90" not in columns


@pytest.mark.parametrize("what", ["simulation", "comparison", "predictive", "vpc"])
def test_figures_name_it(what, fit, known_fit):
    make, _ = SHOWN[what]
    with ck.options(interval_prob=0.8):
        figure = make(fit, known_fit).plot()
    words = [t.get_text() for t in figure.findobj(plt.Text)]
    plt.close(figure)
    assert any("80 %" in text for text in words)
    assert not any("90 %" in text for text in words)


@pytest.mark.parametrize("draw", ["individual_fits", "npde", "gof"])
def test_figures_of_patients_name_it(draw, fit):
    with ck.options(interval_prob=0.8):
        made = {
            "npde": lambda: ck.checks.npde(fit, replicates=60),
            "gof": lambda: ck.checks.gof(fit),
        }
        what = made[draw]() if draw in made else fit
        figure = getattr(ck.plot, draw)(what)
    words = [t.get_text() for t in figure.findobj(plt.Text)]
    plt.close(figure)
    assert any("80 %" in text for text in words)
    assert not any("90 %" in text for text in words)


def test_a_result_keeps_the_one_it_was_made_with(known_fit):
    with ck.options(interval_prob=0.8):
        comparison = SHOWN["comparison"][0](None, known_fit)
        check = SHOWN["predictive"][0](None, known_fit)
    assert "eti80_low" in comparison.table
    assert "80 %" in repr(comparison)
    assert "80 %" in repr(check)


def test_the_setting_comes_back_after_its_block_and_after_an_error():
    with ck.options(interval_prob=0.5):
        assert options.interval.columns == ("eti50_low", "eti50_high")
    with pytest.raises(ZeroDivisionError), ck.options(interval_prob=0.5):
        1 / 0  # noqa: B018
    assert ck.options.interval_prob == 0.9
    with ck.options(interval_prob=0.975):
        assert options.interval.columns == ("eti97.5_low", "eti97.5_high")


@pytest.mark.parametrize(
    ("prob", "words"),
    [(95, "between 0 and 1, but is 95; for 95 % give 0.95"), (0, "but is 0"), ("90 %", "a number")],
)
def test_a_probability_that_cannot_be_is_refused_and_changes_nothing(prob, words):
    with pytest.raises(ck.CarpkError, match=words):
        ck.options.interval_prob = prob
    with pytest.raises(ck.CarpkError, match=words), ck.options(interval_prob=prob):
        pass
    assert ck.options.interval_prob == 0.9


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(AttributeError):
        ck.options.interval = 0.95
    with pytest.raises(AttributeError):
        ck.options.ci_prob = 0.95


def test_options_hold_from_the_call_on():
    before = ck.options.interval_prob
    try:
        ck.options(interval_prob=0.6)
        assert ck.options.interval_prob == 0.6
        with pytest.raises(ck.CarpkError, match="between 0 and 1"):
            ck.options(interval_prob=2)
        assert ck.options.interval_prob == 0.6
    finally:
        ck.options.interval_prob = before

"""The benchmark of the verdict: its cases are complete and build, and its measures hold."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import carpk as ck

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def script():
    """Name -> module of `benchmarks/`."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def bench(script):
    """The module `benchmarks/verdict.py`."""
    return script("verdict")


def test_there_are_enough_sound_fits_and_bad_ones_of_enough_kinds(bench):
    cases = bench.cases()
    assert len({c.name for c in cases}) == len(cases)
    assert sum(c.sound for c in cases) >= 200
    kinds = Counter(c.kind for c in cases if not c.sound and not c.of.hidden)
    assert len(kinds) >= 15
    assert min(kinds.values()) >= 4
    assert sum(kinds.values()) >= 60
    assert {c.kind for c in cases if not c.sound and c.of.hidden} == set(bench.ASKED)


def test_a_third_of_every_kind_is_held_out_and_fits_of_one_data_set_stay_together(bench):
    cases = bench.cases()
    parts = {}
    for case in cases:
        parts.setdefault((case.sound, case.kind, case.of.name), set()).add(case.part)
    assert all(len(each) == 1 for each in parts.values())
    kinds = {(sound, kind) for sound, kind, _ in parts}
    for kind in kinds:
        of = [each for key, each in parts.items() if key[:2] == kind]
        assert sum(each == {"held_out"} for each in of) == round(len(of) / 3)


def test_every_kind_of_case_builds(bench):
    """One of each here; `verdict.py` builds the others."""
    each = {(c.sound, c.kind): c for c in bench.cases() if c.design.cost < 3}
    for case in each.values():
        try:
            population, data = case.of.build()
        except ck.DatasetError:
            assert case.kind == "impossible data"
        else:
            assert population.estimated
            assert len(data.observations) + len(data.summaries) > 0


def test_the_exact_posterior_is_that_of_a_long_chain(script):
    """Against a random walk over the density, written out."""
    designs = script("verdict_designs")
    days, priors = np.array(designs.DECAY_DAYS), designs.DECAY_PRIORS
    data = designs.decay_data(6, 3)
    y = np.log(data.observations["value"].to_numpy()).reshape(6, -1)
    names = list(priors)
    median, sd = np.array(list(priors.values())).T

    def density(x):
        base, halve, omega, sigma = x[:, 0], *np.exp(x[:, 1:]).T
        mean = base[:, None] - np.log(2) * days / halve[:, None]
        cov = omega[:, None, None] ** 2 + sigma[:, None, None] ** 2 * np.eye(5)
        off = y - mean[:, None]
        square = np.einsum("npi,nij,npj->n", off, np.linalg.inv(cov), off)
        prior = np.sum(((x - np.log(median)) / sd) ** 2, axis=1)
        return -0.5 * (square + 6 * np.linalg.slogdet(cov)[1] + prior)

    rng = np.random.default_rng(0)
    x = np.log(median) + 0.1 * rng.standard_normal((1000, 4))
    at = density(x)
    for step in range(250):
        scale = 0.35 if step % 2 else 0.1
        new = x + scale * sd * rng.standard_normal(x.shape)
        there = density(new)
        moved = np.log(rng.uniform(size=len(x))) < there - at
        x, at = np.where(moved[:, None], new, x), np.where(moved, there, at)
    exact = designs.decay_exact(6, 3, size=10_000)
    for i, name in enumerate(names):
        one, other = x[:, i], np.log(exact[name])
        assert abs(one.mean() - other.mean()) < 0.12 * other.std(), name
        assert 0.9 < one.std() / other.std() < 1.1, name


def test_draws_of_one_mode_are_told_from_those_of_both(bench):
    rng = np.random.default_rng(0)
    both = {
        "k": np.where(rng.uniform(size=(4, 2000)) < 0.5, -3.0, 3.0) + rng.normal(size=(4, 2000))
    }
    reference = bench.described(both)
    one = {"k": 3 + rng.normal(size=(4, 1000))}
    found = bench.unlike(one, reference)
    assert found["distance"] > found["limit"]
    again = bench.unlike(both, reference)
    assert again["distance"] < again["limit"] / 3
    few = bench.unlike({"k": both["k"][:, :10]}, reference)
    assert few["distance"] < few["limit"]


def test_a_moved_value_is_told_in_posterior_sds(bench):
    rng = np.random.default_rng(0)
    reference = bench.described({"k": rng.normal(size=(4, 4000))})
    far = bench.apart({"k": rng.normal(1.5, size=(4, 1000))}, reference)
    assert far["far"] == pytest.approx(1.5, abs=0.2)
    assert far["beyond"] > 1
    assert bench.apart({"k": rng.normal(size=(4, 1000))}, reference)["beyond"] < bench.CLOSE


def test_a_fit_becomes_a_line_that_is_not_run_again_and_a_page(bench, tmp_path, monkeypatch):
    """A sound fit and a bad one of the cheapest data, from the data to the page."""
    monkeypatch.setattr(bench, "FITS", tmp_path / "fits.jsonl")
    monkeypatch.setattr(bench, "REFERENCES", tmp_path / "references.jsonl")
    names = ["decay 6 patients, data 2; laplace, seed 1", "all over 1,000; decay 8 patients"]
    for name in names:
        bench.run(None, name, minutes=1)
    done = bench.lines(bench.FITS)
    assert [x["sound"] for x in done] == [True, False]
    assert done[0]["grade"] in ("OK", "OK, BUT")
    assert done[1]["grade"] == "DO NOT TRUST"
    assert done[1]["truth"] == "bad"
    assert done[1]["alarms"]["data against prior"] > 0
    assert not list(bench.missing(None, names[0], done))
    with bench.FITS.open("a") as file:
        file.write('{"case": "cut')  # killed while it wrote
    bench.append(bench.FITS, json.loads(json.dumps(done[0])))
    assert len(bench.lines(bench.FITS)) == 3
    text = bench.page(done, "two cores")
    assert "1 of 1 (100.0 %" in text or "0 of 1 (0.0 %" in text
    assert "the tables are partial" in text
    bench.figure(done, tmp_path / "roc.png")
    assert (tmp_path / "roc.png").stat().st_size > 10_000


def test_shares_have_exact_binomial_bounds(bench):
    assert bench.bounds(0, 20) == pytest.approx((0.0, 0.1684), abs=1e-4)
    assert bench.bounds(1, 200) == pytest.approx((0.000127, 0.02754), abs=1e-4)


def test_the_fits_of_the_demo_are_made_once_per_seed_and_told(
    script, known_fit, tmp_path, monkeypatch
):
    demo = script("demo_seeds")
    monkeypatch.setattr(demo, "FITS", tmp_path / "fits.jsonl")
    monkeypatch.setattr(demo, "TIMES", tmp_path / "times.jsonl")
    made = []
    monkeypatch.setattr(demo.ck, "fit", lambda *a, seed, **k: made.append(seed) or known_fit)
    monkeypatch.setattr(demo, "SEEDS", range(1, 3))
    demo.run(minutes=0.0)
    assert not made
    demo.run(minutes=10.0)
    assert made == [1, 1, 1, 2, 2, 2]
    demo.run(minutes=10.0)
    assert len(made) == 6
    times = {"commit": "b", "other_commit": "a", "here": 50.0, "other": 40.0}
    demo.append(demo.TIMES, times)
    text = demo.page()
    assert "6 of 6 fits run" in text
    assert "Not trusted: 6 of 6" in text
    assert "ratio 1.25" in text


def test_usual_data_are_fitted_once_and_told(script, known_fit, tmp_path, monkeypatch):
    usual = script("usual_data")
    designs = [usual.Design.of(i) for i in range(usual.DATA_SETS)]
    assert Counter(d.model for d in designs) == dict.fromkeys(usual.OMEGAS, 30) | {"kimmel2021": 10}
    assert {d.patients for d in designs} == set(usual.PATIENTS)
    assert {d.follow_up for d in designs} == set(usual.FOLLOW_UP)
    late = next(d for d in designs if not d.expansion and d.below)
    data = usual.simulated(late)
    assert data.observations["time"].min() == usual.FIRST
    assert data.observations["censored"].mean() == pytest.approx(late.below, abs=0.05)
    assert len(data.patients) == late.patients

    monkeypatch.setattr(usual, "DONE", tmp_path / "fits.jsonl")
    monkeypatch.setattr(usual, "DATA_SETS", 1)
    easy = usual.Design(0, "piecewise", 3, 28, 0.1, True)
    monkeypatch.setattr(usual.Design, "of", lambda number: easy)
    stats = {"diverging": np.zeros((2, 10)), "n_steps": np.full((2, 10), 7)}
    fit = SimpleNamespace(
        idata={"sample_stats": stats},
        summary=known_fit.summary,
        verdict=known_fit.verdict,
        settings=known_fit.settings,
    )
    made = []
    monkeypatch.setattr(usual.ck, "fit", lambda *x, **k: made.append(k) or fit)
    usual.go_on(minutes=0.0)
    assert not made
    usual.go_on(minutes=10.0)
    usual.go_on(minutes=10.0)
    assert made == [{"seed": 1, "progress": False}]
    (row,) = usual.known()
    assert (row["draws"], row["grade"]) == (20, "DO NOT TRUST")
    good = {**row, "model": "stein2019", "ess": 3000, "grade": "OK"}
    text = usual.told([row, good])
    assert "2 of 1 data sets" in text
    assert "- piecewise, 3 patients to day 28, 10% below the LLOQ: " in text
    assert "- stein2019" not in text


@pytest.mark.parametrize(
    "which",
    [
        pytest.param("all times 1,000; oral 8", marks=pytest.mark.slow),
        pytest.param("patients 1 to 4 times 1,000; oral", marks=pytest.mark.exhaustive),
    ],
)
def test_doses_a_thousand_times_off_are_a_verdict_and_no_traceback(script, which, recwarn):
    faults = script("verdict_faults").FAULTS
    (fault,) = [f for name, f in faults.items() if which in name]
    fit = ck.fit(*fault.build(), fault.method, progress=False)
    assert fit.verdict.grade == "DO NOT TRUST"
    assert not [w for w in recwarn if issubclass(w.category, RuntimeWarning)]

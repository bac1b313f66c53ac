"""The script that measures the coverage of published summaries, on a few of them."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import summaries_coverage as bench

COHORTS = 200


@pytest.fixture(scope="module")
def every():
    return bench.fact_rows("level", 8)


def held(monkeypatch, rows, metric="level", change=None):
    """Coverage of 90 % intervals of some rows, with the simulated values changed."""
    monkeypatch.setattr(bench, "fact_rows", lambda *_: rows)
    if change is not None:
        simulated = bench.simulated_values
        monkeypatch.setattr(
            bench,
            "simulated_values",
            lambda *x: {k: change(v) for k, v in simulated(*x).items()},
        )
    return bench.coverage(metric, 8, COHORTS)


def test_the_likelihood_covers_what_is_printed_and_the_script_sees_where_it_would_not(
    every, monkeypatch
):
    rows = every[
        (every["statistic"] == "median") & every["interval"].isin(["", "IQR"])
        | (every["statistic"] == "geometric mean") & (every["interval"] == "CV%")
        | (every["statistic"] == "mean") & (every["interval"] == "SD")
    ]
    right = held(monkeypatch, rows)
    assert list(right["number"]) == [1, 1, 2, 3, 1, 2, 1, 2]
    assert (right["cohorts"] == COHORTS).all()
    low, high = bench.bounds(len(right), COHORTS)
    assert right["held 90"].between(low, max(high, 0.97)).all(), right
    wrong = held(
        monkeypatch, rows, change=lambda x: x * np.array([1.5, *[1.0] * (x.shape[-1] - 1)])
    )
    assert (wrong["held 90"] < low).any()
    page = bench.written(wrong, COHORTS)
    assert f"| {COHORTS} | " in page
    assert "| narrow |" in page


def test_every_metric_has_rows_for_every_statistic_that_a_fit_accepts():
    for metric, n, lloq in bench.PLAN:
        rows = bench.fact_rows(metric, n, lloq)
        assert len(rows) >= 1, metric
        assert not rows.duplicated(["statistic", "interval"]).any()

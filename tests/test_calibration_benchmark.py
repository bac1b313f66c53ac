"""The script that ranks truths among draws: it goes on, tells what it found, and its parts run."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import calibration as bench

from carpk import evidence
from carpk.checks import SBC

ONCE = ("HEROS", "evidence", "means, a range and a count", "one curve through medians")  # of a kind


def made_up(size, seed, *, shift=0):
    rng = np.random.default_rng(seed)
    ranks = np.clip(rng.integers(0, bench.RANKED + 1, (2, size)) + shift, 0, bench.RANKED)
    return SBC(dict(zip("ab", ranks, strict=True)), bench.RANKED)


def test_blocks_are_run_once_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "DONE", tmp_path / "blocks.jsonl")
    parts = {
        "sound": bench.Part("made up", made_up, 60, 2),
        "off": bench.Part("made up", lambda *x: made_up(*x, shift=30), 60, 1, right=False),
    }
    monkeypatch.setattr(bench, "PARTS", parts)
    bench.go_on(minutes=0.0)
    assert not bench.lines(bench.DONE)
    bench.go_on(minutes=10.0, only="sound")
    bench.go_on(minutes=10.0)
    bench.go_on(minutes=10.0)
    done = bench.lines(bench.DONE)
    assert [(x["part"], x["seed"]) for x in done] == [("sound", 0), ("sound", 1), ("off", 0)]
    text = bench.page(done)
    assert "3 of 3 blocks" in text
    assert "| sound | a | 120 |" in text
    assert "No ranks tell against them" in text
    assert "ranks show both" in text
    inside = sum(bench.held(np.array(x["ranks"][k]), 0.9) * 60 for x in done[:2] for k in "ab")
    assert f"hold {inside:.0f} of 240 (" in text
    bad = [json.loads(json.dumps(x)) | {"part": "sound", "seed": 2} for x in done[2:]]
    assert "Ranks are not uniform of: sound (a, b)" in bench.page(done[:2] + bad)


def test_a_central_interval_holds_as_many_ranks_as_it_says():
    every = np.arange(bench.RANKED + 1)
    assert bench.held(every, 0.9) == 0.9
    assert bench.held(every, 0.5) == 0.5


def test_tables_of_the_evidence_are_such_as_are_printed():
    bound = evidence.model()
    truth = {k: x[0] for k, x in bench.prior_draws(bound.priors, 1, seed=0).items()}
    truth["base"] = np.zeros(len(bound.outcomes))
    value, p = bench.printed(np.random.default_rng(0), bound, truth)
    assert np.isfinite(value).all()
    assert (np.isfinite(p) == bound.table["kind"].isin(list(bench.ERROR))).all()
    n = bound.table["n"].to_numpy()
    counts = bound.table["kind"].isin(["detectable", "response", "expanded"]).to_numpy()
    assert ((value[counts] >= 0) & (value[counts] <= n[counts])).all()


def test_the_trial_is_that_of_heros():
    given = bench.trial().doses.query("product == 'car_t'")
    assert len(given) == 21
    assert (given.groupby("patient").size() > 1).sum() == 7


@pytest.mark.exhaustive
def test_ranks_with_values_below_the_lloq_are_uniform():
    """In a fixed order of random numbers: by chance one seed in 20 would fail."""
    result = bench.PARTS["patients"].ranks(60, 0)
    assert result.ok, repr(result)
    assert "log_lik" in result.ranks


@pytest.mark.exhaustive
def test_ranks_without_the_term_of_the_lloq_are_not():
    result = bench.PARTS["LLOQ as measured"].ranks(20, 0)
    assert {"sigma", "log_lik"} <= set(result.off), repr(result)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=pytest.mark.slow if "range" in x else pytest.mark.exhaustive)
        for x in ONCE
    ],
)
def test_a_part_of_each_kind_runs(name, monkeypatch):
    monkeypatch.setattr(bench, "INFUSIONS", {"Flu": (1,), "Flu/Cy": (2,)})  # of the trial as HEROS
    result = bench.PARTS[name].ranks(1, 0)
    assert result.failed == 0
    assert all(((x >= 0) & (x <= bench.RANKED)).all() for x in result.ranks.values())

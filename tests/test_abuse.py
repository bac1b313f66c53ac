"""The trials of `benchmarks/abuse_storage.py`: killed processes and flipped bits."""

import sys
from pathlib import Path

import numpy as np
import pytest

import carpk as ck

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import abuse_storage


def test_a_flipped_bit_is_counted_as_refused_or_as_accepted(tmp_path, monkeypatch):
    content = bytes(range(256))

    def trial():
        return abuse_storage.trial_flip(np.random.default_rng(0), tmp_path, [content])

    assert trial()["found"] == "refused"
    flipped = (tmp_path / "fit.nc").read_bytes()
    assert sum(a != b for a, b in zip(flipped, content, strict=True)) == 1
    monkeypatch.setattr(ck, "load_fit", lambda _: None)
    done = {"flip": [trial()], "load": [{"found": "untouched"}]}
    assert done["flip"][0]["found"] == "accepted"
    table = abuse_storage.table(done)
    assert "| flip | 1 | refused | 0 | 1 |" in table
    assert "| load | 1 | untouched | 1 | 0 |" in table


@pytest.mark.exhaustive
def test_what_is_killed_goes_on_and_loses_nothing(tmp_path):
    """A few trials of each kind; a second call makes those that the first did not."""
    results = tmp_path / "results.json"
    abuse_storage.run(kills=1, flips=2, results=results)
    done = abuse_storage.run(kills=4, flips=3, results=results)
    assert {kind: len(trials) for kind, trials in done.items()} == {
        **{"fit": 2, "save": 1, "load": 1, "flip": 3}
    }
    for kind, trials in done.items():
        assert {x["found"] for x in trials} == {abuse_storage.GOOD[kind]}

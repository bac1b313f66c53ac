"""A run cures what more draws or smaller steps can cure, and tells what it did."""

import itertools
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import xarray as xr

from carpk.inference.checkpoints import Blocks
from carpk.inference.cure import cured, differences, distances
from carpk.inference.nuts import ChainDraws, LogDensityTarget, Nuts

DRAWS, CHAINS = 250, 4


class Scripted:
    """Stands for `Nuts`: independent draws, a scripted share of what goes wrong in each run.

    Args:
        slow: correlation of successive draws, in each run.
        apart: distance of one chain from the others.
        diverging: divergences in every round, of each run.
        shift: of the second run's draws.
        stopped: (run, round) that is interrupted.
    """

    def __init__(self, slow=(0.0, 0.0), apart=0.0, diverging=(0, 0), shift=0.0, stopped=None):
        self.slow, self.apart, self.diverging, self.shift = slow, apart, diverging, shift
        self.stopped, self.asked = stopped, []

    def run(self, starts, *, seed, target_accept, blocks):
        return ScriptedRun(self, len(starts), seed, target_accept, starts[0])


class ScriptedRun:
    def __init__(self, script, chains, seed, target_accept, number):
        self.script, self.chains, self.seed = script, chains, seed
        self.target_accept, self.number, self.rounds = target_accept, number, 0

    def draws(self, rounds, *, label, progress):
        script, rng = self.script, np.random.default_rng(self.seed)
        script.asked.append((self.number, rounds, label))
        self.rounds = rounds
        size, rho = DRAWS * rounds, script.slow[self.number]
        x = rng.standard_normal((self.chains, size))
        for t in range(1, size):
            x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * x[:, t]
        x[0] += script.apart
        x += script.shift * self.number
        diverging = np.zeros((self.chains, size), bool)
        diverging[0, : script.diverging[self.number] * rounds] = True
        return ChainDraws(
            {"x": x}, {"diverging": diverging}, script.stopped == (self.number, rounds)
        )


def labelled(samples):
    return xr.Dataset({k: (("chain", "draw"), v) for k, v in samples.items()})


def drawn(script, max_rounds=4):
    return cured(
        script,
        lambda number: [number] * CHAINS,
        max_rounds=max_rounds,
        seed=3,
        target_accept=0.8,
        labelled=labelled,
        label="fit",
    )


def test_good_draws_are_left_alone():
    script = Scripted()
    draws, told = drawn(script)
    assert told == {}
    assert draws.samples["x"].shape == (CHAINS, DRAWS)
    assert [each[:2] for each in script.asked] == [(0, 1)]


def test_slow_chains_go_on_until_they_have_mixed():
    script = Scripted(slow=(0.85, 0.0))
    draws, told = drawn(script, 20)
    rounds = [each[1] for each in script.asked]
    assert rounds == list(range(1, len(rounds) + 1))
    assert 1 < len(rounds) < 20
    assert draws.samples["x"].shape[1] == told["draws"] == DRAWS * len(rounds)
    assert "after 250 draws per chain: drawn" in told["told"]
    assert "still" not in told["told"]
    assert "more draws (" in script.asked[1][2]  # the progress line says why


def test_the_budget_ends_it_and_is_told():
    draws, told = drawn(Scripted(slow=(0.98, 0.0)))
    assert draws.samples["x"].shape[1] == 4 * DRAWS
    assert "drawn 1000, still R-hat" in told["told"]


def test_chains_at_different_modes_are_not_drawn_to_the_end():
    script = Scripted(apart=5.0)
    _, told = drawn(script, 10)
    assert [each[:2] for each in script.asked] == [(0, 1), (0, 2)]
    assert "still R-hat" in told["told"]


def test_without_a_budget_nothing_is_cured():
    for script in (Scripted(slow=(0.995, 0.0)), Scripted(diverging=(3, 0))):
        draws, told = drawn(script, 1)
        assert told == {}
        assert draws.samples["x"].shape[1] == DRAWS


def test_a_second_run_without_divergences_is_the_fit():
    draws, told = drawn(Scripted(diverging=(3, 0), shift=1.0))
    assert draws.samples["x"].mean() == pytest.approx(1.0, abs=0.2)
    assert told["divergences"] == [3, 0]
    assert told["target_accept"] == pytest.approx(0.95)
    assert told["told"].startswith("3 divergences in 1000 draws at target_accept 0.8; a second")
    assert not told["agree"]


@pytest.mark.parametrize(("shift", "agree"), [(0.0, True), (1.0, False)])
def test_two_runs_with_divergences_are_compared(shift, agree):
    draws, told = drawn(Scripted(diverging=(5, 2), shift=shift))
    assert told["agree"] is agree
    assert told["divergences"] == [5, 2]
    assert ("the two agree" in told["told"]) is agree
    assert draws.samples["x"].mean() == pytest.approx(shift, abs=0.2)  # fewer divergences: second


def test_of_two_runs_with_as_many_divergences_the_one_with_more_effective_draws_is_kept():
    _, told = drawn(Scripted(diverging=(2, 2), slow=(0.0, 0.5)))
    assert "the first is the fit" in told["told"]
    assert told["target_accept"] == 0.8


def test_a_second_run_that_is_stopped_leaves_the_first():
    draws, told = drawn(Scripted(diverging=(3, 0), shift=1.0, stopped=(1, 1)))
    assert "second run at 0.95 was stopped" in told["told"]
    assert not draws.interrupted
    assert draws.samples["x"].mean() == pytest.approx(0.0, abs=0.2)


CROSSED = list(itertools.product((0.0, 0.85, 0.995), (0.0, 5.0), (0, 3), (0, 3), (1, 2, 4, 5)))


def test_every_course_keeps_to_the_budget_and_tells_what_it_did():
    """Slow x apart x divergences in each run x budget."""
    for slow, apart, first, second, rounds in CROSSED:
        script = Scripted((slow, slow), apart, (first, second))
        draws, told = drawn(script, rounds)
        taken = sum(
            max(r for n, r, _ in script.asked if n == number)
            for number in {n for n, *_ in script.asked}
        )
        assert taken <= rounds
        assert bool(told) == (len(script.asked) > 1)
        assert told.get("draws", DRAWS) == draws.samples["x"].shape[1]
        if first and rounds > 1:
            assert len(told["divergences"]) == 2
        again, _ = drawn(Scripted((slow, slow), apart, (first, second)), rounds)
        np.testing.assert_array_equal(again.samples["x"], draws.samples["x"])


def test_differences_finds_what_differs_and_seldom_anything_else():
    rng = np.random.default_rng(0)

    def run(mean=0.0, sd=1.0):
        x = rng.standard_normal((4, 500, 3))
        x[..., 1] = mean + sd * x[..., 1]
        return xr.Dataset(
            {"x": (("chain", "draw", "patient"), x)}, coords={"patient": ["a", "b", "c"]}
        )

    assert differences(run(), run(mean=0.3)) == ["x[b]"]
    assert differences(run(), run(sd=1.4)) == ["x[b]"]
    assert sum(bool(differences(run(), run())) for _ in range(40)) <= 3


FUNNEL = LogDensityTarget(  # Neal's, whose neck no single step size suits
    potential=lambda p: p["v"] ** 2 / 18 + jnp.sum(p["x"] ** 2) / 2 * jnp.exp(-p["v"]) + p["v"],
    natural=lambda p: {"v": p["v"]},
    start={"v": jnp.zeros(()), "x": jnp.zeros(2)},
    dense=(),
)


def funnel(blocks=None, rounds=2, seed=0):
    return cured(
        Nuts(FUNNEL, draws=100, tune=100),
        lambda _: [[FUNNEL.start]] * 2,
        max_rounds=rounds,
        seed=seed,
        target_accept=0.6,
        labelled=labelled,
        label="funnel",
        progress=False,
        blocks=blocks,
    )


@pytest.mark.exhaustive
def test_good_runs_are_told_apart_no_more_often_than_chance_has_it():
    """Quantiles of slow chains, whose Monte Carlo errors are rough: taken as exact, more often."""
    rng = np.random.default_rng(1)

    def run():
        z = rng.standard_normal((1000, 4, 150))
        for t in range(1, 1000):
            z[t] = 0.9 * z[t - 1] + np.sqrt(1 - 0.9**2) * z[t]
        x = np.where(np.arange(150) % 2, np.exp(z), np.sign(z) * np.abs(z) ** 1.5)
        return xr.Dataset({"x": (("draw", "chain", "quantity"), x)})

    far = np.array([list(distances(run(), run())[0].values()) for _ in range(10)]) > 3.3
    assert far.sum() <= 4 * 2 * scipy.stats.norm.sf(3.3) * far.size


def test_divergences_of_a_funnel_are_met_with_smaller_steps():
    told = [funnel(seed=seed)[1] for seed in range(8)]
    first, second = np.sum([each["divergences"] for each in told], axis=0)
    assert first > second
    assert all("second run at 0.9" in each["told"] for each in told)


@pytest.mark.slow
def test_a_cure_that_was_killed_goes_on_and_decides_alike(tmp_path):
    """Whatever blocks are there: of the first run, of its continuation, of the second run."""

    def run(folder):
        with Blocks(folder, {"seed": 0}) as blocks:
            return funnel(blocks, rounds=4)

    straight, told = run(tmp_path / "all")
    parts = sorted((tmp_path / "all").glob("*.bin"), key=lambda path: path.stat().st_mtime_ns)
    assert any(path.name.startswith("second_") for path in parts)
    for kept in range(0, len(parts), 5):
        folder = tmp_path / f"after{kept}"
        folder.mkdir()
        for path in [tmp_path / "all" / "manifest.json", *parts[:kept]]:
            shutil.copy2(path, folder)
        again, same = run(folder)
        assert same == told
        np.testing.assert_array_equal(again.samples["v"], straight.samples["v"])

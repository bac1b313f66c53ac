"""Draws on disk: what is interrupted goes on as if it had not been."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import jax.numpy as jnp
import numpy as np
import pytest
from hierarchies import LINEAR, PRIORS, decaying

import carpk as ck
from carpk import sampler
from carpk.blocks import Blocks
from carpk.sampler import Nuts, Target

TARGET = Target(  # a correlated normal distribution
    potential=lambda p: 0.5 * p["x"] @ jnp.array([[2.0, 1.2], [1.2, 2.0]]) @ p["x"],
    natural=lambda p: {"x": p["x"]},
    start={"x": jnp.zeros(2)},
    dense=("x",),
)
STARTS = [[{"x": jnp.array([1.0, -1.0])}], [{"x": jnp.array([-1.0, 0.5])}]]


def nuts(draws=120, rounds=1, blocks=None):
    kernel = Nuts(TARGET, draws=draws, tune=80)
    run = kernel.run(STARTS, seed=1, target_accept=0.8, blocks=blocks)
    return run.draws(rounds, progress=False)


@pytest.fixture(scope="module")
def whole():
    return nuts()


def same(one, other):
    for mine, theirs in zip(one[:2], other[:2], strict=True):
        for name, x in mine.items():
            np.testing.assert_array_equal(x, theirs[name])


def test_draws_are_those_of_the_target(whole):
    x = nuts(4000).samples["x"].reshape(-1, 2)
    exact = np.linalg.inv([[2.0, 1.2], [1.2, 2.0]])
    np.testing.assert_allclose(np.cov(x.T), exact, atol=0.08)
    assert whole.samples["x"].shape == (2, 120, 2)
    assert whole.stats["energy"].shape == (2, 120)


def test_blocks_change_nothing(whole, tmp_path):
    same(nuts(blocks=Blocks(tmp_path / "a", {})), whole)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names[:2] == ["chain0_block00000.bin", "chain0_block00001.bin"]
    assert not any(name.endswith(".part") for name in names)


@pytest.mark.parametrize("last", [1, 3])
def test_chains_go_on_after_their_last_whole_block(whole, tmp_path, last, monkeypatch):
    folder = tmp_path / "a"
    nuts(blocks=Blocks(folder, {}))
    for path in folder.glob("chain1_*.bin"):
        if int(path.stem[-5:]) >= last:
            path.unlink()
    written = []
    monkeypatch.setattr(
        Blocks, "write", lambda self, chain, block, *_: written.append((chain, block))
    )
    same(nuts(blocks=Blocks(folder, {})), whole)
    assert written == [(1, block) for block in range(last, 5)]


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_block_is_told_and_made_again(whole, tmp_path, damage):
    folder = tmp_path / "a"
    nuts(blocks=Blocks(folder, {}))
    path = folder / "chain0_block00003.bin"
    content = bytearray(path.read_bytes())
    content = content[:100] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(content)
    with pytest.warns(ck.CarpkWarning, match=r"chain0_block00003\.bin.*damaged"):
        again = nuts(blocks=Blocks(folder, {}))
    same(again, whole)


def test_a_folder_of_another_fit_is_refused(tmp_path):
    Blocks(tmp_path / "a", {"seed": 1, "draws": 10})
    Blocks(tmp_path / "a", {"seed": 1, "draws": 10})
    with pytest.raises(ck.FitError, match="seed differ"):
        Blocks(tmp_path / "a", {"seed": 2, "draws": 10})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(ck.FitError, match="holds no draws"):
        Blocks(tmp_path / "b", {})
    (tmp_path / "a" / "manifest.json").write_text("{")
    with pytest.raises(ck.FitError, match="damaged"):
        Blocks(tmp_path / "a", {})


def test_ctrl_c_returns_the_draws_so_far(whole, monkeypatch):
    """The interruption comes while a block is under way; it and those before it are kept."""
    add, seen, once = sampler.Progress.add, Counter(), threading.Lock()
    arrived = threading.Event()

    def arrive(*_):
        arrived.set()
        raise KeyboardInterrupt

    def interrupted(self, steps):
        add(self, steps)
        seen[threading.get_ident()] += 1
        drawing = [blocks > 2 for blocks in seen.values()]  # two blocks are for tuning
        if len(drawing) == 2 and all(drawing) and once.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)
            arrived.wait(60)  # on a busy machine the main thread may be late
            time.sleep(0.5)

    monkeypatch.setattr(sampler.Progress, "add", interrupted)
    usual = signal.signal(signal.SIGINT, arrive)
    try:
        found = nuts(5000)
    finally:
        signal.signal(signal.SIGINT, usual)
    assert found.interrupted
    size = found.samples["x"].shape[1]
    assert 50 <= size < 5000
    monkeypatch.undo()
    longer = nuts(5000)
    np.testing.assert_array_equal(found.samples["x"], longer.samples["x"][:, :size])


POP = ck.Population(LINEAR, varies=["base"], fixed={"halve": 10.0}, priors=PRIORS)


@pytest.mark.slow
def test_a_killed_process_resumes_and_gives_the_same_draws(tmp_path):
    """Killed at once, with no time to put anything in order."""
    script = """
        import sys
        sys.path.insert(0, {tests!r})
        from test_blocks import POP, decaying
        import carpk as ck
        ck.fit(POP, decaying(), chains=2, draws=20000, seed=5, folder={folder!r}, progress=False)
    """
    folder = tmp_path / "draws"
    tests = str(__import__("pathlib").Path(__file__).parent)
    code = textwrap.dedent(script.format(tests=tests, folder=str(folder)))
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 240
        while len(list(folder.glob("chain*_block*.bin"))) < 60 and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    there = len(list(folder.glob("chain*_block*.bin")))
    assert 60 <= there < 840
    how = {"chains": 2, "draws": 20000, "seed": 5, "progress": False}
    resumed = ck.fit(POP, decaying(), folder=folder, **how)
    straight = ck.fit(POP, decaying(), **how)
    for name in straight.posterior.data_vars:
        np.testing.assert_array_equal(resumed.posterior[name], straight.posterior[name])


@pytest.mark.slow
def test_another_call_with_the_same_folder_is_refused(tmp_path):
    how = {
        "chains": 1,
        "starts": 1,
        "draws": 10,
        "tune": 10,
        "progress": False,
        "folder": tmp_path / "a",
    }
    ck.fit(POP, decaying(), **how)
    with pytest.raises(ck.FitError, match="seed differ"):
        ck.fit(POP, decaying(), seed=1, **how)
    with pytest.raises(ck.FitError, match="population differ"):
        ck.fit(dataclasses.replace(POP, priors={}), decaying(), **how)
    with pytest.raises(ck.FitError, match="data_sha256 differ"):
        ck.fit(POP, decaying(seed=1), **how)
    with pytest.raises(ck.FitError, match="leave it out with 'laplace'"):
        ck.fit(POP, decaying(), method="laplace", folder=tmp_path / "b")

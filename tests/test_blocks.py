"""Draws on disk: what is interrupted goes on as if it had not been."""

import dataclasses
import errno
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
from carpk import _files
from carpk.inference.checkpoints import Blocks
from carpk.inference.nuts import LogDensityTarget, Nuts, Progress

pytestmark = pytest.mark.portable
TARGET = LogDensityTarget(  # a correlated normal distribution
    potential=lambda p: 0.5 * p["x"] @ jnp.array([[2.0, 1.2], [1.2, 2.0]]) @ p["x"],
    natural=lambda p: {"x": p["x"]},
    start={"x": jnp.zeros(2)},
    dense=("x",),
)
STARTS = [[{"x": jnp.array([1.0, -1.0])}], [{"x": jnp.array([-1.0, 0.5])}]]


def nuts(draws=120, rounds=1, seed=1, blocks=None):
    kernel = Nuts(TARGET, draws=draws, tune=80)
    run = kernel.run(STARTS, seed=seed, target_accept=0.8, blocks=blocks)
    return run.draws(rounds, progress=False)


@pytest.fixture(scope="module")
def whole():
    return nuts()


def kept(folder):
    with Blocks(folder, {}) as blocks:
        return nuts(blocks=blocks)


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
    same(kept(tmp_path / "a"), whole)
    names = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert names[:2] == ["chain0_block00000.bin", "chain0_block00001.bin"]
    assert not any(name.endswith(".part") for name in names)


@pytest.mark.parametrize("last", [1, 3])
def test_chains_go_on_after_their_last_whole_block(whole, tmp_path, last, monkeypatch):
    folder = tmp_path / "a"
    kept(folder)
    for path in folder.glob("chain1_*.bin"):
        if int(path.stem[-5:]) >= last:
            path.unlink()
    written = []
    monkeypatch.setattr(
        Blocks, "write", lambda self, chain, block, *_: written.append((chain, block))
    )
    same(kept(folder), whole)
    assert written == [(1, block) for block in range(last, 5)]


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_damaged_block_is_told_and_made_again(whole, tmp_path, damage):
    folder = tmp_path / "a"
    kept(folder)
    path = folder / "chain0_block00003.bin"
    content = bytearray(path.read_bytes())
    content = content[:100] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(content)
    with pytest.warns(ck.CarpkWarning, match=r"chain0_block00003\.bin.*damaged"):
        again = kept(folder)
    same(again, whole)


def test_a_folder_of_another_fit_is_refused(tmp_path):
    for _ in range(2):
        Blocks(tmp_path / "a", {"seed": 1, "draws": {"kept": 10}}).close()
    for wanted, differs in (({"seed": 2}, r"seed"), ({"draws": {"kept": 9}}, r"draws\.kept")):
        with pytest.raises(ck.FitError, match=f": {differs} differ"):
            Blocks(tmp_path / "a", {"seed": 1, "draws": {"kept": 10}} | wanted)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("x")
    with pytest.raises(ck.FitError, match="holds no draws"):
        Blocks(tmp_path / "b", {})
    manifest = tmp_path / "a" / "manifest.json"
    for damaged in ("{", "[]", manifest.read_text().replace('"kept": 10', '"kept": 11')):
        manifest.write_text(damaged)
        with pytest.raises(ck.FitError, match="damaged"):
            Blocks(tmp_path / "a", {"seed": 1, "draws": {"kept": 10}})
    (tmp_path / "file").write_text("x")
    with pytest.raises(ck.FitError, match="cannot be used for draws"):
        Blocks(tmp_path / "file", {})


class TestLock:
    def test_a_second_fit_is_kept_out_until_the_first_one_ends(self, tmp_path):
        with Blocks(tmp_path / "a", {}) as first:
            with pytest.raises(ck.FitError, match=rf"another fit .*process {os.getpid()} on "):
                Blocks(tmp_path / "a", {})
            assert first.within("other").folder == first.folder
        Blocks(tmp_path / "a", {}).close()

    def test_a_refused_folder_is_not_locked(self, tmp_path):
        Blocks(tmp_path / "a", {"seed": 1}).close()
        for _ in range(2):
            with pytest.raises(ck.FitError, match="seed differ"):
                Blocks(tmp_path / "a", {"seed": 2})
        Blocks(tmp_path / "a", {"seed": 1}).close()

    def test_the_lock_of_a_killed_process_is_no_obstacle(self, tmp_path):
        code = f"""
            import time
            from carpk.inference.checkpoints import Blocks
            blocks = Blocks({str(tmp_path / "a")!r}, {{}})
            print("locked", flush=True)
            time.sleep(60)
        """
        command = [sys.executable, "-c", textwrap.dedent(code)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "locked\n"
            with pytest.raises(ck.FitError, match=f"process {process.pid} on "):
                Blocks(tmp_path / "a", {})
            process.kill()
        Blocks(tmp_path / "a", {}).close()


class TestStrays:
    def blocks(self, folder, seed=1):
        return Blocks(folder, {"seed": seed})

    def run(self, folder):
        with self.blocks(folder) as blocks:
            return nuts(blocks=blocks)

    def test_a_missing_part_is_told_and_made_again(self, whole, tmp_path):
        self.run(tmp_path)
        (tmp_path / "chain1_block00002.bin").unlink()
        with pytest.warns(
            ck.CarpkWarning, match=r"chain1_block00002\.bin' is missing.*2, the first"
        ):
            same(self.run(tmp_path), whole)

    def test_a_part_from_elsewhere_is_told_and_made_again(self, whole, tmp_path):
        """One of another chain, and one of another fit: whole, but not this one."""
        for place in ("a", "b"):
            self.run(tmp_path / place)
        other = tmp_path / "c"
        with self.blocks(other, seed=2) as blocks:
            nuts(seed=2, blocks=blocks)
        name = "chain0_block00003.bin"
        (tmp_path / "a" / name).write_bytes((tmp_path / "a" / "chain1_block00003.bin").read_bytes())
        (tmp_path / "b" / name).write_bytes((other / name).read_bytes())
        for place in ("a", "b"):
            with pytest.warns(ck.CarpkWarning, match=r"not of this fit; chain 0"):
                same(self.run(tmp_path / place), whole)

    def test_foreign_files_are_named_and_left_alone(self, tmp_path):
        self.run(tmp_path)
        (tmp_path / "notes.txt").write_text("mine")
        (tmp_path / ".part-0123abcd-chain0_block00003.bin").write_bytes(b"half")
        with pytest.warns(ck.CarpkWarning, match=r"no part of this fit: notes\.txt\."):
            self.run(tmp_path)
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_two_runs_of_a_fit_share_a_folder(self, whole, tmp_path):
        with self.blocks(tmp_path) as blocks:
            nuts(blocks=blocks)
            again = blocks.within("second")
            second = nuts(seed=9, blocks=again)
        assert (tmp_path / "second_chain1_block00004.bin").exists()
        same(self.run(tmp_path), whole)
        with self.blocks(tmp_path) as blocks:
            kept = nuts(seed=9, blocks=blocks.within("second"))
        same(kept, second)


def test_a_full_disk_loses_no_draw(whole, tmp_path, monkeypatch):
    """Sampling goes on in memory, is told once per chain, and resumes from what is there."""
    write, written = _files.write, []

    def full(path, content):
        if len(written) >= 4:
            raise ck.SaveError(f"{path} cannot be written ({os.strerror(errno.ENOSPC)}).")
        written.append(path)
        return write(path, content)

    monkeypatch.setattr(_files, "write", full)
    with pytest.warns(ck.CarpkWarning, match=r"No space left.*goes on in memory") as told:
        same(kept(tmp_path / "a"), whole)
    assert len(told) == 2
    monkeypatch.undo()
    same(kept(tmp_path / "a"), whole)


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process of Windows")
def test_ctrl_c_returns_the_draws_so_far(whole, monkeypatch):
    """The interruption comes while a block is under way; it and those before it are kept."""
    add, seen, once = Progress.add, Counter(), threading.Lock()
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

    monkeypatch.setattr(Progress, "add", interrupted)
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


def test_a_folder_is_that_of_a_model_its_priors_data_and_settings(tmp_path, monkeypatch):
    """Also of two models of one name, made here and not read from a file."""
    # the folder is looked at first
    monkeypatch.setattr("carpk.inference.fit._fit_bound", lambda *_: None)
    how = {"chains": 1, "starts": 1, "draws": 10, "tune": 10, "folder": tmp_path / "a"}
    faster = dataclasses.replace(
        LINEAR, outputs={k: lambda t, p, f=f: f(2 * t, p) for k, f in LINEAR.outputs.items()}
    )
    others = {
        r"seed": (POP, decaying(), {"seed": 1}),
        r"draws": (POP, decaying(), {"draws": 11}),
        r"model\.equations": (dataclasses.replace(POP, model=faster), decaying(), {}),
        r"population\.priors": (dataclasses.replace(POP, priors={}), decaying(), {}),
        r"population\.fixed": (dataclasses.replace(POP, fixed={"halve": 9.0}), decaying(), {}),
        r"data_sha256": (POP, decaying(seed=1), {}),
    }
    for _ in range(2):
        ck.fit(POP, decaying(), **how)
    for differs, (population, data, more) in others.items():
        with pytest.raises(ck.FitError, match=f"holds draws of another fit: .*{differs}"):
            ck.fit(population, data, **how | more)
    with pytest.raises(ck.FitError, match="leave it out with 'laplace'"):
        ck.fit(POP, decaying(), method="laplace", folder=tmp_path / "b")

"""NUTS in blocks: NumPyro's kernel, one thread per chain, progress and a file after every block.

Every chain advances by itself, so no chain waits for another one's deeper tree, and the same
compiled block serves all of them. Same seed, same machine: same draws, interrupted or not.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.infer import NUTS, init_to_median
from numpyro.infer.util import initialize_model
from tqdm import tqdm

from carpk._compile import stacked
from carpk.inference.checkpoints import Blocks, Drawn

if TYPE_CHECKING:
    import numpyro.distributions as dist
    from numpyro.infer.hmc import HMCState

BLOCK = 50
TREE_DEPTH = 10
STATS = ("diverging", "energy", "n_steps", "acceptance_rate", "step_size", "lp")

Position: TypeAlias = Mapping[str, Array]
"""Where a sampler is: coordinates by name."""

Recorded: TypeAlias = tuple[dict[str, Array], tuple[Array, ...]]
"""Draws by name, and the first of `STATS`."""

Tree = TypeVar("Tree")
Found = TypeVar("Found")


class LogDensityTarget(NamedTuple):
    """Log density that NUTS samples, and its coordinates.

    Attributes:
        potential: position -> minus ln density.
        natural: position -> draws by name.
        start: a position: a dict of arrays.
        dense: the entries whose correlations the metric learns.
        jump: (position, key) -> position, a Markov step that leaves the density as it is; taken
            after every step of NUTS where there is one.
    """

    potential: Callable[[Position], Array]
    natural: Callable[[Position], dict[str, Array]]
    start: Position
    dense: tuple[str, ...]
    jump: Callable[[Position, Array], Position] | None = None

    def kernel(self, target_accept: float | Array, max_treedepth: int = TREE_DEPTH) -> NUTS:
        return NUTS(
            potential_fn=self.potential,
            target_accept_prob=target_accept,
            max_tree_depth=(min(8, max_treedepth), max_treedepth),
            dense_mass=[self.dense] if self.dense else False,
        )

    def jumped(self, state: HMCState) -> HMCState:
        """A state of the kernel after the jump."""
        if self.jump is None:
            return state
        key, own = jax.random.split(state.rng_key)
        z = self.jump(state.z, own)
        energy, gradient = jax.value_and_grad(self.potential)(z)
        return state._replace(z=z, potential_energy=energy, z_grad=gradient, rng_key=key)


def from_numpyro(
    model: Callable[..., None], *data: Any, dense: Sequence[str] = ()
) -> LogDensityTarget:
    """The target of a NumPyro model; it starts at the medians of its priors."""
    info = initialize_model(
        jax.random.key(0),
        model,
        model_args=data,
        dynamic_args=True,
        init_strategy=init_to_median(num_samples=25),
        validate_grad=False,
    )
    return LogDensityTarget(
        info.potential_fn(*data), info.postprocess_fn(*data), info.param_info.z, tuple(dense)
    )


class Progress:
    """A bar on a terminal; elsewhere a line per 10 %."""

    def __init__(
        self, total: int, label: str, show: bool, unit: str = "iterations", done: int = 0
    ) -> None:
        self.total, self.label, self.unit, self.done = total, label, unit, done
        self.start, self.lock = time.monotonic(), threading.Lock()
        self.first = (done, self.start)  # done, and when, once all is compiled
        terminal = show and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=done, desc=label, unit="it") if terminal else None
        self.lines = show and not terminal
        if self.lines:
            first = "" if done else "compiling, then "
            print(f"{label}: {first}{total - done} {unit}", file=sys.stderr, flush=True)

    def add(self, steps: int) -> None:
        with self.lock:
            before, self.done, now = self.done, self.done + steps, time.monotonic()
            if not before:
                self.first = (self.done, now)
            if self.bar is not None:
                self.bar.update(steps)
            elif self.lines and before * 10 // self.total < self.done * 10 // self.total:
                since, begin = self.first if self.done > self.first[0] else (0, self.start)
                rate = (self.done - since) / max(now - begin, 1e-9)
                print(
                    f"{self.label}: {100 * self.done // self.total:3d} %  "
                    f"{now - self.start:.0f} s with compiling, {rate:.3g} {self.unit} per second, "
                    f"about {(self.total - self.done) / rate:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class ChainDraws(NamedTuple):
    """Draws of all chains, with sampler statistics.

    Attributes:
        samples: on the natural scale, name -> (chain, draw, ...).
        stats: sampler statistics under ArviZ's names, name -> (chain, draw).
        interrupted: whether there are fewer draws than asked for, since somebody stopped it.
    """

    samples: dict[str, np.ndarray]
    stats: dict[str, np.ndarray]
    interrupted: bool


class Nuts:
    """NumPyro's kernel for one target; its runs share the compiled code.

    Args:
        target: log density to sample.
        draws: per chain in one round.
        tune: adaptation steps per chain.
        max_treedepth: NUTS doubles its path at most this many times.
    """

    def __init__(
        self, target: LogDensityTarget, *, draws: int, tune: int, max_treedepth: int = TREE_DEPTH
    ) -> None:
        self.target, self.max_treedepth, block = target, max_treedepth, min(BLOCK, draws)
        self.warming = [min(block, tune - start) for start in range(0, tune, block)]
        self.sampling = [min(block, draws - start) for start in range(0, draws, block)]

        def kernel(start: Position, key: Array, target_accept: Array) -> tuple[NUTS, HMCState]:
            made = target.kernel(target_accept, max_treedepth)
            return made, made.init(key, tune, start, (), {})

        @jax.jit
        def begin(start: Position, key: Array, target_accept: Array) -> HMCState:
            return kernel(start, key, target_accept)[1]

        def recorded(state: HMCState) -> Recorded:
            stats = (
                state.diverging,
                state.energy,
                state.num_steps,
                state.accept_prob,
                state.adapt_state.step_size,
                -state.potential_energy,
            )
            return target.natural(state.z), stats

        @jax.jit
        def advance(
            state: HMCState, steps: Array, target_accept: Array
        ) -> tuple[HMCState, Recorded]:
            ready, _ = kernel(state.z, state.rng_key, target_accept)

            def step(i: Array, carry: tuple[HMCState, Recorded]) -> tuple[HMCState, Recorded]:
                state, out = carry
                state = target.jumped(ready.sample(state, (), {}))
                return state, jax.tree.map(lambda x, y: x.at[i].set(y), out, recorded(state))

            shapes = jax.eval_shape(recorded, state)
            out = jax.tree.map(lambda x: jnp.zeros((block, *x.shape), x.dtype), shapes)
            state, out = jax.lax.fori_loop(0, steps, step, (state, out))
            return state, out

        self.begin, self.advance = begin, advance

    def run(
        self,
        starts: Sequence[Iterable[Position]],
        *,
        seed: int,
        target_accept: float,
        blocks: Blocks | None = None,
    ) -> Run:
        """A run with a chain for each of `starts`, none of them begun.

        Args:
            starts: positions for each chain; it begins at the first one with a finite density and
                gradient, or at the last.
            seed: of the chains' random numbers.
            target_accept: acceptance probability that step sizes are adapted to.
            blocks: where every block is written; those that are there already are not sampled
                again.
        """
        keys = jax.random.split(jax.random.key(seed), len(starts))
        return Run(
            self, [Chain(*each) for each in zip(starts, keys, strict=True)], target_accept, blocks
        )


@dataclasses.dataclass
class Chain:
    """One chain: where it may start, its key, its state, its blocks of draws, the next block."""

    starts: Iterable[Position]
    key: Array
    state: HMCState | None = None
    found: list[Drawn] = dataclasses.field(default_factory=list)
    block: int = 0


class Run:
    """Chains that can be continued round by round, with their adapted step size and metric.

    Attributes:
        rounds: how many were asked for.
    """

    def __init__(
        self, nuts: Nuts, chains: Sequence[Chain], target_accept: float, blocks: Blocks | None
    ) -> None:
        self.nuts, self.chains, self.blocks = nuts, chains, blocks
        self.target_accept, self.rounds = target_accept, 0

    def draws(
        self, rounds: int = 1, *, label: str = "sampling", progress: bool = True
    ) -> ChainDraws:
        """The draws of the first rounds; those that are there are not sampled again.

        Ctrl-C stops after the blocks under way and returns what there is; a second one, or one
        before the first draw, is an interruption as usual.
        """
        self.rounds = rounds
        sizes = [*self.nuts.warming, *self.nuts.sampling * rounds]
        bar = Progress(
            len(self.chains) * sum(sizes),
            label,
            progress,
            done=sum(sum(sizes[: chain.block]) for chain in self.chains),
        )
        stop = threading.Event()

        def advance(index: int) -> None:
            chain = self.chains[index]
            if chain.state is None:
                self._begin(index)
                if chain.block:
                    bar.add(sum(sizes[: chain.block]))
            while chain.block < len(sizes) and not stop.is_set():
                self._block(index, sizes[chain.block])
                bar.add(sizes[chain.block - 1])

        threads = min(len(self.chains), os.cpu_count() or 1)
        with ThreadPoolExecutor(max_workers=threads) as pool:
            waiting = [pool.submit(advance, i) for i in range(len(self.chains))]
            try:
                for each in waiting:
                    while not wait([each], timeout=1).done:
                        pass  # Windows hears Ctrl-C between two waits only
                    each.result()
            except KeyboardInterrupt:
                stop.set()
                for each in waiting:
                    each.result()
                if not self._kept(rounds):
                    raise
            except BaseException:
                stop.set()
                raise
            finally:
                bar.close()
        return self._drawn(rounds)

    def _begin(self, index: int) -> None:
        """Find where a chain starts, or goes on."""
        chain = self.chains[index]
        for position in chain.starts:
            state = self.nuts.begin(position, chain.key, self.target_accept)
            ends = jax.tree.leaves((state.potential_energy, state.z_grad))
            if all(np.isfinite(x).all() for x in ends):
                break
        if self.blocks is not None:
            state, chain.found, chain.block = self.blocks.read(index, state)
        chain.state = state

    def _block(self, index: int, steps: int) -> None:
        chain = self.chains[index]
        ready: Callable[..., tuple[HMCState, Recorded]] = jax.block_until_ready
        state, out = ready(self.nuts.advance(chain.state, steps, self.target_accept))
        kept = None
        if chain.block >= len(self.nuts.warming):
            kept = jax.tree.map(lambda x: np.asarray(x[:steps]), out)
        if self.blocks is not None:
            self.blocks.write(index, chain.block, state, kept)
        if kept is not None:
            chain.found.append(kept)
        chain.state, chain.block = state, chain.block + 1

    def _kept(self, rounds: int) -> int:
        """Blocks of draws that every chain has, of these rounds."""
        return min(len(self.nuts.sampling) * rounds, *(len(chain.found) for chain in self.chains))

    def _drawn(self, rounds: int) -> ChainDraws:
        kept = self._kept(rounds)
        each = [
            jax.tree.map(lambda *x: np.concatenate(x), *chain.found[:kept]) for chain in self.chains
        ]
        samples, stats = stacked(each)
        named = dict(zip(STATS, stats, strict=True))
        named["tree_depth"] = np.ceil(np.log2(named["n_steps"] + 1)).astype(int)
        named["reached_max_treedepth"] = named["tree_depth"] >= self.nuts.max_treedepth
        short = kept < len(self.nuts.sampling) * rounds
        return ChainDraws({k: np.asarray(v) for k, v in samples.items()}, named, short)


def prior_draws(
    priors: Mapping[str, dist.Distribution], size: int, seed: int
) -> dict[str, np.ndarray]:
    """Independent draws from each prior, name -> (size, ...)."""
    keys = jax.random.split(jax.random.key(seed), max(len(priors), 1))
    # iterating over typed keys would trigger a compilation
    apart = np.asarray(jax.random.key_data(keys))
    return {
        name: np.asarray(prior.sample(jax.random.wrap_key_data(key), (size,)), float)
        for key, (name, prior) in zip(apart, priors.items(), strict=False)
    }


def one_chain_each(
    of: Callable[[Tree], LogDensityTarget],
    data: Tree,
    *,
    draws: int,
    tune: int,
    seed: int,
    target_accept: float = 0.9,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """One short chain for each of many data sets of the same shape, compiled once.

    Args:
        of: the target of one data set; traced.
        data: pytree of arrays with a leading axis (data set,).

    Returns:
        Samples on the natural scale, name -> (data set, draw, ...).
    """

    @jax.jit
    def one(data: Tree, key: Array) -> dict[str, Array]:
        target = of(data)
        kernel = target.kernel(target_accept, 8)
        state = kernel.init(key, tune, target.start, (), {})
        state = jax.lax.fori_loop(
            0, tune, lambda _, s: target.jumped(kernel.sample(s, (), {})), state
        )

        def step(state: HMCState, _: None) -> tuple[HMCState, dict[str, Array]]:
            state = target.jumped(kernel.sample(state, (), {}))
            return state, target.natural(state.z)

        _, drawn = jax.lax.scan(step, state, None, length=draws)
        samples: dict[str, Array] = drawn
        return samples

    size = jax.tree.leaves(data)[0].shape[0]
    keys = jax.random.split(jax.random.key(seed), size)

    def run(i: int) -> dict[str, np.ndarray]:
        out = one(jax.tree.map(lambda x: jnp.asarray(x[i]), data), keys[i])
        return {k: np.asarray(v) for k, v in out.items()}

    samples = in_threads(run, size, "recovery", progress)
    return {k: np.stack([s[k] for s in samples]) for k in samples[0]}


def in_threads(
    run: Callable[[int], Found], size: int, label: str = "", progress: bool = False
) -> list[Found]:
    """run(0), run(1), ... in threads; equal functions are compiled once."""
    bar = Progress(size, label, progress, "data sets")

    def counted(i: int) -> Found:
        out = run(i)
        bar.add(1)
        return out

    try:
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            return list(pool.map(counted, range(size)))
    finally:
        bar.close()

"""NUTS in blocks: NumPyro's kernel, one thread per chain, progress after every block.

Every chain advances by itself, so no chain waits for another one's deeper tree, and the same
compiled block serves all of them. Same seed, same machine: same draws.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpyro.infer import MCMC, NUTS, init_to_median
from numpyro.infer.util import initialize_model
from scipy.optimize import minimize
from tqdm import tqdm

BLOCK = 50
REACH = 5.0  # how far from the prior medians a mode is looked for, on the unconstrained scale
IMPOSSIBLE = 1e12  # -ln posterior where it is not finite
STEP = 1e-3  # of central differences at the mode
FLATTEST = 0.1  # curvature that any direction is taken to have; a standard normal has 1
STATS = ("diverging", "energy", "n_steps", "acceptance_rate", "step_size", "lp")


class Progress:
    """A bar on a terminal; elsewhere a line per 10 %."""

    def __init__(self, total: int, label: str, show: bool) -> None:
        self.total, self.label, self.done = total, label, 0
        self.start, self.lock = time.monotonic(), threading.Lock()
        terminal = show and sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=label, unit="it") if terminal else None
        self.lines = show and not terminal
        if self.lines:
            print(f"{label}: compiling, then {total} iterations", file=sys.stderr, flush=True)

    def add(self, steps: int) -> None:
        with self.lock:
            before, self.done = self.done, self.done + steps
            if self.bar is not None:
                self.bar.update(steps)
            elif self.lines and before * 10 // self.total < self.done * 10 // self.total:
                percent = 100 * self.done // self.total
                seconds = time.monotonic() - self.start
                left = seconds * (self.total - self.done) / self.done
                print(
                    f"{self.label}: {percent:3d} %  {seconds:.0f} s, about {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def nuts(
    model: Callable[[], None],
    *,
    draws: int,
    tune: int,
    chains: int,
    seed: int,
    target_accept: float,
    max_treedepth: int = 10,
    dense: Sequence[str] = (),
    label: str = "sampling",
    progress: bool = True,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Draw from a NumPyro model.

    `dense` names the sites whose posterior correlations the mass matrix learns.

    Returns:
        Samples on the natural scale, name -> (chain, draw, ...); and sampler statistics under
        ArviZ's names, name -> (chain, draw).
    """
    keys = jax.random.split(jax.random.key(seed), chains)

    def started(keys: Any) -> tuple[NUTS, Any]:
        kernel = NUTS(
            model,
            init_strategy=init_to_median(num_samples=25),
            target_accept_prob=target_accept,
            max_tree_depth=(min(8, max_treedepth), max_treedepth),
            dense_mass=[tuple(dense)] if dense else False,
        )
        return kernel, kernel.init(keys, tune, None, (), {})

    _, batch = started(keys)  # the starting points of all chains in one go
    kernel, _ = started(keys[0])  # and a kernel that advances one chain by itself
    states = [jax.tree.map(lambda x, i=i: x[i], batch) for i in range(chains)]
    natural = kernel.postprocess_fn((), {})
    block = min(BLOCK, draws)

    @jax.jit
    def warm(state: Any, steps: Any) -> Any:
        return jax.lax.fori_loop(0, steps, lambda _, s: kernel.sample(s, (), {}), state)

    @jax.jit
    def advance(state: Any) -> Any:
        def step(state: Any, _: Any) -> Any:
            state = kernel.sample(state, (), {})
            stats = (
                state.diverging,
                state.energy,
                state.num_steps,
                state.accept_prob,
                state.adapt_state.step_size,
                -state.potential_energy,
            )
            return state, (natural(state.z), stats)

        return jax.lax.scan(step, state, None, length=block)

    bar = Progress(chains * (tune + draws), label, progress)

    def run(state: Any) -> tuple[Mapping[str, Any], tuple[Any, ...]]:
        for start in range(0, tune, block):
            steps = min(block, tune - start)
            state = jax.block_until_ready(warm(state, steps))
            bar.add(steps)
        blocks = []
        for start in range(0, draws, block):
            state, out = jax.block_until_ready(advance(state))
            blocks.append(jax.tree.map(np.asarray, out))
            bar.add(min(block, draws - start))
        return jax.tree.map(lambda *x: np.concatenate(x)[:draws], *blocks)

    try:
        with ThreadPoolExecutor(max_workers=min(chains, os.cpu_count() or 1)) as pool:
            results = list(pool.map(run, states))
    finally:
        bar.close()
    samples, stats = jax.tree.map(lambda *x: np.stack(x), *results)
    named = dict(zip(STATS, stats, strict=True))
    named["tree_depth"] = np.ceil(np.log2(named["n_steps"] + 1)).astype(int)
    named["reached_max_treedepth"] = named["tree_depth"] >= max_treedepth
    return {k: np.asarray(v) for k, v in samples.items()}, named


def prior_draws(priors: Mapping[str, Any], size: int, seed: int) -> dict[str, np.ndarray]:
    """Independent draws from each prior, name -> (size, ...)."""
    keys = jax.random.split(jax.random.key(seed), max(len(priors), 1))
    return {
        name: np.asarray(prior.sample(key, (size,)), float)
        for key, (name, prior) in zip(keys, priors.items(), strict=False)
    }


def one_chain_each(
    model: Callable[[Any], None],
    data: Any,
    *,
    draws: int,
    tune: int,
    seed: int,
    target_accept: float = 0.9,
    progress: bool = True,
) -> dict[str, np.ndarray]:
    """One short chain for each of many data sets of the same shape, compiled once.

    Args:
        model: NumPyro model of one data set.
        data: pytree of arrays with a leading axis (data set,).

    Returns:
        Samples on the natural scale, name -> (data set, draw, ...).
    """

    @jax.jit
    def one(data: Any, key: Any) -> dict[str, Any]:
        mcmc = MCMC(
            NUTS(
                model,
                init_strategy=init_to_median(num_samples=25),
                target_accept_prob=target_accept,
                max_tree_depth=8,
                dense_mass=True,
            ),
            num_warmup=tune,
            num_samples=draws,
            progress_bar=False,
        )
        mcmc.run(key, data)
        return mcmc.get_samples()

    size = jax.tree.leaves(data)[0].shape[0]
    keys = jax.random.split(jax.random.key(seed), size)
    bar = Progress(size, "recovery", progress)

    def run(i: int) -> dict[str, np.ndarray]:
        out = one(jax.tree.map(lambda x: jnp.asarray(x[i]), data), keys[i])
        out = {k: np.asarray(v) for k, v in out.items()}
        bar.add(1)
        return out

    try:
        first = run(0)  # compiles
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            samples = [first, *pool.map(run, range(1, size))]
    finally:
        bar.close()
    return {k: np.stack([s[k] for s in samples]) for k in first}


def laplace_each(
    model: Callable[[Any], None], data: Any, *, draws: int, seed: int, progress: bool = True
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weighted draws around the posterior mode of each of many data sets of the same shape.

    They come from a normal distribution with the curvature at the mode (central differences of
    the gradient, which needs nothing compiled anew); the weights tell what it misses.

    Args:
        model: NumPyro model of one data set.
        data: pytree of arrays with a leading axis (data set,).

    Returns:
        Samples on the natural scale, name -> (data set, draw, ...), and the logarithms of their
        weights, (data set, draw).
    """

    def of(i: int) -> Any:
        return jax.tree.map(lambda x: jnp.asarray(x[i]), data)

    info = initialize_model(
        jax.random.key(seed),
        model,
        model_args=(of(0),),
        dynamic_args=True,
        init_strategy=init_to_median(num_samples=25),
    )
    start, unravel = ravel_pytree(info.param_info.z)

    def potential(z: Any, data: Any) -> Any:
        return info.potential_fn(data)(unravel(z))

    @jax.jit
    def weighed(z: Any, data: Any) -> Any:
        each = jax.lax.map(lambda z: potential(z, data), z)
        return each, jax.vmap(lambda z: info.postprocess_fn(data)(unravel(z)))(z)

    downhill = jax.jit(jax.value_and_grad(potential))
    size, dims = jax.tree.leaves(data)[0].shape[0], start.size
    rngs = np.random.default_rng(seed).spawn(size)
    bar = Progress(size, "recovery", progress)

    def run(i: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        mode, _ = downhill_from(start, lambda z: downhill(z, of(i)))
        steps = STEP * np.eye(dims)
        ends = [[downhill(mode + sign * e, of(i))[1] for e in steps] for sign in (1, -1)]
        hessian = (np.array(ends[0]) - np.array(ends[1])) / (2 * STEP)
        values, vectors = np.linalg.eigh(np.nan_to_num((hessian + hessian.T) / 2))
        factor = vectors / np.sqrt(np.maximum(values, FLATTEST))
        steps = rngs[i].standard_normal((draws, dims))
        inside = -0.5 * np.sum(steps**2, axis=1)
        energy, out = jax.tree.map(np.asarray, weighed(mode + steps @ factor.T, of(i)))
        bar.add(1)
        return out, np.where(np.isfinite(energy), -energy - inside, -np.inf)

    try:
        first = run(0)  # compiles
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            found = [first, *pool.map(run, range(1, size))]
    finally:
        bar.close()
    return jax.tree.map(lambda *x: np.stack(x), *found)


def downhill_from(start: Any, valued: Callable[[Any], Any]) -> tuple[np.ndarray, np.ndarray]:
    """The lowest point near `start`, and the inverse Hessian that L-BFGS has met on its way.

    Args:
        valued: z -> (value, gradient); where they are not finite, it turns back.
    """

    def finite(z: Any) -> tuple[float, np.ndarray]:
        value, slope = jax.tree.map(np.asarray, valued(z))
        bad = not (np.isfinite(value) and np.isfinite(slope).all())
        return (IMPOSSIBLE, np.zeros_like(slope)) if bad else (float(value), slope)

    around = [(x - REACH, x + REACH) for x in np.asarray(start)]
    found = minimize(
        finite, start, jac=True, method="L-BFGS-B", bounds=around, options={"maxcor": 50}
    )
    return found.x, found.hess_inv.todense()

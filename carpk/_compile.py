"""Cheap jit, compilation in the background, and work by batches of rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.stages import Compiled, Wrapped

# Half the time of compiling for CPUs (gradients run a third slower); later versions do not know it.
FAST_COMPILE = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}


def jit_fast_compile(function: Callable[..., object]) -> Wrapped:
    """jit with cheap compilation, for code that compiles longer than it runs."""
    return jax.jit(function, compiler_options=FAST_COMPILE)


def compile_for(function: Wrapped, *shapes: object) -> Compiled:
    """Compile a function that was jitted, for arrays of these shapes (`jax.ShapeDtypeStruct`)."""
    return function.lower(*shapes).compile()


@contextmanager
def in_background(jobs: Iterable[Callable[[], object]]) -> Iterator[None]:
    """Run jobs one after another in a background thread; unstarted jobs are cancelled on exit.

    They compile functions ahead: a call waits for its compilation, and raises its errors.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        for job in jobs:
            pool.submit(job)
        yield
    finally:
        pool.shutdown(cancel_futures=True)


def by_rows(run: Callable[[np.ndarray], object], size: int, batch: int) -> Any:
    """Trees of arrays for `size` rows, in threads, as one.

    Args:
        run: indices (batch,) -> arrays with a leading axis (batch,); the last indices repeat.
        batch: rows at once; with fewer rows, all of them.
    """
    batch = min(batch, size)
    rows = np.resize(np.arange(size), (-(-size // batch), batch))
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        parts = list(pool.map(lambda i: jax.tree.map(np.asarray, run(i)), rows))
    return jax.tree.map(lambda *x: np.concatenate(x)[:size], *parts)


def stacked(trees: Iterable[object]) -> Any:
    """Trees of arrays as one, with a leading axis."""
    return jax.tree.map(lambda *x: np.stack(x), *trees)

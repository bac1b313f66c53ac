"""Ways to compile and to run what is compiled: beside other work, quickly, and row by row."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

# Half the time of compiling for CPUs (gradients run a third slower); later versions do not know it.
QUICK = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 11) else {}


def quickly(function: Callable[..., Any]) -> Any:
    """`jax.jit` for what takes longer to compile than to run."""
    return jax.jit(function, compiler_options=QUICK)


def compiled(function: Any, *shapes: Any) -> Any:
    """Compile a function that was jitted, for arrays of these shapes (`jax.ShapeDtypeStruct`)."""
    return function.lower(*shapes).compile()


@contextmanager
def beside(jobs: Iterable[Callable[[], Any]]) -> Iterator[None]:
    """Run jobs in a thread, one after the other, beside what is done meanwhile.

    They compile what is needed later: who calls such a function waits for it, and meets what went
    wrong with it, too. Those not begun at the end are dropped.
    """
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        for job in jobs:
            pool.submit(job)
        yield
    finally:
        pool.shutdown(cancel_futures=True)


def by_rows(run: Callable[[np.ndarray], Any], size: int, batch: int) -> Any:
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


def stacked(trees: Iterable[Any]) -> Any:
    """Trees of arrays as one, with a leading axis."""
    return jax.tree.map(lambda *x: np.stack(x), *trees)

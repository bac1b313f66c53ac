"""Draws on disk, block by block: whatever happens, at most one block is lost.

A folder holds `manifest.json`, which says what is being sampled, and a file per chain and block:
the draws of the block and the sampler's state after it. A file is written beside its place and
renamed, and carries a checksum, so that a half-written or damaged one is told from a whole one.
Chains resume after their last whole block.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from carpk.errors import CarpkWarning, FitError

MANIFEST = "manifest.json"
CHECKSUM = 32  # bytes of SHA-256 before the content


class Blocks:
    """The folder of one fit.

    Args:
        folder: made if there is none.
        manifest: everything that decides the draws; a folder with another one is refused.
    """

    def __init__(self, folder: str | Path, manifest: Mapping[str, Any]) -> None:
        self.folder, self._prefix = Path(folder), ""
        wanted = json.loads(json.dumps(manifest))
        path = self.folder / MANIFEST
        if path.exists():
            try:
                there = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise FitError(
                    f"fit: {str(path)!r} is damaged ({error}); choose another folder, or remove "
                    "this one to start again."
                ) from error
            different = [k for k in {**there, **wanted} if there.get(k) != wanted.get(k)]
            if different:
                raise FitError(
                    f"fit: the folder {str(self.folder)!r} holds draws of another fit: "
                    f"{', '.join(different)} differ. Choose another folder, or remove this one."
                )
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise FitError(
                f"fit: the folder {str(self.folder)!r} is not empty and holds no draws of carpk; "
                "choose another."
            )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(path, json.dumps(wanted, indent=1).encode())

    def within(self, name: str) -> Blocks:
        """The parts of another run of the same fit, under the same manifest."""
        other = copy.copy(self)
        other._prefix = f"{name}_"
        return other

    def _path(self, chain: int, block: int) -> Path:
        return self.folder / f"{self._prefix}chain{chain}_block{block:05d}.bin"

    def write(self, chain: int, block: int, state: Any, out: Any) -> None:
        """Keep a block: the sampler's state after it, and its draws (None while it tunes)."""
        leaves = {f"state{i}": x for i, x in enumerate(map(_plain, jax.tree.leaves(state)))}
        if out is not None:
            samples, stats = out
            leaves |= {f"draw_{name}": x for name, x in samples.items()}
            leaves |= {f"stat_{i}": x for i, x in enumerate(stats)}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **leaves)
        body = content.getvalue()
        _write(self._path(chain, block), hashlib.sha256(body).digest() + body)

    def read(self, chain: int, state: Any) -> tuple[Any, list[Any], int]:
        """(state, draws of its blocks, number of the next block) after the last whole block.

        Args:
            state: of a chain that has not begun, for its shape.
        """
        found, block = [], 0
        while (path := self._path(chain, block)).exists():
            content = path.read_bytes()
            body = content[CHECKSUM:]
            if hashlib.sha256(body).digest() != content[:CHECKSUM]:
                warnings.warn(
                    f"fit: {str(path)!r} is damaged or cut off; chain {chain} goes on before it.",
                    CarpkWarning,
                    stacklevel=2,
                )
                break
            with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
                leaves, tree = jax.tree.flatten(state)
                state = jax.tree.unflatten(
                    tree, [_like(x, arrays[f"state{i}"]) for i, x in enumerate(leaves)]
                )
                samples = {
                    k.removeprefix("draw_"): arrays[k] for k in arrays if k.startswith("draw_")
                }
                stats = tuple(
                    arrays[f"stat_{i}"] for i in range(sum(k.startswith("stat_") for k in arrays))
                )
            if samples:
                found.append((samples, stats))
            block += 1
        return state, found, block


def _plain(x: Any) -> np.ndarray:
    """An array of numbers, of a random key as well."""
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def _like(wanted: Any, x: np.ndarray) -> Any:
    if isinstance(wanted, jax.Array) and jax.dtypes.issubdtype(wanted.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jax.numpy.asarray(x))
    return jax.numpy.asarray(x)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    beside = path.with_suffix(".part")
    with beside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)

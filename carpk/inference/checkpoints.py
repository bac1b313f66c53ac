"""Draws on disk, block by block: whatever happens, at most one block is lost.

A folder belongs to one fit. It holds `manifest.json`, which says what is being sampled; a part per
chain and block, with the draws of the block and the sampler's state after it; and `lock`, which
keeps a second process out for as long as the first one lives, with its name in `holder` (a locked
file cannot be read everywhere). Parts are written whole or not at all. Each begins with a SHA-256
of the manifest, its own name and its content, so that a damaged part, and one that was copied from
another place, is told from a whole one. Chains resume after their last whole block.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import io
import json
import os
import platform
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock, Timeout
from jax import Array

from carpk import _files
from carpk.errors import CarpkWarning, FitError, SaveError
from carpk.inference.encoding import differing

if TYPE_CHECKING:
    from carpk._types import Arrays

MANIFEST = "manifest.json"
LOCK, HOLDER = "lock", "holder"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
CHECKSUM = 32  # bytes of SHA-256 before the content
IS_A_PART = re.compile(r"(\w+_)?chain\d+_block\d{5}\.bin")

State = TypeVar("State")

Drawn: TypeAlias = tuple[dict[str, np.ndarray], tuple[np.ndarray, ...]]
"""Draws of a block by name, (draw, ...), and the sampler's statistics, (draw,)."""


class Blocks:
    """The folder of one fit; a context, in which it is locked.

    Args:
        folder: made if there is none.
        manifest: everything that decides the draws; a folder with another one is refused.

    Raises:
        FitError: the folder belongs to another fit or process, or cannot be used.
    """

    def __init__(self, folder: str | Path, manifest: Mapping[str, object]) -> None:
        self.folder, self._prefix = Path(folder), ""
        self._stopped: set[str] = set()  # chains whose blocks the disk does not take
        wanted = json.loads(json.dumps(manifest))
        self._key = _digest(wanted)
        self._lock = _locked(self.folder)
        try:
            self._claim(wanted)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes in."""
        self._lock.release()

    def _claim(self, wanted: Mapping[str, object]) -> None:
        """Write the manifest, or compare it with the one that is there."""
        path = self.folder / MANIFEST
        found = sorted(p.name for p in self.folder.iterdir() if not _files.is_part(p.name))
        own = {MANIFEST, LOCK, HOLDER}
        strays = [n for n in found if n not in own and not IS_A_PART.fullmatch(n)]
        if not path.exists():
            if set(found) - {LOCK, HOLDER}:
                raise FitError(
                    f"fit: the folder {str(self.folder)!r} is not empty and holds no draws of "
                    "carpk; choose another."
                )
            content = {"sha256": self._key, "fit": wanted}
            _files.write(path, json.dumps(content, indent=1))
            return
        try:
            stored = json.loads(path.read_bytes())
            there = stored["fit"]
            if stored["sha256"] != _digest(there):
                raise ValueError("its checksum is wrong")
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise FitError(
                f"fit: {str(path)!r} is damaged ({error}); choose another folder, or remove "
                "this one to start again."
            ) from error
        different = differing(there, wanted)
        if different:
            raise FitError(
                f"fit: the folder {str(self.folder)!r} holds draws of another fit: "
                f"{', '.join(different)} differ. Choose another folder, or remove this one."
            )
        if strays:
            warnings.warn(
                f"fit: the folder {str(self.folder)!r} holds what is no part of this fit: "
                f"{', '.join(strays)}. It is left alone.",
                CarpkWarning,
                stacklevel=4,
            )

    def within(self, name: str) -> Blocks:
        """The parts of another run of the same fit, under the same manifest and lock."""
        other = copy.copy(self)
        other._prefix = f"{name}_"
        return other

    def _path(self, chain: int, block: int) -> Path:
        return self.folder / f"{self._prefix}chain{chain}_block{block:05d}.bin"

    def _checksum(self, path: Path, body: bytes) -> bytes:
        return hashlib.sha256(f"{self._key}\n{path.name}\n".encode() + body).digest()

    def write(self, chain: int, block: int, state: object, out: Drawn | None) -> None:
        """Keep a block: the sampler's state after it, and its draws (None while it tunes).

        Where the disk does not take it, the chain goes on in memory alone, with a warning.
        """
        path = self._path(chain, block)
        name = f"{self._prefix}{chain}"
        if name in self._stopped:
            return
        leaves = {f"state{i}": x for i, x in enumerate(map(_plain, jax.tree.leaves(state)))}
        if out is not None:
            samples, stats = out
            leaves |= {f"draw_{name}": x for name, x in samples.items()}
            leaves |= {f"stat_{i}": x for i, x in enumerate(stats)}
        content = io.BytesIO()
        np.savez(content, allow_pickle=False, **leaves)
        body = content.getvalue()
        try:
            _files.write(path, self._checksum(path, body) + body)
        except SaveError as trouble:
            self._stopped.add(name)
            warnings.warn(
                f"fit: {trouble} Chain {chain} goes on in memory: save the fit elsewhere.",
                CarpkWarning,
                stacklevel=2,
            )

    def read(self, chain: int, state: State) -> tuple[State, list[Drawn], int]:
        """(state, draws of its blocks, number of the next block) after the last whole block.

        Args:
            state: of a chain that has not begun, for its shape.
        """
        found: list[Drawn] = []
        block = 0
        while (path := self._path(chain, block)).exists():
            content = path.read_bytes() if path.is_file() else b""
            body = content[CHECKSUM:]
            if self._checksum(path, body) != content[:CHECKSUM]:
                warnings.warn(
                    f"fit: {str(path)!r} is damaged, cut off or not of this fit; chain {chain} "
                    "goes on before it.",
                    CarpkWarning,
                    stacklevel=2,
                )
                return state, found, block
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
        later = sorted(self.folder.glob(f"{self._prefix}chain{chain}_block*.bin"))[block:]
        if later:
            warnings.warn(
                f"fit: {str(path)!r} is missing, but later blocks of the chain are there "
                f"({len(later)}, the first {later[0].name}); chain {chain} samples them again.",
                CarpkWarning,
                stacklevel=2,
            )
        return state, found, block


def _digest(manifest: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _locked(folder: Path) -> FileLock:
    """The lock of a folder, which the system releases when the process ends, however."""
    lock = FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as trouble:
        raise FitError(
            f"fit: another fit is writing to the folder {str(folder)!r} ({_holder(folder)}); wait "
            "until it ends, or choose another folder."
        ) from trouble
    except OSError as trouble:
        if trouble.errno not in NO_LOCKS:
            raise FitError(
                f"fit: the folder {str(folder)!r} cannot be used for draws "
                f"({trouble.strerror or trouble}); choose another."
            ) from trouble
        warnings.warn(
            f"fit: the folder {str(folder)!r} is on a file system without locks ({trouble}): see "
            "to it that no other fit uses it.",
            CarpkWarning,
            stacklevel=4,
        )
    with contextlib.suppress(SaveError):  # a full disk; the lock holds
        _files.write(folder / HOLDER, f"process {os.getpid()} on {platform.node()}")
    return lock


def _holder(folder: Path) -> str:
    """The process that writes to a folder."""
    try:
        return (folder / HOLDER).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"


def _plain(x: Arrays) -> np.ndarray:
    """An array of numbers, of a random key as well."""
    if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    return np.asarray(x)


def _like(wanted: Arrays, x: np.ndarray) -> Array:
    if isinstance(wanted, jax.Array) and jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key):
        key: Array = jax.random.wrap_key_data(jnp.asarray(x))
        return key
    return jnp.asarray(x)

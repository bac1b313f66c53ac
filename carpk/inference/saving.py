"""Writing fits: one NetCDF file, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from carpk import _files
from carpk._arviz import group, groups, netcdf
from carpk.errors import CarpkWarning, SaveError
from carpk.inference.encoding import Codec, EncodedTable, Json, kept_as_text
from carpk.inference.storage import (
    CODEC,
    DRAWN_BY,
    EncodedModel,
    encode_data,
    encode_model,
    encode_population,
    version_of,
)
from carpk.verdict.judge import Verdict
from carpk.verdict.words import Finding

if TYPE_CHECKING:
    import xarray as xr

    from carpk.inference.result import Fit

SCHEMA = 2
ATTRIBUTE = "carpk"
SEAL = b"\ncarpk sha256 "
SEALED = len(SEAL) + 64 + 1  # bytes of the last line
WRITERS = (*DRAWN_BY, "arviz", "xarray", "h5netcdf", "h5py", "pandas")
VERDICT = Codec({**CODEC.classes, **{c.__name__: c for c in (Verdict, Finding)}}, texts=True)

EncodedFit = TypedDict(
    "EncodedFit",
    {
        "schema": int,
        "written by": dict[str, str],
        "model": EncodedModel,
        "population": dict[str, object],
        "data": dict[str, object],
        "settings": Json,
        "verdict": Json,
        "parameters": list[str],
        "summary": EncodedTable,
        "interval": str,
        "random_effects": EncodedTable,
        "draws_sha256": str,
    },
)


def save(fit: Fit, path: str | Path) -> Path:
    """Write a fit, whole or not at all; warns of parts that the file cannot hold."""
    spec: EncodedFit = getattr(fit, "kept", None) or _spec(fit)
    lost = [f"{place} ({text})" for place, text in kept_as_text(spec["population"])]
    model = spec["model"]
    if model["origin"] is None or model["changed"]:
        name = model["identity"]["name"]
        lost.insert(0, f"the structural model {name!r}, which is not as ck.load_model gave it")
    if lost:
        warnings.warn(
            f"Fit.save: {str(path)!r} holds as text only: {'; '.join(lost)}. Draws, tables, data "
            "and verdict are all there; for the rest load_fit needs `population=` or `model=`.",
            CarpkWarning,
            stacklevel=3,
        )
    sets = {name: group(fit.idata, name) for name in groups(fit.idata)}
    sets["posterior"] = sets["posterior"].assign_attrs({ATTRIBUTE: json.dumps(spec)})
    content = netcdf(sets)
    return _files.write(path, content + SEAL + sha256_of(content) + b"\n")


def _spec(fit: Fit) -> EncodedFit:
    table = fit.summary()
    return {
        "schema": SCHEMA,
        "written by": written_by(),
        "model": encode_model(fit.population.model),
        "population": encode_population(fit.population),
        "data": encode_data(fit.data),
        "settings": VERDICT.encode(dict(fit.settings)),
        "verdict": VERDICT.encode(fit.verdict),
        "parameters": list(fit.parameters),
        "summary": VERDICT.encode_table(table.reset_index()),
        "interval": table.attrs["interval"],
        "random_effects": VERDICT.encode_table(fit.effects()),
        "draws_sha256": digest_of_draws(fit.posterior),
    }


def save_or_rescue(fit: Fit, path: str | Path) -> Path:
    """Write a fit; where that fails, write it to the system's folder for temporary files.

    Raises:
        SaveError: it is not where it should be; the message says where it is.
    """
    try:
        return save(fit, path)
    except SaveError as trouble:
        try:
            spare = save(fit, Path(tempfile.mkdtemp(prefix="carpk-")) / Path(path).name)
        except (SaveError, OSError):
            raise trouble from None
        raise SaveError(f"{trouble} The fit is in {str(spare)!r}.") from trouble


def written_by() -> dict[str, str]:
    """Versions of what may change a number, carpk's own code, and the computer."""
    versions = {name: version_of(name) for name in WRITERS}
    here = {"python": platform.python_version(), "system": platform.platform(), "cpu": _cpu()}
    return {**versions, **here, "cpus": str(os.cpu_count()), "code of carpk": _digest_of_code()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


@cache
def _digest_of_code() -> str:
    folder = Path(__file__).parents[1]
    texts = {
        p.relative_to(folder).as_posix(): p.read_bytes().replace(b"\r\n", b"\n")
        for p in folder.rglob("*.py")
    }
    return hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:12]


def digest_of_draws(posterior: xr.Dataset) -> str:
    """SHA-256 of all draws of an xarray Dataset and of their names."""
    digest = hashlib.sha256()
    for name in sorted(map(str, posterior.data_vars)):
        x = np.ascontiguousarray(posterior[name].values)
        digest.update(f"{name} {x.dtype.str} {x.shape}\n".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def sha256_of(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()

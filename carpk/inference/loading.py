"""Fits on disk: one file, which ArviZ and xarray open, and which is read back whole or refused.

The file is NetCDF 4 with a group per ArviZ group; the attribute `carpk` of the group `posterior`
holds everything else as JSON: the structural model with the texts of its files, the population with
every prior, the data, settings, verdict and tables. A line behind the NetCDF content holds its
SHA-256 and is checked before the content is read, so that a damaged file never reaches HDF5.
Readers of NetCDF ignore it.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from carpk._arviz import group, idata_of
from carpk.errors import CarpkError, CarpkWarning, FitError
from carpk.inference.encoding import Unreadable, differing
from carpk.inference.result import Fit
from carpk.inference.saving import ATTRIBUTE, SCHEMA, SEAL, SEALED, VERDICT, EncodedFit, sha256_of
from carpk.inference.storage import (
    decode_data,
    decode_model,
    decode_population,
    encode_population,
    identity,
    version_of,
)
from carpk.population.population import Population
from carpk.structural import ClosedForm, ODEModel

if TYPE_CHECKING:
    import pandas as pd


class Absent:
    """In place of a population that could not be made again: whatever is asked of it refuses."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise FitError(f"This fit was read without its population model: {self._reason}.")


@dataclasses.dataclass(frozen=True, repr=False)
class FitWithoutModel(Fit):
    """A fit without its structural model, residual model or priors, which could not be restored.

    Draws, tables, data, settings and verdict are those of the fit that was saved. What needs the
    equations refuses, with the reason.

    Attributes:
        kept: what the file holds beside draws and data.
        reason: why there is no population model.
    """

    kept: EncodedFit
    reason: str

    def summary(self) -> pd.DataFrame:
        table: pd.DataFrame = VERDICT.decode_table(self.kept["summary"]).set_index("parameter")
        table.attrs["interval"] = self.kept["interval"]
        return table

    def effects(self) -> pd.DataFrame:
        return VERDICT.decode_table(self.kept["random_effects"])

    @property
    def model_name(self) -> str:
        return str(self.kept["model"]["identity"]["name"])

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(self.kept["parameters"])


def load_fit(
    path: str | Path,
    population: Population | None = None,
    *,
    model: ClosedForm | ODEModel | None = None,
    trust: bool = False,
) -> Fit:
    """Read a fit that `Fit.save` wrote.

    No code in the file is run unless `trust` is given. A model of the library is loaded by its name
    where its files are still those of the fit. Where the population model cannot be had, there is a
    warning that says why, and the fit that comes back has its draws, tables, data and verdict, but
    refuses what needs the equations.

    Args:
        path: NetCDF file.
        population: in place of the one in the file.
        model: structural model, in place of the one in the file.
        trust: run the code that the file holds: of the model's files, and of residual models and
            priors of the user's own.

    Raises:
        FitError: there is no such file, it is damaged, or a newer carpk wrote it.
        ModelError: the file's population does not suit the `model` that was given.
    """
    if population is not None and model is not None:
        raise FitError("load_fit: give `population` or `model`; a population has its model.")
    path = Path(path)
    idata, spec = read(path)
    try:
        data = decode_data(spec["data"])
        settings = VERDICT.decode(spec["settings"])
        judged = VERDICT.decode(spec["verdict"])
    except Exception as trouble:  # whatever another version wrote
        by = spec.get("written by", {}).get("carpk", "unknown")
        raise FitError(
            f"load_fit: {str(path)!r} was written by carpk {by} in a form that this version "
            f"({version_of('carpk')}) does not read ({trouble}); open it with ArviZ, or with that "
            "version."
        ) from trouble
    parts = {"data": data, "idata": idata, "verdict": judged, "settings": settings}
    try:
        known = _population(spec, population, model, trust)
    except CarpkError as trouble:
        if model is not None:
            raise
        reason = str(trouble).rstrip(".")
        warnings.warn(
            f"load_fit: {str(path)!r} was read without its population model: {reason}. Draws, "
            "tables, data and verdict are there; what needs the equations is not.",
            CarpkWarning,
            stacklevel=2,
        )
        absent: Any = Absent(reason)
        return FitWithoutModel(population=absent, kept=spec, reason=reason, **parts)
    if population is not None or model is not None:
        _tell_differences(spec, known, str(path))
    return Fit(population=known, **parts)


def read(path: Path) -> tuple[Any, EncodedFit]:
    """(ArviZ object, what carpk wrote beside it) of a file that is as it was written."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as trouble:
        raise FitError(f"load_fit: there is no file {str(path)!r}.") from trouble
    except OSError as trouble:
        raise FitError(f"load_fit: {str(path)!r} cannot be read ({trouble.strerror}).") from trouble
    body, seal = content[:-SEALED], content[-SEALED:]
    if seal[: len(SEAL)] != SEAL or not seal.endswith(b"\n"):
        raise FitError(
            f"load_fit: {str(path)!r} does not end with carpk's checksum: it is damaged or cut "
            "off, or carpk's Fit.save did not write it. If it is whole, ArviZ may open it."
        )
    if seal[len(SEAL) : -1] != sha256_of(body):
        raise FitError(
            f"load_fit: {str(path)!r} is damaged: its content does not have the checksum that was "
            "written with it. Take another copy, or fit again."
        )
    try:
        idata = idata_of(body)
        spec: EncodedFit = json.loads(group(idata, "posterior").attrs.pop(ATTRIBUTE))
        schema = spec["schema"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as trouble:
        raise FitError(
            f"load_fit: {str(path)!r} was not written by carpk's Fit.save ({trouble}); open it "
            "with ArviZ."
        ) from trouble
    if schema != SCHEMA:
        raise FitError(
            f"load_fit: {str(path)!r} has the form {schema} of carpk's files and this carpk "
            f"({version_of('carpk')}) reads form {SCHEMA}: use carpk "
            f"{spec.get('written by', {}).get('carpk', 'unknown')}, which wrote it, or a newer one."
        )
    return idata, spec


def _population(
    spec: EncodedFit,
    population: Population | None,
    model: ClosedForm | ODEModel | None,
    trust: bool,
) -> Population:
    if population is not None:
        return population
    try:
        known = decode_model(spec["model"], trust=trust) if model is None else model
        return decode_population(spec["population"], known, trust=trust)
    except CarpkError:
        raise
    except Exception as trouble:  # code of the user's own, or fields of another version
        raise Unreadable(
            f"it cannot be made again ({type(trouble).__name__}: {trouble}): give `population=`"
        ) from trouble


def _tell_differences(spec: EncodedFit, known: Population, path: str) -> None:
    """Warn where a population that was given is not the one that was fitted."""
    then: Mapping[str, object] = spec["model"]["identity"]
    now: Mapping[str, object] = identity(known.model)
    if not (then["files"] and now["files"]):  # the same equations may come from anywhere
        same_jax = spec["written by"]["jax"] == version_of("jax")
        names = ("equations", "parameters") if same_jax else ("parameters",)
        then, now = ({k: x[k] for k in names} for x in (then, now))
    else:
        then, now = ({k: x[k] for k in ("options", "files")} for x in (then, now))
    different = differing({"model": then}, {"model": now})
    of_fit, given = dict(spec["population"]), encode_population(known)
    for each in (of_fit, given):
        del each["default_priors"]
    different += differing({"population": of_fit}, {"population": given})
    if different:
        warnings.warn(
            f"load_fit: the population is not the one whose fit {path!r} holds: "
            f"{', '.join(different)} differ. The draws are those of the fit.",
            CarpkWarning,
            stacklevel=3,
        )

"""Structural models and parameters that were pickled, made again by their origin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from carpk._types import Numbers
from carpk.errors import ModelError
from carpk.library.models import load_model, model_of_files
from carpk.library.texts import Origin, digest_of
from carpk.params import Params
from carpk.structural import ClosedForm, ODEModel, StructuralModel


def model_again(
    origin: Origin, digest: str, files: Mapping[str, str], changes: Mapping[str, Any]
) -> ClosedForm | ODEModel:
    """A pickled model: loaded by its origin, with what was changed since.

    Args:
        files: the texts behind it, where they were no longer those on disk; else none.

    Raises:
        ModelError: its files are others here than where it was pickled.
    """
    model = (
        model_of_files(origin, files) if files else load_model(origin["name"], **origin["options"])
    )
    if digest_of(model.files) != digest:
        raise ModelError(
            f"Model {origin['name']!r}: its file, or one that it imports, is another one here than "
            "where the model was loaded. Load it again with ck.load_model."
        )
    return dataclasses.replace(model, **changes) if changes else model


def pickled(model: StructuralModel) -> tuple[object, ...]:
    """Arguments of `model_again`."""
    origin = _origin_of(model)
    plain = _plain(origin, model.files)
    on_disk = _digest_on_disk(origin) == digest_of(model.files)
    return (
        model.origin,
        digest_of(model.files),
        {} if on_disk else model.files,
        _changes(model, plain),
    )


def changes_of(model: StructuralModel) -> dict[str, object]:
    """Fields of a loaded model that differ from those of its files, as by `replace`."""
    return _changes(model, _plain(_origin_of(model), model.files))


def _origin_of(model: StructuralModel) -> Origin:
    assert model.origin is not None
    return {"name": model.origin["name"], "options": model.origin["options"]}


def _changes(model: StructuralModel, plain: StructuralModel) -> dict[str, object]:
    names = [field.name for field in dataclasses.fields(model)]
    return {n: getattr(model, n) for n in names if getattr(model, n) != getattr(plain, n)}


def _plain(origin: Origin, files: Mapping[str, str]) -> ClosedForm | ODEModel:
    """The model as these files give it."""
    if _digest_on_disk(origin) == digest_of(files):
        return load_model(origin["name"], **origin["options"])
    return model_of_files(origin, files)


def _digest_on_disk(origin: Origin) -> str:
    try:
        return digest_of(load_model(origin["name"], **origin["options"]).files)
    except ModelError:
        return "gone"


def params_again(origin: Origin, values: Mapping[str, Numbers]) -> Params:
    """Pickled parameters: of the class that the model of this origin has."""
    return load_model(origin["name"], **origin["options"]).params(**values)

"""Populations, structural models and data as plain JSON, for files and folders that hold a fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array

from carpk import assay, dosing
from carpk._types import Values
from carpk.assay.residual import Residual
from carpk.dataset import Dataset
from carpk.inference.encoding import Codec, Json, Unreadable, Untrusted
from carpk.library.again import changes_of
from carpk.library.models import load_model, model_of_files
from carpk.library.texts import SBML, digest_of
from carpk.library.titles import list_models
from carpk.params import Params
from carpk.population.population import Population
from carpk.structural import ClosedForm, DoseEffect, ODEModel

DRAWN_BY = ("carpk", "jax", "jaxlib", "numpyro", "numpy", "scipy", "diffrax")  # draws depend on it
TABLES = ("patients", "doses", "observations", "summaries", "cohorts")
EVENTS = (dosing.Bolus, dosing.Infusion, dosing.Reset, dosing.Replace, dosing.Multiply)
RESIDUALS = [c for c in vars(assay).values() if isinstance(c, type) and issubclass(c, Residual)]
CODEC = Codec(
    {c.__name__: c for c in (*EVENTS, dosing.Regimen, DoseEffect, *RESIDUALS)},
    (Residual, dist.Distribution, dist.transforms.Transform),
)
DATA_CODEC = dataclasses.replace(CODEC, texts=True)


class Identity(TypedDict):
    """What tells one structural model from another; see `identity`."""

    name: str
    options: dict[str, object]
    files: dict[str, str]
    equations: str
    parameters: str


class EncodedModel(TypedDict):
    """A structural model as a file keeps it; see `encode_model`."""

    identity: Identity
    origin: Json
    files: dict[str, str]
    dose_effect: Json
    changed: list[str]
    units: dict[str, str]


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


# -- data -------------------------------------------------------------------------------------


def encode_data(data: Dataset) -> dict[str, object]:
    """Every field, the tables exactly."""
    fields = {f.name: getattr(data, f.name) for f in dataclasses.fields(data)}
    return {name: DATA_CODEC.encode(x) for name, x in fields.items()}


def decode_data(spec: Mapping[str, object]) -> Dataset:
    return Dataset(**DATA_CODEC.decode(dict(spec)))


def data_hash(data: Dataset) -> str:
    """SHA-256 of the tables, so that a result can be tied to its data."""
    values = {}
    for name in TABLES:
        columns = DATA_CODEC.encode_table(getattr(data, name))["columns"]
        values[name] = [(c["name"], c["values"], c.get("categories")) for c in columns]
    return _sha256(json.dumps(values, sort_keys=True))


# -- structural models ------------------------------------------------------------------------


def identity(model: ClosedForm | ODEModel) -> Identity:
    """Hashes of what a structural model is: of its files, and of the equations that they gave."""
    each = {n: _sha256(text) for n, text in model.files.items()}
    options = {} if model.origin is None else dict(model.origin["options"])
    equations = _sha256(_equations(model))
    parameters = _sha256(repr(model.params.info()))
    return {
        "name": model.name,
        "options": json.loads(json.dumps(options, default=repr)),
        "files": each,
        "equations": equations,
        "parameters": parameters,
    }


def _equations(model: ClosedForm | ODEModel) -> str:
    """Jaxpr of the equations: equal for two models that give the same numbers."""
    p = jax.tree.map(lambda x: jnp.asarray(x, float), model.params())
    if isinstance(model, ClosedForm):
        curves = [*model.outputs.values(), *(model.smooth or {}).values()]
        traced = jax.make_jaxpr(lambda t, p: [f(t, p) for f in curves])(jnp.ones(2), p)
        more = repr((list(model.outputs), model.dose_effect))
    else:
        targets = model.every_target()
        shares = [f for _, x in targets for f in x.functions.values()]

        def everything(t: Array, y: Values, p: Params, c: Values) -> object:
            given = (t, y, p, c) if model.inputs else (t, y, p)
            found = [f(*given) for f in (model.vector_field, *model.outputs.values())]
            of_p: list[Callable[..., object]]
            of_p = [model.start, *model.inputs.values(), *shares]
            return found, [jax.tree.leaves(f(p)) for f in of_p]

        y = jax.tree.map(lambda x: jnp.asarray(x, float), model.start(p))
        c = {name: jnp.ones(()) for name in model.inputs}
        traced = jax.make_jaxpr(everything)(jnp.ones(()), y, p, c)
        where = [(name, x.compartment, x.unit) for name, x in targets]
        more = repr((list(model.outputs), model.compartments, model.logs, list(c), where))
    constants = [hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for x in traced.consts]
    return "\n".join([re.sub("0x[0-9a-f]+", "", str(traced.jaxpr)), more, *constants])


def encode_model(model: ClosedForm | ODEModel) -> EncodedModel:
    """Origin, source texts and hashes from which a structural model is rebuilt."""
    changed = [] if model.origin is None else [*changes_of(model)]
    return {
        "identity": identity(model),
        "origin": None if model.origin is None else CODEC.encode(dict(model.origin)),
        "files": dict(model.files),
        "dose_effect": CODEC.encode(getattr(model, "dose_effect", None)),
        "changed": [name for name in changed if name != "dose_effect"],
        "units": dict(model.units),
    }


def decode_model(spec: EncodedModel, *, trust: bool = False) -> ClosedForm | ODEModel:
    """The model that was fitted.

    One of the library is loaded where its files are those of the fit. The texts that were kept are
    run only if `trust` says so; SBML is not code.

    Raises:
        Untrusted: it is made by code that is in the file alone.
        Unreadable: it was not loaded from a file, or was changed since.
    """
    name = spec["identity"]["name"]
    if spec["origin"] is None or spec["changed"]:
        why = "was not loaded with ck.load_model"
        if spec["changed"]:
            why = f"was changed after it was loaded ({', '.join(spec['changed'])})"
        raise Unreadable(f"the structural model {name!r} {why}: give it, `model=`")
    origin, files = CODEC.decode(spec["origin"]), spec["files"]
    source = str(origin["name"])
    if source in list_models():
        model: ClosedForm | ODEModel = load_model(source, **origin["options"])
        if digest_of(model.files) != digest_of(files):
            if not trust:
                raise Untrusted(
                    f"the model {source!r} of this version of carpk is another one "
                    f"({different_files(files, model.files)}): `model=ck.load_model({source!r})` "
                    "takes it, `trust=True` runs the text kept in the file"
                )
            model = model_of_files(origin, files)
    elif Path(source).suffix.lower() in SBML or trust:
        model = model_of_files(origin, files)
    else:
        raise Untrusted(
            f"the model is the code of {source!r} ({_on_disk(source, files)}): `trust=True` runs "
            f"the text kept in the file, `model=ck.load_model({source!r})` takes the file on disk"
        )
    effect = CODEC.decode(spec["dose_effect"])
    if effect is None:
        return model
    assert isinstance(model, ClosedForm)  # no other has one
    return model.with_dose_effect(effect.exponent, effect.reference, effect.parameter)


def different_files(kept: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Files that differ, in words."""
    words = []
    for name in {**kept, **now}:
        if kept.get(name) != now.get(name):
            how = "is gone" if name not in now else "is new" if name not in kept else "differs"
            words.append(f"{name} {how}")
    return ", ".join(words) or "no file differs"


def _on_disk(source: str, files: Mapping[str, str]) -> str:
    path = Path(source)
    try:
        same = path.read_text(encoding="utf-8") == files[path.name]
    except OSError:
        return "which is not there any more"
    except UnicodeDecodeError:
        same = False
    return "still as it was" if same else "which has changed since"


# -- populations ------------------------------------------------------------------------------


def encode_population(p: Population) -> dict[str, object]:
    """Everything but the structural model."""
    fields = {f.name: getattr(p, f.name) for f in dataclasses.fields(p) if f.name != "model"}
    fields |= {"varies": p.variability_levels, "analytes": p.outputs_of, "priors": dict(p.priors)}
    fields["covariates"] = {name: p.forms(name) for name in p.covariates}
    default = {k: v for k, v in p.default_priors().items() if k not in p.priors}
    encoded: dict[str, object] = {name: CODEC.encode(x) for name, x in fields.items()}
    return encoded | {"default_priors": CODEC.encode(default)}


def decode_population(
    spec: Mapping[str, Any], model: ClosedForm | ODEModel, *, trust: bool = False
) -> Population:
    """The population, around this structural model.

    Priors that were defaults and would be others today are given as they were.

    Raises:
        Untrusted: a residual model or prior is code of the user's own.
        Unreadable: a part could be kept as text only.
    """
    fields = {k: v for k, v in spec.items() if k not in ("priors", "default_priors")}
    decoded = {k: _named(k, v, trust) for k, v in fields.items()}
    given, default = (
        {k: _named(f"the prior of {k!r}", v, trust) for k, v in spec[part].items()}
        for part in ("priors", "default_priors")
    )
    population = Population(model, **decoded, priors=given)
    now = population.default_priors()
    changed = {
        k: v for k, v in default.items() if CODEC.encode(now.get(k)) != spec["default_priors"][k]
    }
    return dataclasses.replace(population, priors=given | changed) if changed else population


def _named(what: str, spec: object, trust: bool) -> Any:
    try:
        return CODEC.decode(spec, trust=trust)
    except Untrusted as trouble:
        raise Untrusted(
            f"{what}: {trouble}: `trust=True` runs the text kept in the file, `population=pop` "
            "takes a population of yours"
        ) from trouble
    except Unreadable as trouble:
        raise Unreadable(
            f"{what}: {trouble}: define the population again, `population=pop`"
        ) from trouble


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

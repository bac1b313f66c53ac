"""Populations and data as plain text, for files that hold a fit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd

from carpk import assay, dosing
from carpk.dataset import Dataset
from carpk.dosing import Regimen
from carpk.errors import FitError
from carpk.library import load_model
from carpk.population import Population
from carpk.structural import ClosedForm, ODEModel

TABLES = ("patients", "doses", "observations", "summaries", "cohorts")


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def encode_data(data: Dataset) -> dict[str, Any]:
    tables = {t: getattr(data, t) for t in TABLES}
    return {
        "name": data.name,
        "sampling": data.sampling,
        "about": json.loads(json.dumps(dict(data.about), default=str)),
        "notes": list(data.notes),
        "tables": {
            t: None if x is None else json.loads(x.to_json(orient="table", index=False))
            for t, x in tables.items()
        },
    }


def decode_data(spec: Mapping[str, Any]) -> Dataset:
    tables: dict[str, Any] = {
        t: None if x is None else pd.read_json(StringIO(json.dumps(x)), orient="table")
        for t, x in spec["tables"].items()
    }
    sampling = spec["sampling"]
    return Dataset(
        name=spec["name"],
        sampling=None if sampling is None else tuple(sampling),
        about=spec["about"],
        notes=tuple(spec["notes"]),
        **tables,
    )


def data_hash(data: Dataset) -> str:
    """SHA-256 of the tables, so that a result can be tied to its data."""
    return hashlib.sha256(
        json.dumps(encode_data(data)["tables"], sort_keys=True).encode()
    ).hexdigest()


def encode_prior(prior: dist.Distribution) -> dict[str, Any]:
    """Name and arguments of a NumPyro distribution; only its text where these are not numbers."""
    names = list(type(prior).arg_constraints)
    plain = getattr(dist, type(prior).__name__, None) is type(prior) and names
    if plain and all(np.ndim(getattr(prior, n)) == 0 for n in names):
        arguments = {n: float(getattr(prior, n)) for n in names}
        return {"distribution": type(prior).__name__, "arguments": arguments}
    return {"text": repr(prior)}


def decode_prior(name: str, spec: Mapping[str, Any]) -> dist.Distribution:
    if "distribution" not in spec:
        raise FitError(
            f"load_fit: the prior of {name!r} ({spec['text']}) cannot be rebuilt from the file; "
            "define the population again and use load_fit(path, population=pop)."
        )
    return getattr(dist, spec["distribution"])(**spec["arguments"])


def identity(model: ClosedForm | ODEModel) -> dict[str, Any]:
    """Hashes of what a structural model is: of its files, and of the equations that they gave."""
    each = {n: hashlib.sha256(text.encode()).hexdigest() for n, text in model.files.items()}
    options = {} if model.origin is None else dict(model.origin["options"])
    equations = hashlib.sha256(_equations(model).encode()).hexdigest()
    parameters = hashlib.sha256(repr(model.params.info()).encode()).hexdigest()
    return {
        "name": model.name,
        "options": json.loads(json.dumps(options, default=repr)),
        "files": each,
        "equations": equations,
        "parameters": parameters,
    }


def _equations(model: ClosedForm | ODEModel) -> str:
    """What JAX makes of the equations: alike for two models that give the same numbers."""
    p = jax.tree.map(lambda x: jnp.asarray(x, float), model.params())
    if isinstance(model, ClosedForm):
        curves = [*model.outputs.values(), *(model.smooth or {}).values()]
        traced = jax.make_jaxpr(lambda t, p: [f(t, p) for f in curves])(jnp.ones(2), p)
        more = repr((list(model.outputs), model.dose_effect))
    else:
        targets = model.every_target()
        shares = [f for _, x in targets for f in (x.bioavailability, x.lag) if f is not None]

        def everything(t: Any, y: Any, p: Any, c: Any) -> Any:
            given = (t, y, p, c) if model.inputs else (t, y, p)
            found = [f(*given) for f in (model.vector_field, *model.outputs.values())]
            of_p = (model.start, *model.inputs.values(), *shares)
            return found, [jax.tree.leaves(f(p)) for f in of_p]

        y = jax.tree.map(lambda x: jnp.asarray(x, float), model.start(p))
        c = {name: jnp.ones(()) for name in model.inputs}
        traced = jax.make_jaxpr(everything)(jnp.ones(()), y, p, c)
        where = [(name, x.compartment, x.unit) for name, x in targets]
        more = repr((list(model.outputs), model.compartments, model.logs, list(c), where))
    constants = [hashlib.sha256(np.asarray(x).tobytes()).hexdigest() for x in traced.consts]
    return "\n".join([re.sub("0x[0-9a-f]+", "", str(traced.jaxpr)), more, *constants])


def encode_regimen(regimen: Regimen) -> list[dict[str, Any]]:
    """The events of a regimen, each with its class and fields."""
    return [
        {"event": type(e).__name__} | {f.name: getattr(e, f.name) for f in dataclasses.fields(e)}
        for e in regimen.events
    ]


def decode_regimen(spec: list[dict[str, Any]]) -> Regimen:
    return Regimen(
        tuple(
            getattr(dosing, e["event"])(**{k: v for k, v in e.items() if k != "event"})
            for e in spec
        )
    )


def encode_residual(residual: assay.Residual) -> dict[str, Any]:
    return {"class": type(residual).__name__} | dataclasses.asdict(residual)


def decode_residual(spec: Mapping[str, Any]) -> assay.Residual:
    return getattr(assay, spec["class"])(**{k: v for k, v in spec.items() if k != "class"})


def encode_population(p: Population) -> dict[str, Any]:
    effect = getattr(p.model, "dose_effect", None)
    return {
        "model": None if p.model.origin is None else dict(p.model.origin),
        "dose_effect": None if effect is None else dataclasses.asdict(effect),
        "varies": {k: list(v) for k, v in p.levels.items()},
        "correlated": list(p.correlated),
        "covariates": {k: p.forms(k) for k in p.covariates},
        "residual": (
            {output: encode_residual(r) for output, r in p.residual.items()}
            if isinstance(p.residual, Mapping)
            else encode_residual(p.residual)
        ),
        "priors": {k: encode_prior(v) for k, v in p.priors.items()},
        "fixed": dict(p.fixed),
        "analytes": p.outputs_of,
        "virtual_patients": p.virtual_patients,
        "summary_dependence": p.summary_dependence,
        "regimens": {k: encode_regimen(v) for k, v in p.regimens.items()},
        "rtol": p.rtol,
    }


def decode_population(spec: Mapping[str, Any]) -> Population:
    fields = dict(spec)
    origin = fields.pop("model")
    if origin is None:
        raise FitError(
            "load_fit: the structural model was not loaded with ck.load_model, so the file does "
            "not hold it; define the population again and use load_fit(path, population=pop)."
        )
    model = load_model(origin["name"], **origin["options"])
    effect = fields.pop("dose_effect")
    if effect is not None:
        model = model.with_dose_effect(effect["exponent"], effect["reference"], effect["parameter"])
    residual = fields["residual"]
    fields["residual"] = (
        decode_residual(residual)
        if "class" in residual
        else {output: decode_residual(r) for output, r in residual.items()}
    )
    fields["priors"] = {k: decode_prior(k, v) for k, v in fields["priors"].items()}
    fields["regimens"] = {k: decode_regimen(v) for k, v in fields["regimens"].items()}
    return Population(model, **fields)

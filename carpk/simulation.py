"""Simulation: a typical patient, a virtual population, or a population with its uncertainty.

    ck.simulate(model, ck.Regimen.cells(), days)                the typical patient
    ck.simulate(model, regimen, days, patients=200)             with the model file's spread
    ck.simulate(fit, regimen, days, patients=200, draws=100)    with the posterior's uncertainty

Simulated levels are true levels; `measured=True` adds the assay. Everything here is simulated.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from carpk import nca
from carpk.assay import Residual
from carpk.dosing import Regimen
from carpk.errors import CarpkWarning, FitError, ModelError, RegimenError
from carpk.events import SIZE
from carpk.inference import INTERVAL, Fit
from carpk.params import Params
from carpk.solver import first_below, solve_many
from carpk.structural import ClosedForm, ODEModel


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Simulated levels.

    Attributes:
        data: xarray Dataset, a variable per output with dims (draw, patient, time) and its unit in
            `attrs`; structural parameters with dims (draw, patient, infusion).
        regimen: what was given.
    """

    data: xr.Dataset
    regimen: Regimen

    def __getitem__(self, output: str) -> xr.DataArray:
        return self.data[output]

    @property
    def outputs(self) -> list[str]:
        """Names of the simulated outputs."""
        return [str(k) for k, v in self.data.data_vars.items() if v.dims[-1] == "time"]

    def summary(self) -> pd.DataFrame:
        """Cmax, Tmax and AUC0-28d per output: median and 90 % equal-tailed interval over patients.

        Patients of all draws are pooled, so that the interval is that of a new patient.
        """
        t = jnp.asarray(self.data["time"].values)
        shown = t >= 0
        rows = []
        for output in self.outputs:
            unit = self.data[output].attrs["units"]
            levels = jnp.asarray(self.data[output].values).reshape(-1, t.size)
            metrics: dict[str, tuple[Any, str]] = {
                "CMAX": (nca.cmax, unit),
                "TMAX": (nca.tmax, "day"),
            }
            if float(t[-1]) >= 28.0:
                metrics["AUC0_28D"] = (nca.auc_to(28), f"day*{unit}")
            for name, (metric, metric_unit) in metrics.items():
                one = jax.vmap(lambda c, f=metric: f(t[shown], c[shown]))
                x = np.asarray(one(levels))
                low, mid, high = np.nanquantile(x, [(1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2])
                rows.append((output, name, mid, low, high, metric_unit))
        columns = ["output", "quantity", "median", "eti90_low", "eti90_high", "unit"]
        return pd.DataFrame(rows, columns=columns).set_index(["output", "quantity"])

    def extinct(self, output: str) -> xr.DataArray:
        """First simulated day on which less than one cell is left; dims (draw, patient).

        NaN where there is none. The model says what one cell of the output is (`one_cell`); below
        it the equations have nothing to say, and a return from there is not a relapse.
        """
        if "one_cell" not in self.data[output].attrs:
            raise ModelError(
                f"Simulation: the model does not say what one cell of {output!r} is; outputs with "
                f"`one_cell` are {', '.join(self._counted()) or 'none'}."
            )
        levels = self.data[output]
        when = first_below(levels.values, levels.attrs["one_cell"])
        days = np.append(self.data["time"].values, np.nan)[when]
        return xr.DataArray(days, dims=("draw", "patient"), attrs={"units": "day"})

    def _counted(self) -> list[str]:
        return [output for output in self.outputs if "one_cell" in self.data[output].attrs]

    def plot(self, output: str | None = None, **kwargs: Any) -> Any:
        """Median and bands over patients, on a log axis."""
        from carpk import plot

        return plot.simulation(self, output or self.outputs[0], **kwargs)

    def save(self, path: str | Path) -> Path:
        """Write the levels to a NetCDF file."""
        self.data.to_netcdf(path, engine="h5netcdf")
        return Path(path)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{self.data.sizes[d]} {d}s" for d in ("draw", "patient", "time"))
        table = self.summary().to_string(float_format="{:.3g}".format)
        text = f"Simulation: {sizes}; median and 90 % interval over patients:\n{table}"
        for output in self._counted():
            share = float(np.isfinite(self.extinct(output).values).mean())
            if share:
                text += (
                    f"\n{output}: less than one cell is left at some time in {share:.0%}; what "
                    "returns from there is not a relapse (see `extinct`)."
                )
        return text


def simulate(
    source: ClosedForm | ODEModel | Fit,
    regimen: Regimen,
    days: Any,
    *,
    patients: int | None = None,
    draws: int | None = None,
    covariates: Mapping[str, Any] | None = None,
    measured: bool = False,
    seed: int = 0,
) -> Simulation:
    """Simulate a regimen.

    Args:
        source: a structural model, or a `Fit`.
        regimen: what is given. To a closed form, cell infusions: each gives its own curve, and
            they add up. To an ODE model, anything it has a compartment for; the integration starts
            with the first event or time.
        days: times [day], ascending, shape (time,).
        patients: virtual patients per draw. None is the typical patient: one per draw, without
            any spread.
        draws: posterior draws of a fit, 100 unless said otherwise.
        covariates: name -> value, of the equations (one number, or one per patient) or of a fit;
            the reference where left out. A latent class that is left out is drawn, with its
            published share, wherever there are virtual patients.
        measured: add the assay's residual error to the outputs that were fitted (fits only).
        seed: same seed, same patients.
    """
    t = np.asarray(days, float)
    if t.ndim != 1 or t.size < 2 or not (np.diff(t) > 0).all():
        raise RegimenError("simulate: `days` must be at least two ascending times, shape (time,).")
    infusions = regimen.infusions
    model = source.population.model if isinstance(source, Fit) else source
    closed = isinstance(model, ClosedForm)
    if closed and not infusions:
        raise RegimenError(
            "simulate: the regimen has no cell infusion; add Regimen.cells(day=[...], amount=...)."
        )
    if regimen.drugs and closed:
        drugs = ", ".join(sorted({e.product for e in regimen.drugs}))
        warnings.warn(
            f"{model.name!r} is a closed form without lymphodepletion: {drugs} have no effect on "
            "the simulated cells. Compare regimens through a covariate of a fit.",
            CarpkWarning,
            stacklevel=2,
        )
    occasions = max(1, len(infusions)) if closed else 1
    key, assay_key = jax.random.split(jax.random.key(seed))
    own = {k: v for k, v in (covariates or {}).items() if k in model.params.covariates()}
    rest = {k: v for k, v in (covariates or {}).items() if k not in own}
    _refuse_half_a_size(regimen, own, model)
    noise: dict[str, tuple[Residual, dict[str, Any]]] = {}
    if isinstance(source, Fit):
        params, theta = _from_fit(source, occasions, patients, draws, rest, key)
        if measured:
            p = source.population
            noise = {
                output: (p.residual_of(output), p.residual_theta(theta, output))
                for output in source.bound.endpoints.values()
            }
    elif rest:
        raise ModelError(
            f"simulate: {next(iter(rest))!r} is not a covariate of {model.name!r}; it has "
            f"{', '.join(model.params.covariates()) or 'none'}. The effect of any other covariate "
            "needs a fit."
        )
    elif measured or draws:
        raise FitError(
            "simulate: `measured` and `draws` need a fit; a structural model alone has neither an "
            "assay nor uncertainty."
        )
    else:
        params = _from_model(source, occasions, patients, key)
    params = _with_covariates(params, own, patients, key)
    shape = ("draw", "patient", "time")
    if isinstance(model, ODEModel):
        every, note = _solved(model, regimen, t, params)
    else:
        every, note = _closed(model, regimen, t, params), ""
    variables: dict[str, Any] = {}
    for output, levels in every.items():
        if output in noise:
            residual, theta = noise[output]
            eps = jax.random.normal(jax.random.fold_in(assay_key, len(variables)), levels.shape)
            levels = residual.sample(eps, levels, {k: v[:, None, None] for k, v in theta.items()})
        attrs: dict[str, Any] = {
            "units": model.units[output],
            "long_name": output,
            "simulated": "yes",
        }
        if output in model.one_cell:
            attrs["one_cell"] = model.one_cell[output]
        variables[output] = (shape, np.asarray(levels), attrs)
    for name, info in model.params.info().items():
        value = np.asarray(getattr(params, name))
        variables[name] = (("draw", "patient", "infusion"), value, {"units": info.unit})
    size = next(iter(variables.values()))[1].shape
    coords = {
        "draw": np.arange(size[0]),
        "patient": np.arange(size[1]),
        "time": ("time", t, {"units": "day"}),
        "infusion": np.arange(1, occasions + 1),
    }
    return Simulation(xr.Dataset(variables, coords=coords, attrs={"solver": note}), regimen)


def _refuse_half_a_size(regimen: Regimen, given: Mapping[str, Any], model: Any) -> None:
    """A patient of another weight has another body surface, and doses may be per either."""
    names = set(SIZE.values()) & set(model.params.covariates())
    for event in regimen.doses:
        needed = SIZE.get(event.per, "")
        if needed in names and needed not in given and names & set(given):
            raise ModelError(
                f"simulate: the dose of {event.product} on day {event.time:g} is per {event.per}, "
                f"and `covariates` give {' and '.join(names & set(given))} but not {needed!r}, "
                "which would stay that of the reference patient; give both (carpk.body.bsa gives "
                "the body surface)."
            )


def _closed(model: ClosedForm, regimen: Regimen, t: np.ndarray, params: Params) -> dict[str, Any]:
    """Levels of a closed form, name -> (draw, patient, time)."""
    infusions = regimen.infusions
    start = jnp.array([e.time for e in infusions])
    amount = jnp.array([e.amount for e in infusions])
    if model.dose_effect is not None and any(e.per for e in infusions):
        raise RegimenError(
            "simulate: the model has a dose effect, which needs absolute cells; use "
            "regimen.resolve(bsa=..., weight=...) first."
        )
    grid = jnp.asarray(t)

    def one(p: Params, output: str) -> Any:
        return model.level(output, grid, p, start, amount)

    def every(p: Params) -> dict[str, Any]:
        return {k: jax.lax.map(jax.vmap(partial(one, output=k)), p) for k in model.units}

    return jax.jit(every)(params)


def _solved(
    model: ODEModel, regimen: Regimen, t: np.ndarray, params: Params
) -> tuple[dict[str, Any], str]:
    """Levels of an ODE model, name -> (draw, patient, time), and how they were solved."""
    draws, patients = np.shape(next(iter(params.items()))[1])[:2]
    flat = jax.tree.map(lambda x: jnp.reshape(x, draws * patients), params)
    first = min([float(t[0]), *(float(e.time) for e in regimen.events)])
    result = solve_many(model, regimen, t, flat, start=first)
    for reason, count in result.failures.items():
        warnings.warn(
            f"simulate: {count} of {draws * patients} patients have no solution and are nan: "
            f"{reason}.",
            CarpkWarning,
            stacklevel=3,
        )
    levels = {k: v.reshape(draws, patients, t.size) for k, v in result.outputs.items()}
    return levels, result.solver.describe()


def _from_model(
    model: ClosedForm | ODEModel, infusions: int, patients: int | None, key: Any
) -> Params:
    """Typical patient, or patients with the spread in the model file; leaves (1, n, K)."""
    infos = model.params.info()
    size = patients or 1
    keys = [jax.random.fold_in(key, i) for i in range(len(infos))]
    z = jnp.stack([jax.random.normal(k, (1, size, 1)) for k in keys])
    if model.correlation:
        z = jnp.tensordot(_factor(model), z, axes=1)
    values = {}
    for (name, info), score in zip(infos.items(), z, strict=True):
        spread = info.iiv if patients and info.iiv else 0.0
        value = info.transform.inverse(info.transform.forward(info.value) + spread * score)
        values[name] = jnp.broadcast_to(value, (1, size, infusions))
    return model.params(**values)


def _factor(model: ClosedForm | ODEModel) -> np.ndarray:
    """Cholesky factor of the correlations between the random effects of all parameters."""
    names = list(model.params.info())
    matrix = np.eye(len(names))
    for (one, other), r in model.correlation.items():
        i, j = names.index(one), names.index(other)
        matrix[i, j] = matrix[j, i] = r
    return np.linalg.cholesky(matrix)


def _with_covariates(
    params: Params, given: Mapping[str, Any], patients: int | None, key: Any
) -> Any:
    """The same patients with the covariates of the equations; latent classes drawn."""
    changes = {}
    for i, (name, info) in enumerate(params.info().items()):
        old = getattr(params, name)
        if name in given:
            value = np.asarray(given[name], float)
            if (
                value.ndim > 1
                or value.size not in (1, old.shape[1])
                or not np.isfinite(value).all()
            ):
                raise ModelError(
                    f"simulate: the covariate {name!r} must be a finite number, or one for each of "
                    f"the {old.shape[1]} patients, but is {given[name]!r}."
                )
            changes[name] = jnp.broadcast_to(jnp.reshape(value, (1, -1, 1)), old.shape)
        elif info.share is not None and patients:
            member = jax.random.bernoulli(
                jax.random.fold_in(key, 1000 + i), info.share, old.shape[:2]
            )
            changes[name] = jnp.broadcast_to(member[..., None].astype(float), old.shape)
    return params.replace(**changes)


def _from_fit(
    fit: Fit,
    infusions: int,
    patients: int | None,
    draws: int | None,
    covariates: Mapping[str, Any] | None,
    key: Any,
) -> tuple[Params, dict[str, Any]]:
    """Patients of posterior draws, leaves (draws, n, K), and these draws."""
    bound = fit.bound
    design = bound.design_at(**(covariates or {}))
    theta = {k: jnp.asarray(v) for k, v in fit.draws(draws or 100).items()}
    size = len(next(iter(theta.values())))
    if patients is None:
        theta |= {k: jnp.zeros_like(v) for k, v in theta.items() if k.startswith("omega_")}
    keys = jax.random.split(key, size)

    def one(theta: Mapping[str, Any], key: Any) -> Params:
        return bound.draw_patients(theta, design, key, patients or 1, infusions)

    params = jax.jit(jax.vmap(one))(theta, keys)
    return params, theta

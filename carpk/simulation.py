"""Simulation: a typical patient, a virtual population, or a population with its uncertainty.

    ck.simulate(model, ck.Regimen.cells(), days)                the typical patient
    ck.simulate(model, regimen, days, patients=200)             with the model file's spread
    ck.simulate(fit, regimen, days, patients=200, draws=100)    with the posterior's uncertainty

A virtual patient is the same in every regimen and at all covariates, for the same seed and draws:
random effects and latent classes do not depend on what is given, nor on how often.

Outputs are true values; `measured=True` adds the residual error. Everything here is simulated.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from jax.stages import Wrapped
from numpy.typing import ArrayLike

from carpk import _files, nca
from carpk._arviz import netcdf
from carpk._late import late
from carpk._options import options
from carpk._tables import as_frame
from carpk._types import Arrays
from carpk.dosing.regimen import Dose, Regimen
from carpk.errors import CarpkWarning, FitError, ModelError, RegimenError
from carpk.inference.result import Fit
from carpk.params import Params
from carpk.population.parameters import Kind
from carpk.solver.events import SIZE
from carpk.solver.solve import Solver, first_below, solve_all, solve_many
from carpk.structural import ClosedForm, ODEModel

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Simulation:
    """Simulated outputs.

    Attributes:
        data: xarray Dataset, a variable per output with dims (draw, patient, time) and its unit in
            `attrs`.
        parameters: the structural parameters behind it, dims (draw, patient, infusion).
        regimen: what was given.
    """

    data: xr.Dataset
    parameters: xr.Dataset
    regimen: Regimen

    def __getitem__(self, name: str) -> xr.DataArray:
        """An output; or a parameter, where no output has its name."""
        known = self.data if name in self.data else self.parameters
        if name not in known:
            raise ModelError(
                f"The simulation has no {name!r}; its outputs are {', '.join(self.outputs)}, its "
                f"parameters {', '.join(map(str, self.parameters.data_vars))}."
            )
        return known[name]

    @property
    def outputs(self) -> list[str]:
        """Names of the simulated outputs."""
        return [str(name) for name in self.data.data_vars]

    def summary(self) -> pd.DataFrame:
        """Cmax, Tmax and AUC0-28d per output: median and equal-tailed interval over patients
        (`options.interval_prob`).

        Patients of all draws are pooled, so that the interval is that of a new patient.
        """
        interval = options.interval
        t = jnp.asarray(self.data["time"].values)
        shown = t >= 0
        rows = []
        for output in self.outputs:
            unit = self.data[output].attrs["units"]
            values = jnp.asarray(self.data[output].values).reshape(-1, t.size)
            metrics: dict[str, tuple[Callable[[Array, Array], Array], str]] = {
                "CMAX": (nca.cmax, unit),
                "TMAX": (nca.tmax, "day"),
            }
            if float(t[-1]) >= 28.0:
                metrics["AUC0_28D"] = (nca.auc_to(28), f"day*{unit}")
            for name, (metric, metric_unit) in metrics.items():

                def one(c: Array, f: Callable[[Array, Array], Array] = metric) -> Array:
                    return f(t[shown], c[shown])

                x = np.asarray(jax.vmap(one)(values))
                low, mid, high = np.nanquantile(x, interval.with_median)
                rows.append((output, name, mid, low, high, metric_unit))
        columns = ["output", "quantity", "median", *interval.columns, "unit"]
        return as_frame(rows, columns, index=["output", "quantity"])

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
        values = self.data[output]
        when = first_below(values.values, values.attrs["one_cell"])
        days = np.append(self.data["time"].values, np.nan)[when]
        return xr.DataArray(days, dims=("draw", "patient"), attrs={"units": "day"})

    def _counted(self) -> list[str]:
        return [output for output in self.outputs if "one_cell" in self.data[output].attrs]

    def plot(self, output: str | None = None, **kwargs: object) -> Figure:
        """Median and bands over patients, on a log axis."""
        figure: Figure = late("carpk.plot.simulation")(self, output or self.outputs[0], **kwargs)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write the outputs to a NetCDF file, and the parameters to its group "parameters"."""
        return _files.write(path, netcdf({"/": self.data, "parameters": self.parameters}))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{self.data.sizes[d]} {d}s" for d in ("draw", "patient", "time"))
        table = self.summary().to_string(float_format="{:.3g}".format)
        text = (
            f"Simulation: {sizes}; median and {options.interval} interval over patients:\n{table}"
        )
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
    days: ArrayLike,
    *,
    patients: int | None = None,
    draws: int | None = None,
    covariates: Mapping[str, ArrayLike] | None = None,
    measured: bool = False,
    after: bool = False,
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
        draws: posterior draws of a fit, 100 unless said otherwise; of a structural model with a
            `posterior`, draws of its typical values, around which patients scatter as the model
            file says. Without it a structural model has one draw, its own values.
        covariates: name -> value, of the equations (one number, or one per patient) or of a fit;
            the reference where left out. A latent class that is left out is drawn, with its
            published share, wherever there are virtual patients.
        measured: add the assay's residual error to the outputs that were fitted (fits only).
        after: whether a day on which something is given is that just after it, not before.
        seed: same seed, same patients.
    """
    t = np.asarray(days, float)
    if t.ndim != 1 or t.size < 2 or not (np.diff(t) > 0).all():
        raise RegimenError("simulate: `days` must be at least two ascending times, shape (time,).")
    model = source.population.model if isinstance(source, Fit) else source
    if measured and not isinstance(source, Fit):
        raise FitError("simulate: `measured` needs a fit; a structural model alone has no assay.")
    if measured and isinstance(source, Fit):
        _refuse_known_sd(source)
    check_regimen(model, regimen)
    params, theta = virtual_patients(
        source, regimen, patients=patients, draws=draws, covariates=covariates, seed=seed
    )
    size = np.shape(next(iter(params.items()))[1])
    (block,) = simulate_in_blocks(model, regimen, t, params, size[0], after)
    for reason, count in block.failures.items():
        warnings.warn(
            f"simulate: {count} of {size[0] * size[1]} patients have no solution and are nan: "
            f"{reason}.",
            CarpkWarning,
            stacklevel=2,
        )
    assayed = source.bound.endpoints.values() if measured else ()  # type: ignore[union-attr]
    assay_key = jax.random.split(jax.random.key(seed))[1]
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, str | float]]] = {}
    for output, values in block.outputs.items():
        attrs: dict[str, str | float] = {
            "units": model.units[output],
            "long_name": output,
            "simulated": "yes",
        }
        if output in assayed:
            key = jax.random.fold_in(assay_key, len(variables))
            values = _measured(source, output, values, theta, key)  # type: ignore[arg-type]
        if output in model.one_cell:
            attrs["one_cell"] = model.one_cell[output]
        variables[output] = (("draw", "patient", "time"), np.asarray(values), attrs)
    dims = ("draw", "patient", "infusion")
    behind = {
        name: (dims, np.asarray(getattr(params, name)), {"units": info.unit})
        for name, info in model.params.info().items()
    }
    who = {"draw": np.arange(size[0]), "patient": np.arange(size[1])}
    time = {"time": ("time", t, {"units": "day"})}
    return Simulation(
        xr.Dataset(variables, coords={**who, **time}, attrs={"solver": block.note}),
        xr.Dataset(behind, coords={**who, "infusion": np.arange(1, size[2] + 1)}),
        regimen,
    )


def check_regimen(model: ClosedForm | ODEModel, regimen: Regimen, *, stacklevel: int = 3) -> None:
    """Reject events a closed form cannot represent; warn about those it ignores."""
    if not isinstance(model, ClosedForm):
        return
    if not regimen.infusions:
        raise RegimenError(
            "simulate: the regimen has no cell infusion; add Regimen.cells(day=[...], amount=...)."
        )
    if model.dose_effect is not None and any(e.per for e in regimen.infusions):
        raise RegimenError(
            "simulate: the model has a dose effect, which needs absolute cells; use "
            "regimen.resolve(bsa=..., weight=...) first."
        )
    changes = {"changes of state" for e in regimen.events if not isinstance(e, Dose)}
    ignored = sorted({e.product for e in regimen.drugs} | changes)
    if ignored:
        warnings.warn(
            f"{model.name!r} is a closed form without lymphodepletion: {', '.join(ignored)} have "
            "no effect on the simulated cells. Compare regimens through a covariate of a fit.",
            CarpkWarning,
            stacklevel=stacklevel,
        )


# --- virtual patients -----------------------------------------------------------------------------


def virtual_patients(
    source: ClosedForm | ODEModel | Fit,
    regimen: Regimen,
    *,
    patients: int | None,
    draws: int | None,
    covariates: Mapping[str, ArrayLike] | None,
    seed: int,
) -> tuple[Params, dict[str, Arrays]]:
    """Parameters of virtual patients, and of the population; arguments as in `simulate`.

    Patient i of draw d has the same random effects and latent classes whatever the regimen and the
    covariates; a random effect of the k-th infusion is the same however many there are.

    Returns:
        Parameters with leaves (draw, patient, infusion); population parameters of each draw, name
        -> (draw, ...), empty for a structural model's own values.
    """
    model = source.population.model if isinstance(source, Fit) else source
    occasions = 1
    if isinstance(model, ClosedForm):
        occasions = max(1, len(regimen.infusions))
    elif isinstance(source, Fit):
        occasions = source.population.infusions_of(regimen)
    key = jax.random.split(jax.random.key(seed))[0]
    own = {k: v for k, v in (covariates or {}).items() if k in model.params.covariates()}
    rest = {k: v for k, v in (covariates or {}).items() if k not in own}
    _refuse_half_a_size(regimen, own, model)
    theta: dict[str, Arrays]
    if isinstance(source, Fit):
        params, theta = _from_fit(source, occasions, patients, draws, rest, key)
    elif rest:
        raise ModelError(
            f"simulate: {next(iter(rest))!r} is not a covariate of {model.name!r}; it has "
            f"{', '.join(model.params.covariates()) or 'none'}. The effect of any other covariate "
            "needs a fit."
        )
    else:
        theta = {} if draws is None else {**posterior_draws(source, draws)}
        params = _from_model(source, theta, occasions, patients, key)
    return _with_covariates(params, own, patients, key), theta


def _refuse_half_a_size(
    regimen: Regimen, given: Mapping[str, ArrayLike], model: ClosedForm | ODEModel
) -> None:
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


def posterior_draws(model: ClosedForm | ODEModel, draws: int) -> dict[str, np.ndarray]:
    """Draws of the typical values from the model's own posterior, name -> (draw,)."""
    if model.calibration_draws is None:
        raise FitError(
            f"simulate: `draws` need a fit, or a structural model with a posterior; {model.name!r} "
            "holds one value of each parameter and does not say how uncertain it is. Leave `draws` "
            "out."
        )
    given = {name: np.asarray(x, float) for name, x in model.calibration_draws().items()}
    sizes = {x.shape for x in given.values()}
    for name, x in given.items():
        info = model.params.info().get(name)
        if info is None or info.is_covariate:
            raise ModelError(
                f"Model {model.name!r}: its posterior has {name!r}, which is not a parameter; "
                f"known are {', '.join(model.params.info())}."
            )
        if x.ndim != 1 or not x.size or len(sizes) > 1:
            raise ModelError(
                f"Model {model.name!r}: its posterior must have as many draws of every parameter, "
                f"shape (draw,), but {name!r} has shape {x.shape}."
            )
        if not np.isfinite(info.transform.forward(x)).all():
            raise ModelError(
                f"Model {model.name!r}: its posterior has draws of {name!r} outside the bounds "
                f"{info.bounds}."
            )
    total = sizes.pop()[0]
    if draws < total:
        chosen = np.random.default_rng(0).choice(total, draws, replace=False)
        given = {name: x[chosen] for name, x in given.items()}
    return given


def _from_model(
    model: ClosedForm | ODEModel,
    theta: Mapping[str, Arrays],
    infusions: int,
    patients: int | None,
    key: Array,
) -> Params:
    """Typical patients, or patients with the spread in the model file; leaves (draws, n, K)."""
    infos = model.params.info()
    draws = max([1, *(len(x) for x in theta.values())])
    size = patients or 1
    keys = [jax.random.fold_in(key, i) for i in range(len(infos))]
    z = jnp.stack([jax.random.normal(k, (draws, size, 1)) for k in keys])
    if model.correlation:
        z = jnp.tensordot(_factor(model), z, axes=1)
    values = {}
    for (name, info), score in zip(infos.items(), z, strict=True):
        spread = info.iiv if patients and info.iiv else 0.0
        typical = jnp.reshape(jnp.asarray(theta.get(name, info.value), float), (-1, 1, 1))
        value = info.transform.inverse(info.transform.forward(typical) + spread * score)
        values[name] = jnp.broadcast_to(value, (draws, size, infusions))
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
    params: Params, given: Mapping[str, ArrayLike], patients: int | None, key: Array
) -> Params:
    """Parameters with the covariates of the equations; latent classes drawn."""
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


def _of_one(name: str, value: ArrayLike) -> float | str:
    """A covariate of the one patient whose posterior is simulated."""
    if np.ndim(value):
        raise ModelError(
            f"simulate: {name!r} has {np.size(value)} values; of a fit's covariates one value is "
            "taken, for all virtual patients. Simulate once for each."
        )
    only = np.asarray(value)[()]
    return str(only) if isinstance(only, str) else float(only)


def _from_fit(
    fit: Fit,
    infusions: int,
    patients: int | None,
    draws: int | None,
    covariates: Mapping[str, ArrayLike],
    key: Array,
) -> tuple[Params, dict[str, Arrays]]:
    """Patients of posterior draws, leaves (draws, n, K), and the draws."""
    bound = fit.bound
    design = bound.design_at(**{k: _of_one(k, x) for k, x in covariates.items()})
    theta: dict[str, Arrays] = {k: jnp.asarray(v) for k, v in fit.draws(draws or 100).items()}
    draws, size = len(next(iter(theta.values()))), patients or 1
    around = theta
    if patients is None:
        omegas = bound.named(Kind.OMEGA)
        around = {k: v * (k not in omegas) for k, v in theta.items()}

    shape = (draws, size, len(bound.random_effects.columns))
    keys = [jax.random.fold_in(key, k) for k in range(infusions)]  # of each: none changes another
    z = jnp.stack([jax.random.normal(k, shape) for k in keys], axis=2)
    every = jax.vmap(lambda theta, z: bound.params_from_scores(theta, design, z))
    return jax.jit(every)(around, z), theta


# --- what: their outputs
# ---------------------------------------------------------------------------


class Block(NamedTuple):
    """Outputs of some draws.

    Attributes:
        outputs: output -> (draw, patient, time).
        failures: reason -> number of patients without a solution.
        note: how they were solved.
    """

    outputs: Mapping[str, Arrays]
    failures: Mapping[str, int]
    note: str


def simulate_in_blocks(
    model: ClosedForm | ODEModel,
    regimen: Regimen,
    t: np.ndarray,
    params: Params,
    draws: int,
    after: bool,
) -> Iterator[Block]:
    """Outputs of virtual patients, `draws` draws at a time, so that memory stays bounded.

    Args:
        params: leaves (draw, patient, infusion).
        draws: a divisor of the number of draws.
        after: as in `simulate`.
    """
    size = np.shape(next(iter(params.items()))[1])
    every = _closed(model, regimen, t, after) if isinstance(model, ClosedForm) else None
    first = min([float(t[0]), *(float(e.time) for e in regimen.events)])
    solver: Solver | None = None
    for begin in range(0, size[0], draws):
        some = jax.tree.map(lambda x, i=begin: x[i : i + draws], params)
        if isinstance(model, ClosedForm):
            yield Block(every(some), {}, "")  # type: ignore[misc]
            continue
        shape = (draws * size[1], *(size[2:] if size[2] > 1 else ()))
        flat = jax.tree.map(lambda x, shape=shape: jnp.reshape(x, shape), some)
        result = (
            solve_many(model, regimen, t, flat, start=first, after=after)
            if solver is None
            else solve_all(solver, flat)
        )
        solver = result.solver
        outputs = {k: v.reshape(draws, size[1], t.size) for k, v in result.outputs.items()}
        yield Block(outputs, result.failures, solver.describe())


def _closed(model: ClosedForm, regimen: Regimen, t: np.ndarray, after: bool) -> Wrapped:
    """From parameters (draw, patient, infusion) to outputs, output -> (draw, patient, time)."""
    start = jnp.array([e.time for e in regimen.infusions])
    amount = jnp.array([e.amount for e in regimen.infusions])
    grid = jnp.asarray(t)

    def one(p: Params, output: str) -> Array:
        return model.level(output, grid, p, start, amount, after=after)

    def every(p: Params) -> dict[str, Array]:
        return {k: jax.lax.map(jax.vmap(partial(one, output=k)), p) for k in model.units}

    return jax.jit(every)


def _refuse_known_sd(fit: Fit) -> None:
    """Refuse to measure an output whose SDs came with the data."""
    for output in fit.bound.endpoints.values():
        if fit.population.residual_of(output).known_sd:
            raise FitError(
                f"simulate: {output!r} was fitted with KnownSD(), and the SD of a new measurement "
                "is not known; leave out `measured`, and add the error of your assay yourself."
            )


def _measured(
    fit: Fit, output: str, values: Arrays, theta: Mapping[str, Arrays], key: Array
) -> Array:
    """Values with the assay's residual error."""
    own = fit.population.residual_theta(theta, output)
    eps = jax.random.normal(key, values.shape)
    residual = fit.population.residual_of(output)
    each = {k: v[:, None, None] for k, v in own.items()}
    return jnp.asarray(residual.sample(eps, values, each))

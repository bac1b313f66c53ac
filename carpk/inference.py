"""Fitting: from a population model and data to a posterior with a verdict.

fit = ck.fit(pop, data, seed=1)
fit                # first line: can it be trusted, and why
fit.summary()      # typical values, 90 % equal-tailed intervals, spread between patients
fit.save("fit.nc")
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import xarray as xr

from carpk import assay, dosing
from carpk._arviz import az, group, groups, read_idata, to_idata, write_idata
from carpk.dataset import Dataset
from carpk.dosing import Regimen
from carpk.errors import FitError
from carpk.library import load_model
from carpk.population import Population, PopulationModel, omega_name
from carpk.sampler import nuts, prior_draws

INTERVAL = 0.9  # equal-tailed, everywhere
RHAT_MAX = 1.01
ESS_MIN = 400
EBFMI_MIN = 0.3
UNINFORMED = 0.9  # posterior SD over prior SD, on the estimation scale
PRIOR_DRAWS = 4000
METHODS = ("nuts",)


# ---------------------------------------------------------------------------------------------
# Verdict
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a fit can be trusted.

    Attributes:
        ok: False on any doubt about the draws themselves.
        troubles: one sentence each, with what to do; empty if and only if `ok`.
        notes: what the reader must know although the draws are sound, above all the parameters
            that the data say nothing about.
        numbers: the diagnostics behind it.
    """

    ok: bool
    troubles: tuple[str, ...]
    notes: tuple[str, ...]
    numbers: Mapping[str, float]

    def __str__(self) -> str:
        n = self.numbers
        head = "OK" if self.ok else "DO NOT TRUST"
        line = (
            f"{head}: R-hat at most {n['rhat_max']:.3f}, effective draws at least "
            f"{n['ess_min']:.0f}, {n['divergences']:.0f} divergences, E-BFMI at least "
            f"{n['ebfmi_min']:.2f}."
        )
        troubles = [f"  {i}. {text}" for i, text in enumerate(self.troubles, 1)]
        return "\n".join([line, *troubles, *(f"  Note: {text}" for text in self.notes)])


def judge(
    posterior: xr.Dataset, stats: xr.Dataset, prior: xr.Dataset, bound: PopulationModel
) -> Verdict:
    """The verdict on a set of draws."""
    scalars = list(bound.priors)
    rhat, bulk, tail = (
        _by_element(measure(posterior))
        for measure in (
            az.rhat,
            lambda p: az.ess(p, method="bulk"),
            lambda p: az.ess(p, method="tail"),
        )
    )
    ess = {k: min(bulk[k], tail[k]) for k in bulk}
    energy = stats["energy"].values
    change = np.mean(np.diff(energy, axis=1) ** 2, axis=1)
    ebfmi = change / np.maximum(np.var(energy, axis=1), 1e-300)
    divergences = int(stats["diverging"].values.sum())
    deep = float(stats["reached_max_treedepth"].values.mean())
    nonfinite = [str(k) for k in posterior if not np.isfinite(posterior[k].values).all()]
    worst_rhat = max(rhat, key=lambda k: rhat[k] if math.isfinite(rhat[k]) else math.inf)
    worst_ess = min(ess, key=lambda k: ess[k] if math.isfinite(ess[k]) else -math.inf)
    troubles = []
    if nonfinite:
        troubles.append(
            f"{', '.join(nonfinite)} has draws that are not finite: look for impossible data or "
            "priors without bounds."
        )
    if not rhat[worst_rhat] <= RHAT_MAX:
        troubles.append(
            f"The chains disagree (R-hat of {worst_rhat} is {rhat[worst_rhat]:.3f}, above "
            f"{RHAT_MAX}): sample longer (tune=2000, draws=2000); if they still disagree, the "
            "posterior has several modes: use narrower priors."
        )
    if not ess[worst_ess] >= ESS_MIN:
        troubles.append(
            f"Too few effective draws ({ess[worst_ess]:.0f} of {worst_ess}, below {ESS_MIN}): "
            f"raise draws, or put {worst_ess.removeprefix('omega_')} into `centered` if every "
            "patient has many samples."
        )
    if divergences:
        troubles.append(
            f"{divergences} divergent transitions: the sampler missed a narrow region. Raise "
            "target_accept to 0.95 or 0.99; if that does not help, a spread (omega) is close to "
            "0: leave that parameter out of `varies`."
        )
    if ebfmi.min() < EBFMI_MIN:
        troubles.append(
            f"The energy hardly mixes (E-BFMI {ebfmi.min():.2f}, below {EBFMI_MIN}): a heavy tail; "
            "use narrower priors for the omegas."
        )
    if deep > 0.05:
        troubles.append(
            f"{deep:.0%} of the draws reached the largest tree depth: parameters are strongly "
            "correlated; fix one of them, or give it a prior."
        )
    numbers = {
        "rhat_max": rhat[worst_rhat],
        "ess_min": ess[worst_ess],
        "divergences": float(divergences),
        "ebfmi_min": float(ebfmi.min()),
        "max_treedepth_share": deep,
    }
    notes = [
        f"{name} = {value:g} for everybody, the model file's reference: the data have no column "
        f"{name!r}."
        for name, value in bound.at_reference.items()
    ]
    ratio = {k: posterior_over_prior(bound, posterior, prior, k).max() for k in scalars}
    uninformed = [k for k, x in ratio.items() if x > UNINFORMED]
    if uninformed:
        notes.append(
            "the data say next to nothing about "
            + ", ".join(uninformed)
            + f": the posterior is as wide as the prior (SD ratio above {UNINFORMED})."
        )
    if bound.individual is not None:
        censored = bound.individual.censored[bound.individual.mask] == 1
        if censored.any():
            notes.append(
                f"{censored.mean():.0%} of the observations are below the LLOQ (M3 likelihood)."
            )
    return Verdict(not troubles, tuple(troubles), tuple(notes), numbers)


def _by_element(result: Any) -> dict[str, float]:
    """Worst-case numbers per scalar, named `x` or `x[label]`."""
    if not isinstance(result, xr.Dataset):
        result = result.to_dataset()
    flat = {}
    for name, array in result.data_vars.items():
        for index in np.ndindex(array.shape):
            labels = [
                str(array.coords[d].values[i]) for d, i in zip(array.dims, index, strict=True)
            ]
            flat[f"{name}[{', '.join(labels)}]" if labels else str(name)] = float(
                array.values[index]
            )
    return flat


def posterior_over_prior(
    bound: PopulationModel, posterior: xr.Dataset, prior: xr.Dataset, name: str
) -> np.ndarray:
    """Posterior SD over prior SD on the estimation scale, one per column of an effect."""
    forward = bound.scale(name).forward
    after, before = (np.asarray(forward(x[name].values)) for x in (posterior, prior))
    return np.atleast_1d(after.std(axis=(0, 1)) / before.std(axis=(0, 1)))


# ---------------------------------------------------------------------------------------------
# Fit
# ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Fit:
    """A posterior, with everything it came from.

    Attributes:
        population, data: what was fitted to what.
        idata: ArviZ object with groups posterior, sample_stats, prior, log_prior (of densities on
            the estimation scale) and, where there are individual observations, log_likelihood and
            observed_data.
        verdict: can it be trusted.
        settings: method, draws, tune, chains, seed, versions and a hash of the data.
    """

    population: Population
    data: Dataset
    idata: Any
    verdict: Verdict
    settings: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the draws can be trusted; the reasons are in `verdict`."""
        return self.verdict.ok

    @cached_property
    def bound(self) -> PopulationModel:
        """The population model, bound to the data."""
        return self.population.bind(self.data)

    @property
    def posterior(self) -> xr.Dataset:
        """Draws of every parameter, dims (chain, draw, ...)."""
        return group(self.idata, "posterior")

    def draws(
        self, size: int | None = None, seed: int = 0, *, effects: bool = False
    ) -> dict[str, np.ndarray]:
        """Parameters, name -> (draw, ...); all draws, or `size` of them at random.

        Those of the population; with `effects` the patients' random effects too.
        """
        names = list(self.posterior.data_vars) if effects else list(self.bound.priors)
        stacked = {
            str(n): self.posterior[n].values.reshape(-1, *self.posterior[n].shape[2:])
            for n in names
        }
        chosen = self.chosen(size, seed)
        return {n: x[chosen] for n, x in stacked.items()}

    def chosen(self, size: int | None = None, seed: int = 0) -> np.ndarray:
        """Which draws `draws` takes, counted through the chains one after the other."""
        total = int(np.prod(next(iter(self.posterior.values())).shape[:2]))
        if size is None or size >= total:
            return np.arange(total)
        return np.random.default_rng(seed).choice(total, size, replace=False)

    def summary(self) -> pd.DataFrame:
        """One row per population parameter and derived quantity.

        Columns: median, the 90 % equal-tailed interval (eti90_low, eti90_high), unit, the spread
        between patients (`iiv_sd`: SD on the estimation scale, median; and its interval), R-hat and
        the smaller of bulk and tail effective sample size.
        """
        return summarize(self)

    def plot(self, **kwargs: Any) -> Any:
        """Posterior predictive bands over the data, and posterior against prior."""
        from carpk import plot

        return plot.fit(self, **kwargs)

    def save(self, path: str | Path) -> Path:
        """Write everything to one NetCDF file that ArviZ and xarray can open."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_idata(self.idata, path)
        return path

    def __repr__(self) -> str:
        p, s = self.population, self.settings
        what = (
            f"Fit of {p.model.name!r} to {self.data.name} ({s['method']}, {s['chains']} chains of "
            f"{s['draws']} draws, seed {s['seed']})"
        )
        table = self.summary().to_string(float_format="{:.3g}".format, na_rep="")
        return f"{self.verdict}\n{what}; median and 90 % equal-tailed interval:\n{table}"


def fit(
    population: Population,
    data: Any,
    method: str = "nuts",
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    seed: int = 0,
    target_accept: float = 0.9,
    progress: bool = True,
) -> Fit:
    """Estimate a population model from data.

    Args:
        population: what varies and what is believed.
        data: a `Dataset`, or a `Study`, whose published facts are then the data.
        method: "nuts".
        draws, tune, chains: draws kept and adaptation steps per chain, and chains.
        seed: same seed and same machine, same draws.
        target_accept: raise towards 1 after divergences.
        progress: show it, on standard error.
    """
    if method not in METHODS:
        raise FitError(
            f"fit: the method {method!r} is not known; known are {', '.join(map(repr, METHODS))}."
        )
    for name, value in {"draws": draws, "tune": tune, "chains": chains}.items():
        if not (isinstance(value, int) and value >= 1):
            raise FitError(f"fit: {name} must be a whole number of at least 1, but is {value!r}.")
    if hasattr(data, "dataset"):
        data = data.dataset()
    settings = {"method": method, "draws": draws, "tune": tune, "chains": chains, "seed": seed}
    settings |= {"target_accept": target_accept}
    return fit_bound(population.bind(data), settings, progress=progress)


def fit_bound(
    bound: PopulationModel, settings: Mapping[str, Any], *, label: str = "", progress: bool = True
) -> Fit:
    """`fit`, for a population model that is bound to its data already.

    Args:
        settings: those of a `Fit`, or method, draws, tune, chains, seed and target_accept of them.
        label: of the progress bar.
    """
    chosen = {k: settings[k] for k in ("draws", "tune", "chains", "seed", "target_accept")}
    samples, stats = nuts(
        bound.numpyro_model,
        **chosen,
        dense=list(bound.priors),
        label=label or f"{bound.population.model.name} on {bound.data.name}",
        progress=progress,
    )
    settings = {
        "method": settings["method"],
        **chosen,
        "float64": bool(jnp.zeros(0).dtype == jnp.float64),
        "machine": platform.machine(),
        "versions": {name: _version(name) for name in ("carpk", "jax", "numpyro", "arviz")},
        "data_sha256": data_hash(bound.data),
    }
    return assemble(bound, samples, stats, settings)


def assemble(
    bound: PopulationModel,
    samples: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    settings: Mapping[str, Any],
) -> Fit:
    """A `Fit` from raw draws: ArviZ groups, log-likelihoods, verdict."""
    posterior = labelled(bound, samples)
    prior = labelled(
        bound, {k: v[None] for k, v in prior_draws(bound.priors, PRIOR_DRAWS, seed=0).items()}
    )
    sampler = xr.Dataset({k: (("chain", "draw"), v) for k, v in stats.items()})
    log_prior = {k: (("chain", "draw"), v) for k, v in log_priors(bound, samples).items()}
    groups = {"posterior": posterior, "sample_stats": sampler, "prior": prior}
    groups["log_prior"] = xr.Dataset(log_prior, attrs={"density": "on the estimation scale"})
    if bound.individual is not None:
        groups |= pointwise(bound, samples)
    posterior.attrs["carpk"] = json.dumps(
        {"population": encode_population(bound.population), "data": encode_data(bound.data)}
        | {"settings": settings}
    )
    verdict = judge(posterior, sampler, prior, bound)
    result = Fit(bound.population, bound.data, to_idata(groups), verdict, settings)
    vars(result)["bound"] = bound  # as `Fit.bound` would find it, and not bound a second time
    return result


def load_fit(path: str | Path, population: Population | None = None) -> Fit:
    """Read a fit that `Fit.save` wrote.

    Args:
        path: NetCDF file.
        population: needed only where the file cannot hold it: a structural model that was not
            loaded with `load_model`, or a prior whose arguments are not plain numbers.
    """
    path = Path(path)
    if not path.exists():
        raise FitError(f"load_fit: there is no file {str(path)!r}.")
    try:
        idata = read_idata(path)
    except (OSError, ValueError, KeyError) as error:
        raise FitError(
            f"load_fit: {str(path)!r} is not a readable NetCDF file ({error}); it may be "
            "damaged or cut off: fit again."
        ) from error
    stored = group(idata, "posterior").attrs.get("carpk") if "posterior" in groups(idata) else None
    if stored is None:
        raise FitError(
            f"load_fit: {str(path)!r} was not written by carpk's Fit.save; open it with ArviZ."
        )
    spec = json.loads(stored)
    population = population or decode_population(spec["population"])
    data = decode_data(spec["data"])
    bound = population.bind(data)
    posterior, stats, prior = (group(idata, g) for g in ("posterior", "sample_stats", "prior"))
    return Fit(population, data, idata, judge(posterior, stats, prior, bound), spec["settings"])


def labelled(bound: PopulationModel, samples: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Samples as an xarray Dataset with named dimensions."""
    variables: dict[str, Any] = {}
    coords: dict[str, Any] = {}
    for name, value in samples.items():
        dims: tuple[str, ...] = ("chain", "draw")
        if name in bound.effects:
            covariate = bound.effects[name][1]
            dims += (f"{covariate}_level",)
            coords[dims[-1]] = list(bound.covariates[covariate].columns)
        elif value.ndim > 2:
            dims += ("patient", "infusion")[: value.ndim - 2]
            coords["patient"] = list(bound.patients)
            if value.ndim == 4:
                coords["infusion"] = list(range(1, value.shape[3] + 1))
        variables[name] = (dims, value)
    shape = next(iter(samples.values())).shape[:2]
    coords |= {"chain": list(range(shape[0])), "draw": list(range(shape[1]))}
    return xr.Dataset(variables, coords=coords)


def log_priors(bound: PopulationModel, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ln prior density of each population parameter at its draws, on the estimation scale."""
    out = {}
    for name, prior in bound.priors.items():
        x = jnp.asarray(samples[name])
        log_slope = jnp.log(bound.scale(name).derivative(x))
        if prior.event_dim:
            log_slope = jnp.sum(log_slope, axis=-1)
        out[name] = np.asarray(prior.log_prob(x) - log_slope)
    return out


def pointwise(bound: PopulationModel, samples: Mapping[str, np.ndarray]) -> dict[str, xr.Dataset]:
    """log_likelihood and observed_data of the individual observations, a variable per output.

    Observations have the dimension `obs_id`; those of several outputs "obs_id_<output>" each.
    """
    a = bound.individual
    model = jax.jit(jax.vmap(lambda s: bound.observation_log_likelihoods(*patients(bound, s))))
    flat = {k: jnp.asarray(v).reshape(-1, *v.shape[2:]) for k, v in samples.items()}
    chains, draws = next(iter(samples.values())).shape[:2]
    every = np.asarray(model(flat)).reshape(chains, draws, *a.mask.shape)
    likelihoods, observed = [], []
    for i, analyte in enumerate(a.analytes):
        here = a.mask & (a.analyte == i)
        name = bound.endpoints[analyte]
        suffix = f"_{name}" if len(a.analytes) > 1 else ""
        dim = f"obs_id{suffix}"
        coords = {
            dim: np.arange(here.sum()),
            f"patient{suffix}": (dim, np.asarray(bound.patients, dtype=str)[np.nonzero(here)[0]]),
            f"time{suffix}": (dim, a.time[here]),
        }
        each = {name: (("chain", "draw", dim), every[:, :, here])}
        seen = {name: (dim, a.value[here]), f"censored{suffix}": (dim, a.censored[here])}
        likelihoods.append(xr.Dataset(each, coords=coords))
        observed.append(xr.Dataset(seen, coords=coords))
    return {"log_likelihood": xr.merge(likelihoods), "observed_data": xr.merge(observed)}


def patients(bound: PopulationModel, sample: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
    """(structural parameters of every patient, population parameters) of one draw."""
    from numpyro import handlers

    with handlers.substitute(data=dict(sample)), handlers.seed(rng_seed=0):
        theta = {name: sample[name] for name in bound.priors}
        return bound.sample_patients(theta), theta


# ---------------------------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------------------------


def summarize(result: Fit) -> pd.DataFrame:
    bound, posterior = result.bound, result.posterior
    info = bound.population.model.params.info()
    named = posterior[[n for n in bound.priors if n in posterior]]
    rhat = _by_element(az.rhat(named))
    ess_bulk = _by_element(az.ess(named, method="bulk"))
    ess_tail = _by_element(az.ess(named, method="tail"))
    rows = []

    def row(name: str, x: np.ndarray, unit: str, diagnostics: str = "") -> dict[str, Any]:
        low, high = np.quantile(x, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
        entry = {
            "parameter": name,
            "median": np.median(x),
            "eti90_low": low,
            "eti90_high": high,
            "unit": unit,
        }
        if diagnostics:
            entry["rhat"] = rhat[diagnostics]
            entry["ess"] = min(ess_bulk[diagnostics], ess_tail[diagnostics])
        return entry

    draws = result.draws()
    for name in bound.population.estimated:
        entry = row(name, draws[name], info[name].unit, name)
        omega = omega_name(name)
        if omega in draws:
            low, mid, high = np.quantile(
                draws[omega], [(1 - INTERVAL) / 2, 0.5, (1 + INTERVAL) / 2]
            )
            entry |= {"iiv_sd": mid, "iiv_low": low, "iiv_high": high}
        rows.append(entry)
    typical = bound.population.model.params(
        **{n: draws[n] for n in bound.population.estimated}, **bound.population.fixed
    )
    for name, (derive, unit) in bound.population.model.derived.items():
        rows.append(row(name, np.asarray(derive(typical)), unit))
    for name in bound.effects:
        for i, column in enumerate(bound.covariates[bound.effects[name][1]].columns):
            rows.append(row(f"{name}[{column}]", draws[name][:, i], "1", f"{name}[{column}]"))
    shown = set(bound.population.estimated) | set(bound.effects)
    shown |= {omega_name(n) for n in bound.population.estimated}
    for name in bound.priors:
        if name not in shown:
            rows.append(row(name, draws[name], "1", name))
    columns = ["parameter", "median", "eti90_low", "eti90_high", "unit"]
    columns += ["iiv_sd", "iiv_low", "iiv_high", "rhat", "ess"]
    table = pd.DataFrame(rows).reindex(columns=columns).set_index("parameter")
    table.attrs["interval"] = "90 % equal-tailed"
    return table


# ---------------------------------------------------------------------------------------------
# Storage
# ---------------------------------------------------------------------------------------------

TABLES = ("patients", "doses", "observations", "summaries", "cohorts")


def _version(package: str) -> str:
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
        "covariates": {k: list(v) for k, v in p.covariates.items()},
        "residual": (
            {output: encode_residual(r) for output, r in p.residual.items()}
            if isinstance(p.residual, Mapping)
            else encode_residual(p.residual)
        ),
        "priors": {k: encode_prior(v) for k, v in p.priors.items()},
        "fixed": dict(p.fixed),
        "analytes": p.outputs_of,
        "centered": list(p.centered),
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

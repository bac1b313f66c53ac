"""`fit`: the posterior of the effects of lymphodepletion, given published facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpyro.distributions as dist
import xarray as xr

from carpk._arviz import to_idata
from carpk._types import Draws
from carpk.evidence.model import model
from carpk.evidence.result import Evidence
from carpk.evidence.table import load
from carpk.inference.cure import counted, cured
from carpk.inference.nuts import Nuts, from_numpyro, prior_draws
from carpk.inference.starts import PRIOR_DRAWS
from carpk.verdict.judge import judge

if TYPE_CHECKING:
    import pandas as pd


def fit(
    table: pd.DataFrame | None = None,
    priors: Mapping[str, dist.Distribution] | None = None,
    *,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    max_draws: int | None = None,
    seed: int = 0,
    target_accept: float = 0.98,
    progress: bool = True,
) -> Evidence:
    """Fit the published facts.

    Args:
        table: as `load` gives it; the library's unless given.
        priors: name -> distribution, in place of those in `PRIORS`; `SUGGESTED` holds narrower
            ones for solid tumors.
        draws, tune, chains: draws kept and adaptation steps per chain, and chains.
        max_draws: as in `fit`.
        seed: same seed and same machine, same draws.
        target_accept: raise towards 1 after divergences.
        progress: show it, on standard error.
    """
    table = load() if table is None else table
    numbers = counted("evidence.fit", draws=draws, tune=tune, chains=chains, max_draws=max_draws)
    bound: Any = model(table, priors)  # to `judge`, a population model
    target = from_numpyro(bound.numpyro_model, dense=list(bound.priors))
    (samples, stats, _), cure = cured(
        Nuts(target, draws=draws, tune=tune),
        lambda _: [[target.start]] * chains,
        max_rounds=numbers["max_draws"] // draws,
        seed=seed,
        target_accept=target_accept,
        labelled=_dataset,
        label="evidence on lymphodepletion",
        progress=progress,
    )
    before = prior_draws(bound.priors, PRIOR_DRAWS, seed=0)
    posterior, prior = _dataset(samples), _dataset({k: x[None] for k, x in before.items()})
    sampler = xr.Dataset({k: (("chain", "draw"), v) for k, v in stats.items()})
    done = {"cure": cure} if cure else {}
    settings = numbers | {"seed": seed} | done
    return Evidence(
        table=table,
        model=bound,
        idata=to_idata({"posterior": posterior, "sample_stats": sampler, "prior": prior}),
        verdict=judge(posterior, sampler, prior, bound, {"method": "nuts"} | done),
        settings=settings | {"target_accept": target_accept, "progress": progress},
    )


def _dataset(samples: Draws) -> xr.Dataset:
    return xr.Dataset(
        {
            name: (("chain", "draw", *(f"{name}_dim_{i}" for i in range(x.ndim - 2))), x)
            for name, x in samples.items()
        }
    )

"""Published evidence on lymphodepletion: one hierarchical fit over a table of results.

fit = ck.evidence.fit(seed=1)  # of ck.evidence.load(), the table with its sources
fit                            # verdict; effects; conclusions
fit.plot(); fit.leave_one_out(); fit.sensitivity()

The quantity is z, log10 of a patient's highest later level in blood over the level just after the
infusion: above 0, the cells have expanded. In a study s of a product p

    z ~ Normal(level + level_sd a_p + lymphodepletion, spread)
    lymphodepletion = flu + tau u_s                          with Flu
                      cy + tau v_s                           with Cy
                      flu + tau u_s + left (cy + tau v_s)    with both

with a, u, v standard normal. `flu` and `cy` are what each drug adds on its own, on average over
studies, on the log10 scale; `left`, from 0 to 1, is the share of Cy's effect that is left on top
of Flu, since both empty the same space; `tau` is the SD between studies. Doses are not modelled.
Each published fact is a term of the likelihood, by its `kind` (`LIKELIHOODS`). What is not a level
(detection, response, persistence) is tied to expansion by a slope that may be 0, so that it can
inform an effect only as far as such a tie is believed.

Effects of whole studies are told apart from those of their lymphodepletion only where a study has
an arm without; HEROS 1.0 and 2.0 are two trials of one product, and their contrast is a historical
one, whose trial difference is part of u and v.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import numpyro.distributions as dist
import pandas as pd
import xarray as xr

from carpk._arviz import az, group, to_idata
from carpk._late import late
from carpk._options import options
from carpk._types import Draws
from carpk.checks.powers import WIDE, power_scaling
from carpk.evidence.likelihoods import LIKELIHOODS
from carpk.evidence.model import PRIORS, SUGGESTED, Model, model
from carpk.evidence.table import load
from carpk.inference.cure import counted, cured
from carpk.inference.nuts import Nuts, from_numpyro, one_chain_each, prior_draws
from carpk.inference.starts import PRIOR_DRAWS
from carpk.verdict.judge import Verdict, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "LIKELIHOODS",
    "PRIORS",
    "SUGGESTED",
    "Evidence",
    "fit",
    "load",
    "lymphodepletion_effects",
    "model",
]


def __dir__() -> list[str]:
    return sorted(__all__)


EFFECTS = {  # name of the draws -> in tables
    "flu": "Flu",
    "cy": "Cy",
    "added": "Cy, added to Flu",
    "flu_cy": "Flu/Cy",
}
ANOTHER = "Flu/Cy, another study"
TAU = "tau (SD between studies)"
TWOFOLD = np.log10(2)
UNSPLIT = (
    " No study in the table reports Flu and Flu/Cy apart, so the split rests on the priors and on "
    "comparing products."
)
SURE = 0.95  # probability above which a conclusion is stated


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Effects of lymphodepletion from published results, with everything they came from.

    Attributes:
        table: the facts, those not fitted too.
        model: the fitted rows and the priors.
        idata: ArviZ object with groups posterior, sample_stats and prior.
        verdict: can the draws be trusted.
        settings: draws, tune, chains, seed, target_accept.
    """

    table: pd.DataFrame
    model: Model
    idata: Any
    verdict: Verdict
    settings: Mapping[str, Any]

    @property
    def ok(self) -> bool:
        """The draws can be trusted; reasons are in `verdict`."""
        return self.verdict.ok

    @cached_property
    def draws(self) -> dict[str, np.ndarray]:
        """Posterior draws, name -> (draw, ...), of all chains one after the other."""
        return _flat(group(self.idata, "posterior"))

    @cached_property
    def prior(self) -> dict[str, np.ndarray]:
        """Draws of the priors, name -> (draw,)."""
        return _flat(group(self.idata, "prior"))

    def prior_effects(self) -> dict[str, np.ndarray]:
        """Prior draws of the effects in `summary`, log10."""
        return _named(self.prior)

    def summary(self) -> pd.DataFrame:
        """One row per effect: log10 of the factor on expansion, and the factor (fold).

        Columns: median and equal-tailed interval on both scales, the probabilities that the
        effect is above 0 and above twofold, and the posterior SD over the prior SD (1: the facts
        say nothing).
        "Flu/Cy, another study" is what to expect of a study that is not in the table; `tau` is the
        SD between studies of one drug's effect.
        """
        after = _named(self.draws)
        before = self.prior_effects()
        rows = {name: _row(x, before[name]) for name, x in after.items()}
        rows[TAU] = _row(self.draws["tau"], self.prior["tau"])
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.loc[TAU, ["above_0", "above_2_fold"]] = np.nan
        table.attrs["interval"] = f"{options.interval} equal-tailed"
        return table.rename_axis("effect")

    def by_study(self) -> pd.DataFrame:
        """One row per study with lymphodepletion: its effect, and the source.

        Columns: arm ("Flu", "Cy", "Flu/Cy" or a mixture), n (largest number behind a fact), facts
        (kinds), and the effect's median and interval as in `summary`.
        """
        rows = []
        d, fitted = self.draws, self.model.table
        for i, study in enumerate(self.model.studies):
            here = fitted[fitted["study"] == study]
            flu, cy = here["flu"].max(), here["cy"].max()
            if not flu + cy:
                continue
            of_flu, of_cy = d["flu"] + d["tau"] * d["u"][:, i], d["cy"] + d["tau"] * d["v"][:, i]
            arm = {(1, 0): "Flu", (0, 1): "Cy", (1, 1): "Flu/Cy"}.get((flu, cy), "Flu or Flu/Cy")
            about = {"study": study, "arm": arm, "n": int(here["n"].max())}
            about["facts"] = ", ".join(dict.fromkeys(here["kind"]))
            on_top = d["left"] if flu else 1.0
            rows.append(about | _row(flu * of_flu + cy * on_top * of_cy))
        return pd.DataFrame(rows).set_index("study")

    @cached_property
    def _left_out(self) -> pd.DataFrame:
        chains, s = 2, self.settings
        rows = self.model.table["study"].to_numpy()
        weights = [
            np.where(rows == study, 0.0, self.model.data()["weight"])
            for study in self.model.studies
            for _ in range(chains)
        ]
        samples = one_chain_each(
            lambda data: from_numpyro(self.model.numpyro_model, data),
            {"weight": np.array(weights)},
            draws=s["draws"],
            tune=s["tune"] // 2,
            seed=s["seed"] + 1,
            target_accept=s["target_accept"],
            progress=s["progress"],
        )
        every = lymphodepletion_effects(self.draws)
        rhat: Callable[[np.ndarray], SupportsFloat] = az.rhat
        table = []
        for i, study in enumerate(self.model.studies):
            mine = slice(i * chains, (i + 1) * chains)
            without = lymphodepletion_effects({k: x[mine] for k, x in samples.items()})
            for key, name in EFFECTS.items():
                x = without[key].ravel()
                moved = (np.median(x) - np.median(every[key])) / np.std(every[key])
                factor = 10 ** (np.median(x) - np.median(every[key]))
                entry = {"left_out": study, "effect": name} | _row(x)
                entry |= {"times": factor, "moved_sd": moved, "rhat": float(rhat(without[key]))}
                table.append(entry)
        return pd.DataFrame(table).set_index(["left_out", "effect"])

    def leave_one_out(self) -> pd.DataFrame:
        """Refits without each study in turn: what becomes of every effect.

        Rows: (left_out, effect). Columns: the effect without the study, as in `summary`; `times`,
        the factor by which its median changes; `moved_sd`, that change in posterior SDs of the full
        fit; and R-hat of the refit's two chains. Computed once.
        """
        return self._left_out.copy()

    def sensitivity(self) -> pd.DataFrame:
        """Power-scaling sensitivity of the effects to prior and likelihood: see `power_scaling`.

        Scaled are the priors of the model's own parameters (`model.priors`), together; the
        distributions of products and studies around them are part of the model.
        """
        log_prior = sum(
            np.asarray(p.log_prob(self.draws[name])).reshape(len(self.draws[name]), -1).sum(1)
            for name, p in self.model.priors.items()
        )
        named = {name: lymphodepletion_effects(self.draws)[key] for key, name in EFFECTS.items()}
        log_likelihood = self.draws["log_likelihood"]
        return power_scaling(named, np.asarray(log_prior), log_likelihood, alphas=WIDE)

    @property
    def sentence(self) -> str:
        """Conclusions in words, from the numbers of `summary`."""
        return _sentence(self.summary(), self.model, self.prior)

    def plot(self) -> Figure:
        """Forest plot: the effect in each study and on average, with the prior."""
        figure: Figure = late("carpk.plot.evidence")(self)
        return figure

    def __repr__(self) -> str:
        s, m = self.settings, self.model
        kept_out = len(self.table) - len(m.table)
        what = (
            f"Lymphodepletion: {len(m.table)} facts of {len(m.studies)} studies ({kept_out} facts "
            f"kept out, with reasons in the table); {s['chains']} chains of {s['draws']} draws, "
            f"seed {s['seed']}; factor on expansion, median and {options.interval} "
            "equal-tailed interval:"
        )
        table = self.summary().to_string(float_format="{:.2g}".format, na_rep="")
        return f"{self.verdict}\n{what}\n{table}\n{self.sentence}"


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


def _flat(draws: xr.Dataset) -> dict[str, np.ndarray]:
    return {str(k): x.values.reshape(-1, *x.shape[2:]) for k, x in draws.data_vars.items()}


def lymphodepletion_effects(draws: Draws) -> dict[str, np.ndarray]:
    """The average effects [log10] that the question is about."""
    flu, cy, added = draws["flu"], draws["cy"], draws["left"] * draws["cy"]
    return {"flu": flu, "cy": cy, "added": added, "flu_cy": flu + added}


def _another(draws: Draws) -> np.ndarray:
    """Flu/Cy in a study that is not in the table: one draw from the distribution of studies."""
    u, v = np.random.default_rng(0).normal(size=(2, len(draws["tau"])))
    cy = draws["cy"] + draws["tau"] * v
    both: np.ndarray = draws["flu"] + draws["tau"] * u + draws["left"] * cy
    return both


def _named(draws: Draws) -> dict[str, np.ndarray]:
    """The effects by their names in tables."""
    each = lymphodepletion_effects(draws)
    return {EFFECTS[key]: x for key, x in each.items()} | {ANOTHER: _another(draws)}


def _row(x: np.ndarray, before: np.ndarray | None = None) -> dict[str, float]:
    """Columns of a summary: log10 and fold, median and interval."""
    low, mid, high = np.quantile(x, options.interval.with_median)
    row = {"median": mid} | dict(zip(options.interval.columns, (low, high), strict=True))
    row |= {"fold": 10**mid, "fold_low": 10**low, "fold_high": 10**high}
    row |= {"above_0": np.mean(x > 0), "above_2_fold": np.mean(x > TWOFOLD)}
    return row if before is None else row | {"sd_ratio": np.std(x) / np.std(before)}


def _sentence(summary: pd.DataFrame, bound: Model, prior: Draws) -> str:
    both, added, flu = (summary.loc[EFFECTS[k]] for k in ("flu_cy", "added", "flu"))
    believed = _row(lymphodepletion_effects(prior)["added"])
    raises = "raises" if both["above_0"] > SURE else "may raise"
    p = added["above_2_fold"]
    split = "Known is" if p > SURE or p < 1 - SURE else "Not known is"
    rows = bound.table[bound.table["flu"] == 1].groupby("study")["cy"]
    apart = any({0, 1} <= set(arms) for _, arms in rows)
    return (
        f"Flu/Cy {raises} expansion: {span(both)} on average over studies (P = "
        f"{both['above_0']:.2f} that it raises it), {span(summary.loc[ANOTHER])} "
        f"in another study; Flu alone {span(flu)} (P = {flu['above_0']:.2f}). {split} how much "
        f"of it is Cy: added to Flu, {span(added)}, where the prior alone says {span(believed)}; "
        f"the probability that Cy at least doubles expansion is {p:.2f}, against "
        f"{believed['above_2_fold']:.2f} before the facts." + ("" if apart else UNSPLIT)
    )


def span(row: Any, unit: str = "-fold") -> str:
    """ "60-fold (8 to 500)", to two digits, of a row of `Evidence.summary`."""
    mid, low, high = (f"{float(f'{row[c]:.1e}'):,.12g}" for c in ("fold", "fold_low", "fold_high"))
    return f"{mid}{unit} ({low} to {high})"

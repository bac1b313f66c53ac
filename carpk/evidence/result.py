"""`Evidence`: a fit of published facts, and what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import xarray as xr

from carpk._arviz import az, group
from carpk._late import late
from carpk._options import options
from carpk._tables import as_frame
from carpk._types import Draws
from carpk.checks.powers import WIDE, power_scaling
from carpk.evidence.effects import (
    ANOTHER,
    EFFECTS,
    TAU,
    lymphodepletion_effects,
    named,
    row_of,
    span,
)
from carpk.evidence.model import Model
from carpk.inference.nuts import from_numpyro, one_chain_each
from carpk.verdict.judge import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

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
        return named(self.prior)

    def summary(self) -> pd.DataFrame:
        """One row per effect: log10 of the factor on expansion, and the factor (fold).

        Columns: median and equal-tailed interval on both scales, the probabilities that the
        effect is above 0 and above twofold, and the posterior SD over the prior SD (1: the facts
        say nothing).
        "Flu/Cy, another study" is what to expect of a study that is not in the table; `tau` is the
        SD between studies of one drug's effect.
        """
        after = named(self.draws)
        before = self.prior_effects()
        rows = [{"effect": name} | row_of(x, before[name]) for name, x in after.items()]
        tau = {"effect": TAU} | row_of(self.draws["tau"], self.prior["tau"])
        rows.append(tau | {"above_0": np.nan, "above_2_fold": np.nan})
        table = as_frame(rows, index="effect")
        table.attrs["interval"] = f"{options.interval} equal-tailed"
        return table

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
            rows.append(about | row_of(flu * of_flu + cy * on_top * of_cy))
        return as_frame(rows, index="study")

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
                entry = {"left_out": study, "effect": name} | row_of(x)
                entry |= {"times": factor, "moved_sd": moved, "rhat": float(rhat(without[key]))}
                table.append(entry)
        return as_frame(table, index=["left_out", "effect"])

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
        every = lymphodepletion_effects(self.draws)
        effects = {EFFECTS[key]: x for key, x in every.items()}
        log_likelihood = self.draws["log_likelihood"]
        return power_scaling(effects, np.asarray(log_prior), log_likelihood, alphas=WIDE)

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


def _flat(draws: xr.Dataset) -> dict[str, np.ndarray]:
    return {str(k): x.values.reshape(-1, *x.shape[2:]) for k, x in draws.data_vars.items()}


def _sentence(summary: pd.DataFrame, bound: Model, prior: Draws) -> str:
    both, added, flu = (summary.loc[EFFECTS[k]] for k in ("flu_cy", "added", "flu"))
    believed = row_of(lymphodepletion_effects(prior)["added"])
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

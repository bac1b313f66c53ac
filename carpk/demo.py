"""The main job: three published cohorts, three posteriors, side by side.

Fits the piecewise curve to what was published of axi-cel (medians and quartiles by day), tisa-cel
(geometric means of Cmax, AUC and half-life) and cilta-cel (means of the same), and writes figures,
tables and NetCDF files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from carpk import _files, plot
from carpk._options import options
from carpk._tables import as_frame
from carpk.checks import posterior_predictive, prior_predictive
from carpk.inference.fit import fit
from carpk.inference.result import Fit
from carpk.inference.saving import save_or_rescue
from carpk.library.models import load_model
from carpk.library.studies import load_study
from carpk.population.population import Population

if TYPE_CHECKING:
    import pandas as pd

TARGET_ACCEPT = {"zuma1_moffitt": 0.98}  # levels by day make a posterior with sharper corners
WHY = """\
Both are tisa-cel in B-ALL. They need not agree: Stein's 90 patients are all patients, the fit
here stands at the responders of a later data cut. The label prints no level by day: the
contraction (t_alpha) rests on the ratio of AUC0-28d to Cmax alone, and nothing printed and fitted
reaches beyond day 28, so persistence (fb, t_beta) is the prior's, which is liso-cel's and
Stein's. The printed Cmax is the highest of several noisy samples: assay noise is part of its
spread, and both fits have to take it out. The printed half-lives lie between the two phases, as a
regression over both does; they are compared in eliana_ensign_facts.png."""
VARIES = ["cmax", "tmax", "t_alpha", "fb"]
ROWS = ["cmax", "tmax", "t_double", "t_alpha", "t_beta", "fb"]


def populations() -> dict[str, Population]:
    """Study -> population model. Priors are the model file's own, which are weak."""
    cells = load_model("piecewise", output="car_t", unit="cells/µL", cmax=50.0)
    copies = load_model("piecewise", output="transgene", unit="copies/µg", cmax=24_000.0)
    by_response = {"cmax": ["response"], "tmax": ["response"], "t_alpha": ["response"]}
    return {
        "zuma1_moffitt": Population(cells, varies=VARIES),
        # Means and variances of logs need fewer virtual patients than quartiles do.
        "eliana_ensign": Population(
            copies, varies=VARIES, covariates=by_response, virtual_patients=128
        ),
        "cartitude1": Population(copies, varies=VARIES, virtual_patients=128),
    }


def run(
    out: Path,
    *,
    seed: int = 1,
    draws: int = 1000,
    tune: int = 1000,
    chains: int = 4,
    progress: bool = True,
    say: Callable[[str], object] = print,
) -> dict[str, Fit]:
    """Fit every study, write everything to `out`, and return the fits."""
    _files.require_folder(out)
    fits = {}
    start = time.monotonic()
    for name, population in populations().items():
        study = load_study(name)
        say(f"\n{study}\n")
        result = fit(
            population,
            study,
            draws=draws,
            tune=tune,
            chains=chains,
            seed=seed,
            target_accept=TARGET_ACCEPT.get(name, 0.95),
            progress=progress,
        )
        say(f"{result}\n")
        save_or_rescue(result, out / f"{name}.nc")
        _files.write(out / f"{name}.csv", result.summary().to_csv())
        figures(result, out, name, seed)
        fits[name] = result
    _files.write(out / "side_by_side.csv", comparison(fits).to_csv())
    say(
        f"Side by side: typical value ({options.interval} equal-tailed interval), and spread "
        "between patients\n"
    )
    say(comparison(fits).to_string())
    say("\nTisa-cel: this fit of cohort summaries beside Stein 2019, fitted to the patients\n")
    say(beside_stein(fits["eliana_ensign"]).to_string(float_format="{:.3g}".format))
    say(f"\n{WHY}")
    say(f"\n{time.monotonic() - start:.0f} s; figures, tables and posteriors are in {out}/")
    return fits


def figures(result: Fit, out: Path, name: str, seed: int) -> None:
    """Predictive bands, published summaries against replicates, posterior against prior."""
    prior = prior_predictive(result.population, result.data, seed=seed)
    posterior = posterior_predictive(result, seed=seed)
    for kind, figure in {
        "bands": plot.predictive([prior, posterior]),
        "summaries": plot.summaries(posterior),
        "prior_posterior": plot.prior_posterior(result),
    }.items():
        _files.write_figure(out / f"{name}_{kind}.png", figure, dpi=130)
        plt.close(figure)


def comparison(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """One column per study, one row per quantity, numbers as text."""
    low, high = options.interval.columns
    columns = {}
    for name, result in fits.items():
        table = result.summary()
        column = {}
        for row in ROWS:
            r = table.loc[row]
            column[f"{row} [{r['unit'] if row != 'cmax' else 'assay'}]"] = (
                f"{r['median']:.3g} ({r[low]:.3g}-{r[high]:.3g})"
            )
        for row in VARIES:
            r = table.loc[row]
            column[f"spread of {row} (SD of log)"] = (
                f"{r['iiv_sd']:.2g} ({r['iiv_low']:.2g}-{r['iiv_high']:.2g})"
            )
        columns[f"{name} [{result.population.model.units[result.bound.output]}]"] = column
    return as_frame(columns)


def beside_stein(result: Fit) -> pd.DataFrame:
    """This fit's responders beside Stein 2019's population: typical values and spread."""
    stein = load_model("stein2019")
    params = stein.params()
    typical = {name: float(np.asarray(value)) for name, value in params.items()}
    info = stein.params.info()
    theirs: dict[str, tuple[float, float | None]] = {
        "cmax": (typical["cmax"], info["cmax"].iiv),
        "tmax": (typical["tmax"], info["tmax"].iiv),
        "t_double": (float(stein.derived["t_double"][0](params)), None),
        "t_alpha": (float(stein.derived["t_alpha"][0](params)), info["alpha"].iiv),
        "fb": (typical["fb"], info["fb"].iiv),
        "t_beta": (float(stein.derived["t_beta"][0](params)), info["beta"].iiv),
        "sigma": (0.56, None),
    }
    low, high = options.interval.columns
    table = result.summary()
    rows = []
    for name, (value, spread) in theirs.items():
        r = table.loc[name]
        rows.append(
            {
                "quantity": name,
                "here": r["median"],
                "low": r[low],
                "high": r[high],
                "stein2019": value,
                "inside": "yes" if r[low] <= value <= r[high] else "no",
                "spread_here": r["iiv_sd"],
                "spread_stein2019": np.nan if spread is None else spread,
            }
        )
    return as_frame(rows, index="quantity")

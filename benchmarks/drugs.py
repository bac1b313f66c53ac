"""The time to fit drugs by `laplace`, over that of a first call to `jax.jit` on their likelihood.

    python benchmarks/drugs.py [--rounds 3] [--out docs/drugs.md]

Two designs in closed form, one compartment with first-order absorption: theophylline-like (12
patients, 11 samples) and warfarin-like (32 patients, 8 samples). All data are simulated, with the
values in examples/data/README.md; priors of typical values lie around rounded ones, as a user has
them from a label: around the placeholders of the model file, the mode of the warfarin-like design
is not found, and the fit says so. Every measurement is a process of its own, without JAX's cache of
compiled code; times include compiling, but not imports.
"""

import argparse
import dataclasses
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd

import carpk as ck
from carpk.inference.density import LogDensity


@dataclasses.dataclass(frozen=True)
class Design:
    """Typical CL [L/h], V [L] and ka [1/h], and the SDs of their logarithms."""

    patients: int
    hours: tuple[float, ...]
    dose: float  # mg
    typical: tuple[float, float, float]
    spread: tuple[float, float, float]
    cv: float  # of the residual error
    expected: tuple[float, float, float]  # medians of the priors of the typical values


DESIGNS = {
    "theophylline-like": Design(
        12,
        (0.25, 0.5, 1, 2, 3, 4, 5, 7, 9, 12, 24),
        320.0,
        (2.8, 32.4, 1.6),
        (0.17, 0.17, 0.63),
        0.1,
        (3.0, 30.0, 1.0),
    ),
    "warfarin-like": Design(
        32,
        (0.5, 1, 2, 6, 24, 36, 72, 120),
        70.0,
        (0.15, 8.0, 1.0),
        (0.26, 0.14, 0.77),
        0.1,
        (0.1, 10.0, 1.0),
    ),
}


def simulated(design: Design) -> ck.Dataset:
    """Oral single doses; concentrations in mg/L with a proportional error."""
    rng, t = np.random.default_rng(2026), np.array(design.hours)
    own = np.array(design.typical) * np.exp(rng.normal(0, design.spread, (design.patients, 3)))
    CL, V, ka = own.T[:, :, None]
    conc = design.dose * ka / (V * (ka - CL / V)) * (np.exp(-CL / V * t) - np.exp(-ka * t))
    seen = conc * np.exp(design.cv * rng.normal(size=conc.shape))
    who = np.arange(design.patients)
    dose = {"patient": who, "time": 0.0, "product": "drug", "amount": design.dose, "unit": "mg"}
    samples = {
        "patient": np.repeat(who, t.size),
        "time": np.tile(t, design.patients),
        "analyte": "conc",
        "value": seen.ravel(),
        "unit": "mg/L",
        "censored": 0,
    }
    frames = {"doses": pd.DataFrame(dose), "observations": pd.DataFrame(samples)}
    return ck.Dataset.from_frames(**frames, time_unit="hour")


def measured(name: str) -> tuple[float, float, str]:
    """Seconds of the first call of the likelihood and of the fit, and the fit's grade."""
    jax.config.update("jax_enable_compilation_cache", False)
    model, data = ck.disposition.one_compartment("first_order"), simulated(DESIGNS[name])
    names, (CL, V, ka) = ("CL", "V", "ka"), DESIGNS[name].expected
    medians = zip(names, (24 * CL, V, 24 * ka), strict=True)  # per day
    priors = {parameter: dist.LogNormal(np.log(median), 1.0) for parameter, median in medians}
    pop = ck.Population(model, varies=names, residual=ck.Proportional(), priors=priors)
    density = LogDensity(pop.bind(data))
    u, x = jnp.zeros(density.outer), jnp.zeros((density.patients, density.inner))
    start = time.perf_counter()
    jax.block_until_ready(jax.jit(lambda u, x: density.log_joint(u, x, None))(u, x))
    first = time.perf_counter() - start
    start = time.perf_counter()
    fit = ck.fit(pop, data, method="laplace", seed=1, progress=False)
    return first, time.perf_counter() - start, fit.verdict.grade


def in_processes(rounds: int) -> dict[str, list[tuple[float, float, str]]]:
    """The measurements of every design, in turn."""
    found: dict[str, list[tuple[float, float, str]]] = {name: [] for name in DESIGNS}
    for _ in range(rounds):
        for name, done in found.items():
            fresh = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=fresh) as pool:
                done.append(pool.submit(measured, name).result())
    return found


def page(found: dict[str, list[tuple[float, float, str]]]) -> str:
    """The table as a page."""
    lines = []
    for name, done in found.items():
        first, fit = (statistics.median(each[i] for each in done) for i in (0, 1))
        ratio = statistics.median(each[1] / each[0] for each in done)
        grades = ", ".join(dict.fromkeys(each[2] for each in done))
        lines.append(f"| {name} | {len(done)} | {first:.1f} | {fit:.1f} | {ratio:.1f} | {grades} |")
    return "\n".join(
        [
            "# Time to fit a drug\n",
            f"Written on {date.today()} by `python benchmarks/drugs.py --out docs/drugs.md`; "
            "simulated data. *first call*: of the joint",
            "density of parameters and data through `jax.jit`, compiling included; *fit*: "
            '`ck.fit(..., method="laplace")` from data',
            "to verdict, compiling included; medians over runs, a process each.\n",
            "| design | runs | first call, s | fit, s | fit over first call | verdict |",
            "|---|--:|--:|--:|--:|---|",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each design")
    parser.add_argument("--out", type=Path, help="page to write")
    asked = parser.parse_args()
    text = page(in_processes(asked.rounds))
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

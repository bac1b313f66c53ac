"""The usual data, sampled with default priors and settings; see README.md.

    python benchmarks/usual_data.py --minutes 30    goes on where the last run stopped
    python benchmarks/usual_data.py --table         writes what there is into README.md

100 simulated data sets: expansion curves of 3 to 40 patients who are followed for 14 to 365 days,
with up to a third of the samples below the LLOQ, with and without samples before the peak, at one
dose.
Every fit appends a line to `usual_data.jsonl`. Delete the file to measure anew.
"""

import argparse
import datetime
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from solver import README, machine, table
from verdict import append, code, lines

import carpk as ck

DONE = Path(__file__).with_suffix(".jsonl")
BEGIN = "<!-- results: written by usual_data.py -->"
END = "<!-- end of results of usual_data.py -->"
DATA_SETS = 100
MODELS = ("piecewise", "stein2019", "ogasawara2021") * 3 + ("kimmel2021",)  # in turn
OMEGAS = {  # what varies between patients: SD on the estimation scale, assumed
    "piecewise": {"cmax": 0.65, "tmax": 0.2, "t_alpha": 0.5},
    "stein2019": {"cmax": 0.65, "tmax": 0.2},
    "ogasawara2021": {"cmax": 0.65, "tmax": 0.2, "t_alpha": 0.5},
    "kimmel2021": {"KC": 0.3, "rhoC": 0.3},
}
PATIENTS = (3, 5, 10, 20, 40)
FOLLOW_UP = (14, 28, 60, 180, 365)  # days
DAYS = (2, 4, 6, 8, 10, 12, 14, 17, 21, 28, 45, 60, 90, 120, 180, 270, 365)
FIRST = 10  # day of the first sample where none is before the peak
BELOW = (0.0, 0.1, 0.33)  # share of samples below the LLOQ
SIGMA = 0.4  # residual SD of ln level, assumed
DOSE = 1e8  # cells
ESS_MIN = 1000  # what is asked of the worst parameter


@dataclass(frozen=True)
class Design:
    number: int
    model: str
    patients: int
    follow_up: int
    below: float
    expansion: bool  # samples before the peak

    @classmethod
    def of(cls, number: int) -> "Design":
        rng = np.random.default_rng([number, 17])
        model = MODELS[number % len(MODELS)]
        most = 2 if model == "kimmel2021" else len(PATIENTS) - 1
        return cls(
            number,
            model,
            PATIENTS[rng.integers(most + 1)],
            FOLLOW_UP[rng.integers(len(FOLLOW_UP))],
            BELOW[rng.integers(len(BELOW))],
            bool(rng.random() < 0.75),
        )


def simulated(design: Design) -> ck.Dataset:
    """Patients around the typical one of the model file, each seen on the same days."""
    rng = np.random.default_rng([design.number, 1])
    model = ck.load_model(design.model)
    output = next(iter(model.outputs))
    first = 0 if design.expansion else FIRST
    days = np.array([t for t in DAYS if first <= t <= design.follow_up], float)
    info, levels = model.params.info(), []
    for _ in range(design.patients):
        p = model.params()
        for name, omega in OMEGAS[design.model].items():
            scale = info[name].transform
            value = scale.inverse(scale.forward(getattr(p, name)) + omega * rng.standard_normal())
            p = p.replace(**{name: float(value)})
        if isinstance(model, ck.ODEModel):
            clean = ck.solve(model, ck.Regimen.cells(0, DOSE), days, p)[output]
        else:
            clean = model.level(output, jnp.asarray(days), p)
        levels.append(np.asarray(clean) * np.exp(SIGMA * rng.standard_normal(days.size)))
    value = np.array(levels)
    lloq = float(np.quantile(value, design.below)) if design.below else np.nan
    names = [f"p{i + 1}" for i in range(design.patients)]
    observations = pd.DataFrame(
        {
            "patient": np.repeat(names, days.size),
            "time": np.tile(days, design.patients),
            "value": np.fmax(value, lloq).ravel(),
            "censored": (value < lloq).ravel().astype(int),
        }
    ).assign(analyte=output, unit=model.units[output], lloq=lloq)
    doses = pd.DataFrame({"patient": names}).assign(
        time=0.0, product="car_t", amount=DOSE, unit="cells", duration=0.0
    )
    return ck.Dataset.from_frames(doses=doses, observations=observations, name="simulated")


def fitted(design: Design) -> dict:
    """One fit, as a row."""
    population = ck.Population(ck.load_model(design.model), varies=list(OMEGAS[design.model]))
    data, started = simulated(design), time.perf_counter()
    fit = ck.fit(population, data, seed=1, progress=False)
    seconds = time.perf_counter() - started
    stats, rows = fit.idata["sample_stats"], fit.summary()
    return asdict(design) | {
        "seconds": round(seconds, 1),
        "divergences": int(np.sum(np.asarray(stats["diverging"]))),
        "draws": int(np.asarray(stats["diverging"]).size),
        "gradients": round(float(np.mean(np.asarray(stats["n_steps"]))), 1),
        "ess": round(float(rows["ess"].min())),
        "worst": str(rows["ess"].idxmin()),
        "rhat": round(float(rows["rhat"].max()), 4),
        "grade": fit.verdict.grade,
        "cure": bool(fit.settings.get("cure")),
        "why": [text[:160] for text in fit.verdict.troubles][:2],
        "code": code(),
        "date": f"{datetime.date.today()}",
    }


def known() -> list[dict]:
    """The rows so far."""
    return sorted(lines(DONE), key=lambda row: row["number"])


def go_on(minutes: float) -> None:
    """Fit what is not fitted yet."""
    started = time.perf_counter()
    done = {row["number"] for row in known()}
    for number in range(DATA_SETS):
        if number in done:
            continue
        if time.perf_counter() - started > 60 * minutes:
            break
        row = fitted(Design.of(number))
        append(DONE, row)
        print(row, flush=True)
        jax.clear_caches()


HEAD = [
    "",
    "fits",
    "no divergence",
    f"worst ESS above {ESS_MIN:,}",
    "not DO NOT TRUST",
    "cured themselves",
    "median seconds",
    "gradients per draw",
]


def told(rows: list[dict]) -> str:
    """The table, by model."""
    groups = {name: [r for r in rows if r["model"] == name] for name in dict.fromkeys(MODELS)}
    rates = []
    for name, each in {**groups, "all": rows}.items():
        if not each:
            continue
        good = {
            "divergence": sum(not r["divergences"] for r in each),
            "ess": sum(r["ess"] > ESS_MIN for r in each),
            "grade": sum(r["grade"] != "DO NOT TRUST" for r in each),
            "cure": sum(r["cure"] for r in each),
        }
        seconds, gradients = (
            statistics.median(r[k] for r in each) for k in ("seconds", "gradients")
        )
        rates.append(
            [name, str(len(each)), *map(str, good.values()), f"{seconds:.0f}", f"{gradients:.0f}"]
        )
    left = [
        r for r in rows if r["divergences"] or r["ess"] <= ESS_MIN or r["grade"] == "DO NOT TRUST"
    ]
    each = [
        f"- {r['model']}, {r['patients']} patients to day {r['follow_up']}, {r['below']:.0%} below "
        "the LLOQ"
        f"{'' if r['expansion'] else ', none before the peak'}: divergences {r['divergences']}, "
        f"ESS {r['ess']:,} ({r['worst']}), R-hat {r['rhat']:.3f}, {r['grade']}"
        for r in left
    ]
    now = code()
    earlier = sum(r.get("code") != now for r in rows)
    head = (
        f"{len(rows)} of {DATA_SETS} data sets, on a machine with other work; {earlier} of them "
        "fitted by an earlier version of carpk."
    )
    below = "\n".join(["Those that miss one of the three:", "", *each]) if each else ""
    return "\n\n".join(part for part in (head, table(HEAD, rates), below) if part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="no fit begins after these")
    parser.add_argument("--table", action="store_true", help="write README.md; fit nothing")
    args = parser.parse_args()
    if not args.table:
        go_on(args.minutes)
    text = f"### K. The usual data\n\n{machine(('carpk', 'jax', 'numpyro'))}\n\n{told(known())}"
    print(text)
    if args.table:
        before, rest = README.read_text().split(BEGIN)
        README.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

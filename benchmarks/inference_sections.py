"""The measurements of `inference.py`, one contender per process.

    python benchmarks/inference_sections.py density stan small 0 result.json
    python benchmarks/inference_sections.py posterior numpyro small 1 result.json [--quick]
    python benchmarks/inference_sections.py piecewise laplace 200 1 result.json
    python benchmarks/inference_sections.py niche nuts 14 1 result.json

that is: what, who, size, seed. Writes JSON: of "density" the ln densities at the points of
`hierarchy.points`; of the others seconds, and of every population parameter mean, SD, median, their
Monte Carlo standard errors, effective sample sizes and R-hat, all by ArviZ for every contender.
"""

import argparse
import json
import warnings
from pathlib import Path

import hierarchy
import inference_peers
import numpy as np
from hierarchy import HIERARCHIES, log_density, simulated
from inference_peers import Run, Schedule

POINTS = 6  # beside the truth
FULL, QUICK = Schedule(1000, 1000, 4), Schedule(20, 20, 2)
EFFECTS = ("eta_",)  # how names of random effects begin


def one(x: np.ndarray) -> dict[str, float]:
    """Everything about draws (chain, draw) of one number."""
    import arviz as az

    return {
        "mean": float(x.mean()),
        "sd": float(x.std(ddof=1)),
        "median": float(np.median(x)),
        "mcse_mean": float(az.mcse(x, method="mean")),
        "mcse_sd": float(az.mcse(x, method="sd")),
        "bulk": float(az.ess(x, method="bulk")),
        "tail": float(az.ess(x, method="tail")),
        "rhat": float(az.rhat(x)),
    }


def summarized(run: Run) -> dict:
    """A `Run` in numbers; random effects enter by their largest R-hat."""
    import arviz as az

    parameters = {k: one(x) for k, x in run.draws.items() if x.ndim == 2}
    effects = [
        x[(..., *index)]
        for name, x in run.draws.items()
        if name.startswith(EFFECTS)
        for index in np.ndindex(x.shape[2:])
    ]
    return {
        "total": run.total,
        "compiling": run.compiling,
        "divergences": run.divergences,
        "steps": run.steps,
        "draws": int(np.prod(next(iter(run.draws.values())).shape[:2])),
        "parameters": parameters,
        "effects_rhat": float(np.max([az.rhat(x) for x in effects], initial=0.0)),
    }


def density(who: str, size: str) -> dict:
    h = HIERARCHIES[size]
    points = hierarchy.points(h, POINTS)
    if who == "exact":
        observed = simulated(h)
        return {"density": [log_density(h, observed, point) for point in points]}
    if who == "carpk":
        import inference_carpk

        return {"density": inference_carpk.carpk_density(h, points)}
    if who == "numpyro":
        return {"density": inference_peers.numpyro_density(h, points)}
    built, _ = inference_peers.stan_built(h, 1)
    return {"density": inference_peers.stan_density(h, points), "built": built}


def posterior(who: str, size: str, seed: int, schedule: Schedule) -> dict:
    h = HIERARCHIES[size]
    if who == "carpk":
        import inference_carpk

        run = inference_carpk.carpk_run(h, schedule, seed)
    elif who == "numpyro":
        run = inference_peers.numpyro_run(h, schedule, seed)
    else:
        run = inference_peers.stan_run(h, schedule, seed)
    return summarized(run)


def carpk_alone(what: str, method: str, size: int, seed: int, schedule: Schedule) -> dict:
    """The sections without peers, by either method."""
    import inference_carpk

    run = {"piecewise": inference_carpk.piecewise_run, "niche": inference_carpk.niche_run}[what]
    try:
        return summarized(run(size, method, schedule, seed))
    except inference_carpk.NotAvailable as refusal:
        return {"not available": str(refusal)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("density", "posterior", "piecewise", "niche"))
    parser.add_argument("who", help="exact, stan, numpyro, carpk; or a method: laplace, nuts")
    parser.add_argument("size", help="name of a hierarchy; number of patients; of niche, per arm")
    parser.add_argument("seed", type=int)
    parser.add_argument("result", type=Path)
    parser.add_argument("--quick", action="store_true", help="short chains, to see that it runs")
    args = parser.parse_args()
    schedule = QUICK if args.quick else FULL
    warnings.simplefilter("ignore")  # too few draws for R-hat, few cells in a dose
    if args.what == "density":
        answer = density(args.who, args.size)
    elif args.what == "posterior":
        answer = posterior(args.who, args.size, args.seed, schedule)
    else:
        answer = carpk_alone(args.what, args.who, int(args.size), args.seed, schedule)
    args.result.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()

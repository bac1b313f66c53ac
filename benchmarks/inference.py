"""Effective draws per second of carpk, Stan, and NumPyro with Diffrax; see README.md.

    python benchmarks/inference.py                    measures, prints, writes into README.md
    python benchmarks/inference.py --section small    one section anew
    python benchmarks/inference.py --quick            tiny sizes, prints only

Every contender runs in a process of its own, one after the other, on all cores. All data are
simulated.
"""

import argparse
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from hierarchy import LARGE, OMEGA, SIGMA, SMALL, TINY_ONE, Hierarchy
from inference_sections import FULL, POINTS, QUICK
from solver import README, machine, table

FOLDER = Path(__file__).resolve().parent
BEGIN, END = "<!-- results: written by inference.py -->", "<!-- end of results of inference.py -->"
PROGRAMS = {"stan": "Stan", "numpyro": "NumPyro + Diffrax", "carpk": "carpk"}
METHODS = ("laplace", "nuts")
LIBRARIES = (
    "carpk",
    "jax",
    "numpyro",
    "diffrax",
    "arviz",
    "numpy",
    "scipy",
    "pystan",
    "httpstan",
)
RHAT_MAX, ESS_MIN = 1.01, 400
LIMIT_HOURS = 3  # of one contender


@dataclass(frozen=True)
class Sizes:
    small: Hierarchy
    large: Hierarchy
    rounds: int
    piecewise: tuple[int, ...]
    niche: int  # patients per arm, at most


WHOLE = Sizes(SMALL, LARGE, 1, (50, 100, 200, 400), 10)
TINY = Sizes(TINY_ONE, TINY_ONE, 1, (3, 5), 1)


def last_error(text: str) -> str:
    """The last line that names an error, or the last."""
    lines = text.strip().splitlines() or ["no message"]
    return next((line for line in reversed(lines) if "Error: " in line), lines[-1])


class Contenders:
    """Runs contenders, each in a process of its own."""

    def __init__(self, folder: Path, quick: bool) -> None:
        self.folder, self.quick = folder, quick
        self.environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "false",
            "XDG_CACHE_HOME": str(folder),  # where PyStan looks for what it has compiled
        }

    def __call__(self, what: str, who: str, size: object, seed: int = 0) -> dict:
        """The answer of `inference_sections.py`, or {"failed": why}."""
        result = self.folder / "result.json"
        result.unlink(missing_ok=True)
        command = [sys.executable, str(FOLDER / "inference_sections.py"), what, who, str(size)]
        command += [str(seed), str(result)] + ["--quick"] * self.quick
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,  # PyStan's chains are processes of their own
        )
        try:
            _, errors = process.communicate(timeout=3600 * LIMIT_HOURS)
            good = process.returncode == 0
            answer = json.loads(result.read_text()) if good else {"failed": last_error(errors)}
        except BaseException as end:
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(end, subprocess.TimeoutExpired):
                raise
            answer = {"failed": f"not done after {LIMIT_HOURS} hours"}
        state = next((word for word in ("failed", "not available") if word in answer), "done")
        seconds = time.perf_counter() - started
        print(f"{what} {who} {size}: {state}, {seconds:.0f} s", file=sys.stderr, flush=True)
        return answer


# ---------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------


def usable(answer: dict) -> bool:
    return not {"failed", "not available"} & set(answer)


def why_not(answer: dict) -> str:
    if "failed" in answer:
        return f"failed: {answer['failed']}"
    return "not available"


def ess(of: dict) -> float:
    """The smaller of bulk and tail effective sample size of a parameter."""
    return min(of["bulk"], of["tail"])


def worst(answer: dict) -> tuple[str, float]:
    """The population parameter with the fewest effective draws, and how many it has."""
    name = min(answer["parameters"], key=lambda k: ess(answer["parameters"][k]))
    return name, ess(answer["parameters"][name])


def rhat(answer: dict) -> float:
    """The largest R-hat, of population parameters and random effects; NaN if any is."""
    each = [of["rhat"] for of in answer["parameters"].values()] + [answer["effects_rhat"]]
    return math.nan if any(math.isnan(x) for x in each) else max(each)


def trouble(answer: dict, ess_min: float = 0.0) -> str:
    """Why a run of chains does not count, or ""."""
    found = []
    if not rhat(answer) <= RHAT_MAX:
        found.append(f"R-hat {rhat(answer):.3f}")
    if answer["divergences"]:
        found.append(f"{answer['divergences']} divergences")
    if worst(answer)[1] < ess_min:
        found.append(f"ESS {worst(answer)[1]:.0f}")
    return ", ".join(found)


def rates(answer: dict) -> tuple[float, float]:
    """Effective draws per second of the worst parameter: sampling alone, and with compiling."""
    draws = worst(answer)[1]
    return draws / (answer["total"] - answer["compiling"]), draws / answer["total"]


def number(x: float, digits: int = 3) -> str:
    """`digits` significant digits, in full."""
    if not math.isfinite(x) or x == 0:
        return f"{x:g}"
    places = digits - 1 - math.floor(math.log10(abs(x)))
    return f"{round(x, places):,.{max(places, 0)}f}"


def score(a: dict, b: dict, what: str) -> float:
    """Difference of two means or SDs in Monte Carlo standard errors of the difference."""
    return abs(a[what] - b[what]) / math.hypot(a[f"mcse_{what}"], b[f"mcse_{what}"])


# ---------------------------------------------------------------------------------------------
# Sections
# ---------------------------------------------------------------------------------------------


def density(run: Contenders, h: Hierarchy, programs: Iterable[str]) -> tuple[str, float]:
    """A sentence on how far the log densities agree, and seconds that Stan took to compile."""
    exact = run("density", "exact", h.name)
    if "failed" in exact:
        return f"Log densities: reference {why_not(exact)}.", math.nan
    said, built = [], math.nan
    for who in programs:
        answer = run("density", who, h.name)
        if "failed" in answer:
            said.append(f"{PROGRAMS[who]} {why_not(answer)}")
            continue
        built = answer.get("built", built)
        offset = [x - y for x, y in zip(answer["density"], exact["density"], strict=True)]
        largest = max(abs(x - offset[0]) for x in offset)
        said.append(f"{PROGRAMS[who]} {largest:.1e}")
    text = (
        f"Before sampling, log posterior densities at {POINTS + 1} points, less that at the first, "
        f"against SciPy's (DOP853, rtol 1e-12), largest difference: {'; '.join(said)}."
    )
    return text, built


def described(h: Hierarchy) -> str:
    return (
        f"{h.patients} simulated patients with {len(h.problem.times)} observations each; random "
        f"effects of {', '.join(h.varies)} (simulated with SD {OMEGA}); without random effects "
        f"{', '.join(h.common) or 'none'}; residual SD {SIGMA}; {len(h.priors)} population "
        f"parameters and {h.patients * len(h.varies)} random effects are estimated."
    )


SAMPLING_HEAD = [
    "",
    "seed",
    "compiling, s",
    "sampling, s",
    "worst parameter",
    "its effective draws",
    "largest R-hat",
    "divergences",
    "gradients per draw",
    "effective draws/s, sampling",
    "effective draws/s, with compiling",
]


def sampling_row(name: str, seed: int, answer: dict, ess_min: float = 0.0) -> list[str]:
    if not usable(answer):
        return [name, str(seed), why_not(answer)] + [""] * (len(SAMPLING_HEAD) - 3)
    parameter, draws = worst(answer)
    steps = answer["steps"]
    bad = trouble(answer, ess_min)
    speeds = ["not converged"] * 2 if bad else [number(x) for x in rates(answer)]
    return [
        name,
        str(seed),
        f"{answer['compiling']:.1f}",
        f"{answer['total'] - answer['compiling']:.1f}",
        parameter,
        f"{draws:,.0f}",
        f"{rhat(answer):.3f}",
        str(answer["divergences"]),
        "–" if steps is None else f"{steps / answer['draws']:.1f}",
        *speeds,
    ]


def with_build(answer: dict, built: float) -> dict:
    """Stan's run with the seconds of its C++ compiler, which ran before."""
    if not usable(answer) or math.isnan(built):
        return answer
    sampling = answer["total"] - answer["compiling"]
    return {**answer, "compiling": built, "total": built + sampling}


def small(run: Contenders, sizes: Sizes) -> str:
    """One posterior in three programs."""
    h, schedule = sizes.small, QUICK if run.quick else FULL
    agreement, built = density(run, h, PROGRAMS)
    answers: dict[str, list[dict]] = {who: [] for who in PROGRAMS}
    for seed in range(1, sizes.rounds + 1):
        for who in PROGRAMS:
            answer = run("posterior", who, h.name, seed)
            answers[who].append(with_build(answer, built) if who == "stan" else answer)
    rows = [
        sampling_row(PROGRAMS[who], seed, answer)
        for who in PROGRAMS
        for seed, answer in enumerate(answers[who], 1)
    ]
    good = {
        who: [answer for answer in each if usable(answer) and not trouble(answer)]
        for who, each in answers.items()
    }
    said = []
    for i, what in enumerate(("sampling alone", "with compiling")):
        speeds = {
            who: statistics.median(rates(answer)[i] for answer in each)
            for who, each in good.items()
            if each
        }
        if "carpk" in speeds:
            said += [
                f"{what}, carpk gives {number(speeds['carpk'] / speed, 2)} times as many effective "
                f"draws per second as {PROGRAMS[who]}"
                for who, speed in speeds.items()
                if who != "carpk"
            ]
    ratios = "; ".join(said)
    parts = [
        described(h),
        f"{schedule.chains} chains, {schedule.tune} steps of adaptation and {schedule.draws} draws "
        "each. Sampling includes adaptation.",
        agreement,
        table(SAMPLING_HEAD, rows),
        f"Medians over runs that converged: {ratios}." if ratios else "",
        agreeing(h, {who: each[0] for who, each in good.items() if each}),
    ]
    return "\n\n".join(part for part in parts if part)


def agreeing(h: Hierarchy, answers: dict[str, dict]) -> str:
    """Means and SDs of every program that converged, and by how much they differ."""
    if len(answers) < 2:
        return "Fewer than two programs converged: no comparison of posteriors."
    rows, largest = [], {"mean": (0.0, ""), "sd": (0.0, "")}
    for name, (median, _) in h.priors.items():
        of = {who: answer["parameters"][name] for who, answer in answers.items()}
        scores = {}
        for what in largest:
            scores[what] = max(score(a, b, what) for a, b in combinations(of.values(), 2))
            largest[what] = max(largest[what], (scores[what], name))
        cells = [
            f"{number(x['mean'], 4)} ± {number(x['mcse_mean'], 1)}; "
            f"{number(x['sd'])} ± {number(x['mcse_sd'], 1)}"
            for x in of.values()
        ]
        rows.append([name, number(median), *cells, *(f"{scores[what]:.1f}" for what in largest)])
    head = ["", "simulated with", *(f"{PROGRAMS[who]}: mean; SD" for who in answers)]
    head += ["largest difference of means, in MCSE", "of SDs"]
    count = len(rows) * math.comb(len(answers), 2)
    note = (
        "Posterior means and SDs with Monte Carlo standard errors, of the first run of each that "
        f"converged. Largest difference: {largest['mean'][0]:.1f} standard errors of a mean "
        f"({largest['mean'][1]}), {largest['sd'][0]:.1f} of an SD ({largest['sd'][1]}), among "
        f"{count} comparisons each."
    )
    return f"{note}\n\n{table(head, rows)}"


def large(run: Contenders, sizes: Sizes) -> str:
    """A larger one, in carpk alone."""
    h, schedule = sizes.large, QUICK if run.quick else FULL
    agreement, _ = density(run, h, ["carpk"])
    seeds = range(1, sizes.rounds + 1)
    rows = [
        sampling_row("carpk", seed, run("posterior", "carpk", h.name, seed), ESS_MIN)
        for seed in seeds
    ]
    return "\n\n".join(
        [
            described(h),
            f"{schedule.chains} chains, {schedule.tune} steps of adaptation and {schedule.draws} "
            f"draws each, target_accept {h.target_accept:g}. Converged means R-hat at most "
            f"{RHAT_MAX}, at least {ESS_MIN} effective draws and no divergences.",
            agreement,
            table(SAMPLING_HEAD, rows),
        ]
    )


METHOD_HEAD = [
    "",
    "compiling, s",
    "rest, s",
    "all, s",
    "effective draws of the worst parameter",
    "converged",
    "largest difference of medians from NUTS, in its SDs",
    "SD over that of NUTS",
]


def against(answer: dict, nuts: dict) -> list[str]:
    """How far one posterior is from that by NUTS, over the population parameters."""
    apart, ratio = [], []
    for name, b in nuts["parameters"].items():
        a = answer["parameters"][name]
        apart.append((abs(a["median"] - b["median"]) / b["sd"], name))
        ratio.append((a["sd"] / b["sd"], name))
    ends = " to ".join(f"{value:.2f} ({name})" for value, name in (min(ratio), max(ratio)))
    return [f"{max(apart)[0]:.2f} ({max(apart)[1]})", ends]


def method_rows(label: str, answers: dict[str, dict]) -> list[list[str]]:
    rows = []
    for method, answer in answers.items():
        name = f"{label}{method}"
        if not usable(answer):
            rows.append([name, why_not(answer)] + [""] * (len(METHOD_HEAD) - 2))
            continue
        chains = method == "nuts"
        compared = ["", ""]
        if not chains and usable(answers["nuts"]):
            compared = against(answer, answers["nuts"])
        rows.append(
            [
                name,
                f"{answer['compiling']:.1f}",
                f"{answer['total'] - answer['compiling']:.1f}",
                f"{answer['total']:.1f}",
                f"{worst(answer)[1]:,.0f} ({worst(answer)[0]})" if chains else "–",
                (trouble(answer, ESS_MIN) or "yes") if chains else "–",
                *compared,
            ]
        )
    return rows


def slope(seconds: dict[int, float]) -> str:
    """Exponent of the cost in the number of patients."""
    if len(seconds) < 2:
        return "–"
    fitted = statistics.linear_regression(
        [math.log(n) for n in seconds], [math.log(x) for x in seconds.values()]
    )
    return f"{fitted.slope:.2f}"


def piecewise(run: Contenders, sizes: Sizes) -> str:
    """The closed form for many patients, by both methods."""
    rows: list[list[str]] = []
    spent: dict[str, dict[int, float]] = {method: {} for method in METHODS}
    for n in sizes.piecewise:
        answers = {method: run("piecewise", method, n, 1) for method in METHODS}
        rows += method_rows(f"{n} patients, ", answers)
        for method, answer in answers.items():
            if usable(answer):
                spent[method][n] = answer["total"] - answer["compiling"]
    slopes = ", ".join(f"{method} {slope(each)}" for method, each in spent.items())
    note = (
        "Simulated patients with 12 observations each; all six parameters estimated, four with "
        "random effects. From the call of `ck.fit` to the `Fit`; NUTS with "
        f"{(QUICK if run.quick else FULL).chains} chains. Slope of log time without compiling "
        f"against log patients (1 is proportional): {slopes}."
    )
    return f"{note}\n\n{table(METHOD_HEAD, rows)}"


def niche(run: Contenders, sizes: Sizes) -> str:
    """A model of differential equations on the data of a small trial, by both methods."""
    answers = {method: run("niche", method, sizes.niche, 1) for method in METHODS}
    note = (
        "14 simulated patients with 21 infusions of 1e8 cells/m², after Flu or Flu/Cy; cells and "
        "lymphocytes observed; five typical values, two random effects and two residual SDs "
        "estimated. From the call of `ck.fit` to the `Fit`."
    )
    return f"{note}\n\n{table(METHOD_HEAD, method_rows('', answers))}"


SECTIONS: dict[str, tuple[str, Callable[[Contenders, Sizes], str]]] = {
    "small": ("G. The same posterior in three programs", small),
    "large": ("H. A larger posterior, carpk alone", large),
    "piecewise": ("I. Closed form, many patients", piecewise),
    "niche": ("J. niche, individual patients", niche),
}


# ---------------------------------------------------------------------------------------------
# The README
# ---------------------------------------------------------------------------------------------


def written(readme: str, found: dict[str, str]) -> str:
    """The README with these sections between the markers; sections not in `found` stay."""
    head, rest = readme.split(BEGIN)
    old, tail = rest.split(END)
    parts = []
    for name, (title, _) in SECTIONS.items():
        start = f"### {title}\n"
        if name in found:
            parts.append(f"{start}\n{found[name]}")
        elif start in old:
            parts.append(start + old.split(start)[1].split("\n### ")[0].rstrip())
    return f"{head}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes; prints only")
    parser.add_argument("--section", choices=SECTIONS)
    args = parser.parse_args()
    sizes = TINY if args.quick else WHOLE
    with tempfile.TemporaryDirectory() as folder:
        run = Contenders(Path(folder), args.quick)
        for name in [args.section] if args.section else SECTIONS:
            title, section = SECTIONS[name]
            text = f"{machine(LIBRARIES)}\n\n{section(run, sizes)}"
            print(f"### {title}\n\n{text}\n", flush=True)
            if not args.quick:
                README.write_text(written(README.read_text(), {name: text}))


if __name__ == "__main__":
    main()

"""The measurements of the benchmark, one section per process; `solver.py` runs them.

    python benchmarks/sections.py forward result.json [--quick]

writes the results of a section as JSON. A contender that fails is a row with "failed".
"""

import argparse
import ctypes
import gc
import json
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import carpk_contenders
import forward_peers
import gradient_peers
import jax
import jax.numpy as jnp
import numpy as np
from operations import KINDS, nanoseconds, operations
from problems import FIVE_STATE, KIMMEL, Problem, errors, reference, sample

import carpk as ck

SEED = 2021  # of the patients who are simulated
CARPK_RTOLS = (1e-4, 1e-6)
CHECKED_RTOLS = (1e-3, 1e-4, 1e-5, 1e-6)
PEER_RTOLS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-9)
FAST_PEERS = ("numbalsoda lsoda", "numbalsoda dop853")  # they run all patients


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    patients: int
    slow_patients: int  # of slow peers
    gradient_patients: int
    repeats: int
    rounds: int
    scaling: tuple[int, ...]
    loops: int


FULL = Sizes(10_000, 500, 20, 101, 3, (20, 50, 200, 1_000, 2_000, 10_000), 2_000)
QUICK = Sizes(40, 10, 2, 2, 1, (5, 10, 200, 300), 50)


def reason(trouble: Exception) -> str:
    """The last line of what went wrong."""
    text = getattr(trouble, "stderr", None) or str(trouble) or type(trouble).__name__
    return text.strip().splitlines()[-1]


@dataclass
class Contender:
    """A solver with its settings, and what it did in each round.

    `run` gives the seconds and then the results. After a failure it is not run again.
    """

    name: str
    rtol: float
    run: Callable[[], tuple]
    patients: int
    seconds: list[float] = field(default_factory=list)
    results: tuple = ()
    failed: str = ""

    def once(self) -> None:
        if self.failed:
            return
        try:
            seconds, *self.results = self.run()
        except Exception as trouble:  # a peer that fails must not end the others
            self.failed = reason(trouble)
        else:
            self.seconds.append(seconds)

    def row(self, **more) -> dict:
        row = dict(name=self.name, rtol=self.rtol, patients=self.patients)
        if self.failed:
            return row | {"failed": self.failed}
        return row | {"seconds": statistics.median(self.seconds)} | more


def in_rounds(contenders: list[Contender], rounds: int) -> None:
    """Run each once per round, so that a machine that slows down does so for all of them.

    A first round is not counted.
    """
    for contender in contenders:
        contender.once()
        contender.seconds.clear()
    for _ in range(rounds):
        for contender in contenders:
            contender.once()


def gradient(sizes: Sizes) -> dict:
    """Value and gradient of the log-likelihood."""
    theta, observed = gradient_peers.case(sizes.gradient_patients)
    value, exact = gradient_peers.reference_gradient(theta, observed)
    outputs = reference(FIVE_STATE, np.exp(theta))[..., 0]
    carpk, carpk_outputs = carpk_contenders.gradient, carpk_contenders.gradient_outputs
    diffrax, diffrax_outputs = gradient_peers.diffrax_gradient, gradient_peers.diffrax_outputs
    stan = gradient_peers.stan_gradient
    settings = [
        ("carpk, mesh", 1e-4, carpk, carpk_outputs),
        ("carpk, mesh", 1e-5, carpk, carpk_outputs),
        (
            "carpk, adaptive",
            1e-6,
            partial(carpk, route="adaptive"),
            partial(carpk_outputs, route="adaptive"),
        ),
        *(("Diffrax, logarithms", rtol, diffrax, diffrax_outputs) for rtol in (1e-4, 1e-6)),
        (
            "Diffrax, natural",
            1e-6,
            partial(diffrax, log=False),
            partial(diffrax_outputs, log=False),
        ),
        *(("Stan, logarithms", rtol, stan, None) for rtol in (1e-4, 1e-6)),
        ("Stan, natural", 1e-6, partial(stan, log=False), None),
    ]
    contenders = [
        Contender(name, rtol, partial(run, theta, observed, rtol, sizes.repeats), len(theta))
        for name, rtol, run, _ in settings
    ]
    in_rounds(contenders, sizes.rounds)
    rows = []
    for contender, (_, rtol, _, simulate) in zip(contenders, settings, strict=True):
        if contender.failed:
            rows.append(contender.row())
            continue
        its_value, its_gradient = contender.results
        error = None if simulate is None else float(np.abs(simulate(theta, rtol) - outputs).max())
        rows.append(
            contender.row(
                value_error=abs(its_value - value),
                gradient_error=gradient_peers.gradient_error(its_gradient, exact),
                output_error=error,
            )
        )
    return {"rows": rows, "repeats": sizes.repeats, "rounds": sizes.rounds}


def forward(sizes: Sizes) -> dict:
    """Log outputs of a virtual population, by one thread."""
    return {p.name: forward_problem(p, sizes) for p in (FIVE_STATE, KIMMEL)}


def forward_problem(problem: Problem, sizes: Sizes) -> dict:
    params = sample(problem, sizes.patients, SEED)
    few = params[: sizes.slow_patients]
    exact = reference(problem, params)
    contenders = [
        Contender(
            "carpk", rtol, partial(carpk_contenders.forward, problem, params, rtol), len(params)
        )
        for rtol in CARPK_RTOLS
    ]
    checked = partial(carpk_contenders.forward_checked, problem, params)
    contenders += [
        Contender("carpk, checked", rtol, partial(checked, rtol), len(params))
        for rtol in CHECKED_RTOLS
    ]
    for name, peer in forward_peers.PEERS.items():
        some = params if name in FAST_PEERS else few
        contenders += [
            Contender(name, rtol, partial(peer, problem, some, rtol), len(some))
            for rtol in PEER_RTOLS
        ]
    in_rounds(contenders, sizes.rounds)
    rows = []
    for contender in contenders:
        if contender.failed:
            rows.append(contender.row())
            continue
        outputs = contender.results[0]
        some = exact[: len(outputs)]
        each = [errors(outputs, some, k) for k in range(len(problem.output_names))]
        rows.append(contender.row(errors=each))
    build = [carpk_contenders.forward_build(problem, len(params), rtol) for rtol in CARPK_RTOLS]
    return {
        "outputs": problem.output_names,
        "rows": rows,
        "carpk_build": [
            dict(rtol=rtol, choose=choose, compile=compiled, steps=steps)
            for rtol, (choose, compiled, steps) in zip(CARPK_RTOLS, build, strict=True)
        ],
    }


def closed_form(sizes: Sizes) -> dict:
    """The curve of Stein et al. (2019), by one thread."""
    model = ck.load_model("stein2019")
    info = model.params.info()
    names = ("foldx", "tmax", "cmax", "alpha", "fb", "beta")
    spread = np.array([info[name].iiv for name in names])
    typical = np.array([info[name].value for name in names])
    normal = np.random.default_rng(SEED).standard_normal((sizes.patients, len(names)))
    params = typical * np.exp(spread * normal)
    params[:, names.index("fb")] = np.minimum(params[:, names.index("fb")], 0.99)
    times = np.array(KIMMEL.times, float)

    @jax.jit
    def log_levels(params):
        def one(p):
            values = model.params(**dict(zip(names, p, strict=True)))
            return jnp.log(model.level("transgene", times, values))

        return jax.vmap(one)(params)

    def carpk():
        started = time.perf_counter()
        levels = np.asarray(log_levels(params))
        return time.perf_counter() - started, levels

    numpy = partial(forward_peers.stein_numpy, params, times)
    contenders = [
        Contender("carpk", 0.0, carpk, len(params)),
        Contender("NumPy", 0.0, numpy, len(params)),
    ]
    in_rounds(contenders, 4 * sizes.rounds)
    rows = [contender.row() for contender in contenders]
    difference = np.abs(contenders[0].results[0] - contenders[1].results[0]).max()
    return {"rows": rows, "times": len(times), "difference": float(difference)}


def scaling(sizes: Sizes) -> dict:
    """Seconds of a forward run against the number of patients, by one thread."""
    contenders = []
    for n in sizes.scaling:
        params = sample(FIVE_STATE, n, SEED)
        run = partial(carpk_contenders.forward, FIVE_STATE, params, CARPK_RTOLS[0])
        contenders.append(Contender("carpk", CARPK_RTOLS[0], run, n))
    in_rounds(contenders, sizes.rounds)
    rows = [contender.row() for contender in contenders]
    large = [row for row in rows if row["patients"] >= 200]
    n, seconds = (np.log([row[key] for row in large]) for key in ("patients", "seconds"))
    return {"rows": rows, "slope": float(np.polyfit(n, seconds, 1)[0])}


def memory(sizes: Sizes, patients: int) -> dict:
    """Memory for the numbers of a run: what the compiler plans, and what the process grows by.

    Linux with the GNU C library only.
    """
    rtol = CARPK_RTOLS[0]
    _, compiled = carpk_contenders.forward_compiled(FIVE_STATE, rtol, patients)
    planned = compiled.memory_analysis()
    params = sample(FIVE_STATE, patients, SEED)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # gives back what choosing the mesh has freed
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    seconds, outputs = carpk_contenders.forward(FIVE_STATE, params, rtol)
    return {
        "patients": patients,
        "seconds": seconds,
        "outputs": outputs.nbytes,
        "planned": planned.temp_size_in_bytes + planned.output_size_in_bytes,
        "grown": resident("VmHWM") - before,
    }


def resident(which: str) -> int:
    """Bytes of resident memory: "VmRSS" now, "VmHWM" at the peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{which}:\s+(\d+) kB", status).group(1))


def compiling(sizes: Sizes) -> dict:
    """What has to happen once, in a fresh process, before the gradient of a fit is there."""
    theta, observed = gradient_peers.case(sizes.gradient_patients)
    rows = []
    for rtol in CARPK_RTOLS:
        build = carpk_contenders.gradient_build(theta, observed, rtol)
        choose, first, second, steps = build
        rows.append(dict(name="carpk, mesh", rtol=rtol, choose=choose, first=first, second=second))
        rows[-1]["steps"] = steps
    function = gradient_peers.diffrax_function("reverse", True)
    seconds = []
    for shift in (0.0, 0.01):
        started = time.perf_counter()
        jax.block_until_ready(function(theta + shift, observed, 1e-6))
        seconds.append(time.perf_counter() - started)
    first, second = seconds
    diffrax = dict(name="Diffrax, logarithms", rtol=1e-6, choose=0.0, first=first, second=second)
    return {"rows": [*rows, diffrax], "patients": len(theta)}


def limits(sizes: Sizes) -> dict:
    """Operations of carpk against what the machine can do, by one thread."""
    rtol = CARPK_RTOLS[0]
    speeds = nanoseconds(sizes.loops)
    rows = []
    for problem in (FIVE_STATE, KIMMEL):
        params = sample(problem, sizes.patients, SEED)
        _, _, steps = carpk_contenders.forward_build(problem, len(params), rtol)
        _, solver = carpk_contenders.forward_solver(problem, rtol)
        _, _, names = carpk_contenders.case(problem)

        def simulate(values, problem=problem, solver=solver, names=names):
            outputs = solver(carpk_contenders.parameters(problem, values))
            return [outputs[name] for name in names]

        run = partial(carpk_contenders.forward, problem, params, rtol)
        what = f"{problem.name}, {len(params)} patients"
        counts = operations(simulate, params[:1])
        rows.append(limit(what, run, len(params), steps, counts, speeds, sizes.rounds))
    theta, observed = gradient_peers.case(sizes.gradient_patients)
    *_, steps = carpk_contenders.gradient_build(theta, observed, rtol)
    function = carpk_contenders.gradient_function("mesh", len(theta), rtol)
    run = partial(carpk_contenders.gradient, theta, observed, rtol, sizes.repeats)
    what = f"five_state, value and gradient, {len(theta)} patients"
    counts = {k: v / len(theta) for k, v in operations(function, theta, observed).items()}
    rows.append(limit(what, run, len(theta), steps, counts, speeds, sizes.rounds))
    return {"rows": rows, "nanoseconds": speeds}


def limit(
    what: str,
    run: Callable[[], tuple],
    patients: int,
    steps: int,
    counts: dict[str, float],
    speeds: dict[str, float],
    rounds: int,
) -> dict:
    """Measured time per patient against that of the operations alone; `counts` per patient."""
    contender = Contender(what, 0.0, run, patients)
    in_rounds([contender], rounds)
    measured = contender.row()["seconds"] / patients
    least = sum(counts[kind] * speeds[kind] for kind in KINDS) * 1e-9
    return {
        "what": what,
        "steps": steps,
        "counts": counts,
        "measured": measured,
        "least": least,
        "rate": sum(counts.values()) / measured,
    }


SECTIONS = {
    "gradient": gradient,
    "forward": forward,
    "closed_form": closed_form,
    "scaling": scaling,
    "compiling": compiling,
    "limits": limits,
    **{f"memory_{n}": partial(memory, patients=n) for n in (1_000, 10_000, 100_000)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("section", choices=SECTIONS)
    parser.add_argument("result", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    sizes = QUICK if args.quick else FULL
    answer = {"sizes": asdict(sizes), **SECTIONS[args.section](sizes)}
    args.result.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()

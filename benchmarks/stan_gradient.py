"""Times the gradient of a Stan model; a program of its own, run by `gradient_peers.stan_gradient`.

Reads JSON from standard input: `solver` (such as "ode_rk45_tol"), `data` of five_state.stan,
`theta` (numbers, patient by patient) and `repeats`. Writes JSON: `seconds` (list), `overhead`
(seconds), `build` (seconds), `value` and `gradient` (as `theta`).

PyStan compiles a model to a Python extension and then calls it through a local web server. Here the
web server is left out: httpstan, the part of PyStan that compiles, builds the extension, and its
`log_prob_grad` is called directly. What remains around Stan's own work, reading data and parameters
from Python and making the model, is timed as the gradient of a model with the same data and
parameters and no differential equation; that `overhead` is to be subtracted.
"""

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

import httpstan.cache
import httpstan.models

PROGRAM = (Path(__file__).parent / "five_state.stan").read_text()
TRIVIAL_MODEL = "model {\n  for (i in 1 : patients) target += -0.5 * dot_self(theta[i]);\n}\n"


def compiled(program: str) -> ModuleType:
    """The extension module of a Stan program, from httpstan's cache if it is there."""
    name = httpstan.models.calculate_model_name(program)
    try:
        return httpstan.models.import_services_extension_module(name)
    except KeyError:
        asyncio.run(httpstan.models.build_services_extension_module(program))
        return httpstan.models.import_services_extension_module(name)


def time_gradient(module: ModuleType, data: dict, theta: list[float], repeats: int) -> list[float]:
    """Seconds of each of `repeats` calls, after one call that is not counted."""
    module.log_prob_grad(data, theta, False)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        module.log_prob_grad(data, theta, False)
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    request = json.load(sys.stdin)
    data, theta, repeats = request["data"], request["theta"], request["repeats"]
    program = PROGRAM.replace("ode_rk45_tol", request["solver"])
    started = time.perf_counter()
    module = compiled(program)
    build = time.perf_counter() - started
    trivial = compiled(program[: program.index("model {")] + TRIVIAL_MODEL)
    answer = {
        "build": build,
        "seconds": time_gradient(module, data, theta, repeats),
        "overhead": statistics.median(time_gradient(trivial, data, theta, repeats)),
        "value": module.log_prob(data, theta, False),
        "gradient": module.log_prob_grad(data, theta, False),
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()

"""Small systems with exact solutions, which every route through the equations must reproduce.

The exact solutions are written with NumPy and SciPy alone. They take complex parameters, so that
a step of 1e-30 along the imaginary axis gives their derivatives to the last digit.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.linalg import expm

import carpk as ck


class System(NamedTuple):
    """A model, what is given, when it is observed, and exact(params as a dict) -> outputs."""

    model: ck.ODEModel
    regimen: ck.Regimen
    times: np.ndarray
    exact: Callable[[dict[str, Any]], dict[str, np.ndarray]]

    def typical(self):
        return dict(self.model.params().items())

    def gradient(self, weights):
        """Exact derivatives of sum(weights * log outputs), parameter by parameter."""
        slopes = {}
        for name, value in self.typical().items():
            outputs = self.exact({**self.typical(), name: value + 1e-30j})
            total = sum(np.sum(weights * np.log(y)) for y in outputs.values())
            slopes[name] = total.imag / 1e-30
        return slopes


def linear(matrix, doses, t):
    """States (time, state) of y' = matrix y + inflow, given (time, amounts, duration) doses.

    A dose has acted where it lies before t: at its own time, the level before it is seen.
    """
    size = len(matrix)
    total = np.zeros((len(t), size))
    for time, amounts, duration in doses:
        since = np.where(np.real(t - time) > 0, t - time, 0)
        running = np.where(np.real(since - duration) < 0, since, duration)
        if duration:
            entry = np.zeros((size + 1, size + 1), complex)
            entry[:size, :size], entry[:size, size] = matrix, amounts / duration
            there = expm(entry * running[:, None, None])[:, :size, size]
        else:
            there = np.where(since[:, None] != 0, amounts, 0)
        spread = expm(matrix * (since - running)[:, None, None])
        total = total + np.einsum("tij,tj->ti", spread, there)
    return total


def mammillary(clearance, volume, *peripheral):
    """Rate matrix of amounts in a central and up to two peripheral compartments."""
    size = 1 + len(peripheral)
    matrix = np.zeros((size, size), np.result_type(clearance, volume, *np.ravel(peripheral)))
    matrix[0, 0] = -clearance / volume
    for i, (q, v) in enumerate(peripheral, start=1):
        matrix[0, 0] -= q / volume
        matrix[i, 0], matrix[0, i], matrix[i, i] = q / volume, q / v, -q / v
    return matrix


# --- effectors turn into memory; boluses and infusions into both, at times off any grid -----------


class ChainParams(ck.Params):
    alpha: ck.Scalar = ck.param(0.45, "1/day", "loss of effectors")
    kappa: ck.Scalar = ck.param(0.05, "1/day", "effectors that become memory")
    beta: ck.Scalar = ck.param(0.012, "1/day", "loss of memory")
    before: ck.Scalar = ck.param(0.3, "cells/µL", "effectors at the start")


class ChainStates(ck.States):
    effector: ck.Scalar = ck.state("cells/µL", "effector cells")
    memory: ck.Scalar = ck.state("cells/µL", "memory cells", 0.02)


CHAIN = ck.ODEModel(
    name="chain",
    params=ChainParams,
    states=ChainStates,
    initial=lambda p: ChainStates(effector=p.before),
    vector_field=lambda t, y, p: ChainStates(
        -p.alpha * y.effector, p.kappa * y.effector - p.beta * y.memory
    ),
    outputs={"effector": lambda t, y, p: y.effector, "memory": lambda t, y, p: y.memory},
    units={"effector": "cells/µL", "memory": "cells/µL"},
)
CHAIN_REGIMEN = ck.Regimen(
    (
        ck.Bolus(-1.0, 2.0, "effector"),
        ck.Infusion(0.61, 1.5, 0.37, "effector", "cells"),
        ck.Infusion(0.83, 0.4, 1.93, "memory", "cells"),
        ck.Bolus(3.19, 0.7, "memory"),
    )
)
CHAIN_TIMES = np.array([-0.9, 0.61, 0.7, 1.4, 3.19, 8.0])


def chain(p):
    matrix = np.array([[-p["alpha"], 0], [p["kappa"], -p["beta"]]])
    doses = [
        (-1.0, np.array([p["before"] + 2.0, 0.02]), 0.0),
        (0.61, np.array([1.5, 0.0]), 0.37),
        (0.83, np.array([0.0, 0.4]), 1.93),
        (3.19, np.array([0.0, 0.7]), 0.0),
    ]
    effector, memory = linear(matrix, doses, CHAIN_TIMES).T
    return {"effector": effector, "memory": memory}


# --- cells that grow towards a limit, on the log scale; a bolus is added, then a third survives ---


class LogisticParams(ck.Params):
    r: ck.Scalar = ck.param(0.9, "1/day", "growth rate")
    limit: ck.Scalar = ck.param(700.0, "cells/µL", "largest level")
    before: ck.Scalar = ck.param(0.02, "cells/µL", "level at the start")


class Cells(ck.States):
    cells: ck.Scalar = ck.state("cells/µL", "cells", log=True)


LOGISTIC = ck.ODEModel(
    name="logistic",
    params=LogisticParams,
    states=Cells,
    initial=lambda p: Cells(p.before),
    vector_field=lambda t, y, p: Cells(p.r * y.cells * (1 - y.cells / p.limit)),
    outputs={"cells": lambda t, y, p: y.cells},
    units={"cells": "cells/µL"},
)
LOGISTIC_REGIMEN = ck.Regimen((ck.Bolus(2.71, 5.0, "cells"), ck.Multiply(11.3, 1 / 3, "cells")))
LOGISTIC_TIMES = np.array([0.0, 1.7, 2.71, 6.0, 11.3, 12.9, 20.0])


def logistic(p):
    def grown(n, days):
        up = np.exp(p["r"] * np.maximum(days, 0))
        return p["limit"] * n * up / (p["limit"] + n * (up - 1))

    t = LOGISTIC_TIMES
    second = grown(p["before"], 2.71) + 5.0
    third = grown(second, 11.3 - 2.71) / 3
    early = np.where(t <= 2.71, grown(p["before"], t), grown(second, t - 2.71))
    return {"cells": np.where(t <= 11.3, early, grown(third, t - 11.3))}


# --- Gompertz growth from a single cell per litre to its limit, and again from a replaced level ---


class GompertzParams(ck.Params):
    a: ck.Scalar = ck.param(0.35, "1/day", "approach of the limit")
    limit: ck.Scalar = ck.param(300.0, "cells/µL", "largest level")
    before: ck.Scalar = ck.param(1e-6, "cells/µL", "level at the start")


GOMPERTZ = ck.ODEModel(
    name="gompertz",
    params=GompertzParams,
    states=Cells,
    initial=lambda p: Cells(p.before),
    vector_field=lambda t, y, p: Cells(p.a * y.cells * jnp.log(p.limit / y.cells)),
    outputs={"cells": lambda t, y, p: y.cells},
    units={"cells": "cells/µL"},
)
GOMPERTZ_REGIMEN = ck.Regimen((ck.Replace(9.77, 1e-3, "cells"),))
GOMPERTZ_TIMES = np.array([0.0, 0.4, 3.0, 9.77, 10.3, 25.0])


def gompertz(p):
    def grown(n, days):
        return p["limit"] * np.exp(np.log(n / p["limit"]) * np.exp(-p["a"] * days))

    t = GOMPERTZ_TIMES
    late = np.maximum(t - 9.77, 0)
    return {"cells": np.where(t <= 9.77, grown(p["before"], t), grown(1e-3, late))}


# --- one compartment; ADDL/II boluses and an infusion, late and not wholly available --------------


class OneParams(ck.Params):
    clearance: ck.Scalar = ck.param(3.1, "L/day", "clearance")
    volume: ck.Scalar = ck.param(5.3, "L", "volume")
    share: ck.Scalar = ck.param(0.6, "1", "bioavailability", bounds=(0, 1))
    lag: ck.Scalar = ck.param(0.31, "day", "lag")


class Central(ck.States):
    amount: ck.Scalar = ck.state("mg", "drug in the central compartment", 1.0)


ONE = ck.ODEModel(
    name="one",
    params=OneParams,
    states=Central,
    vector_field=lambda t, y, p: Central(-p.clearance / p.volume * y.amount),
    outputs={"level": lambda t, y, p: y.amount / p.volume},
    units={"level": "mg/L"},
    targets={
        "drug": ck.Target(
            "amount", bioavailability=lambda p: p.share, lag=lambda p: p.lag, unit="mg"
        )
    },
)
ONE_REGIMEN = ck.Regimen(
    (
        ck.Bolus(-1.0, 10.0, "drug", "mg", addl=4, ii=0.97),
        ck.Infusion(0.13, 7.0, 0.41, "drug", addl=2, ii=0.3),  # the second overlaps both others
    )
)
ONE_TIMES = np.array([-0.9, -0.5, 0.2, 0.6, 0.94, 1.9, 5.0])


def one(p):
    doses = [(-1.0, np.ones(1), 0.0)]
    for k in range(5):
        doses.append((-1.0 + 0.97 * k + p["lag"], 10 * p["share"] * np.ones(1), 0.0))
    for k in range(3):
        doses.append((0.13 + 0.3 * k + p["lag"], 7 * p["share"] * np.ones(1), 0.41))
    matrix = mammillary(p["clearance"], p["volume"])
    return {"level": linear(matrix, doses, ONE_TIMES)[:, 0] / p["volume"]}


# --- cells that grow and are killed by two drugs: the log of their number is an integral --------


class KillParams(ck.Params):
    r: ck.Scalar = ck.param(0.4, "1/day", "growth rate")
    kill: ck.Scalar = ck.param(0.9, "L/mg/day", "killing per concentration")
    clearance: ck.Scalar = ck.param(9.0, "L/day", "clearance of every drug")
    volume: ck.Scalar = ck.param(4.0, "L", "central volume of every drug")
    q2: ck.Scalar = ck.param(6.0, "L/day", "exchange with the second compartment")
    v2: ck.Scalar = ck.param(3.0, "L", "volume of the second compartment")
    q3: ck.Scalar = ck.param(0.5, "L/day", "exchange with the third compartment")
    v3: ck.Scalar = ck.param(8.0, "L", "volume of the third compartment")
    lag: ck.Scalar = ck.param(0.07, "day", "lag of a product of the second drug")


class Tumor(ck.States):
    cells: ck.Scalar = ck.state("cells/µL", "target cells", 50.0, log=True)


KILL = ck.ODEModel(
    name="kill",
    params=KillParams,
    states=Tumor,
    vector_field=lambda t, y, p, c: Tumor((p.r - p.kill * (c["small"] + c["large"])) * y.cells),
    outputs={
        "cells": lambda t, y, p, c: y.cells,
        "drug": lambda t, y, p, c: c["small"] + c["large"] + 1e-6,
    },
    units={"cells": "cells/µL", "drug": "mg/L"},
    inputs={
        "small": lambda p: ck.Disposition(p.clearance, p.volume),
        "large": lambda p: ck.Disposition(p.clearance, p.volume, ((p.q2, p.v2), (p.q3, p.v3))),
    },
    targets={"late": ck.Target("large", lag=lambda p: p.lag, unit="mg")},
)
KILL_REGIMEN = ck.Regimen(
    (
        ck.Infusion(-4.83, 40.0, 0.5 / 24, "small", addl=2, ii=1.0),
        ck.Bolus(-3.3, 12.0, "large", "mg"),
        ck.Infusion(-3.9, 30.0, 2.7, "large"),
        ck.Infusion(-1.61, 25.0, 1 / 24, "late", addl=1, ii=1.03),
    )
)
KILL_TIMES = np.array([-4.9, -4.82, -3.3, -1.0, 0.3, 6.0])


def kill(p):
    small = [(-4.83 + k, 40.0, 0.5 / 24) for k in range(3)]
    large = [(-3.3, 12.0, 0.0), (-3.9, 30.0, 2.7)]
    large += [(-1.61 + 1.03 * k + p["lag"], 25.0, 1 / 24) for k in range(2)]
    exchange = [(p["q2"], p["v2"]), (p["q3"], p["v3"])]
    drug, area = 1e-6, 0.0
    for doses, peripheral in [(small, []), (large, exchange)]:
        rates = mammillary(p["clearance"], p["volume"], *peripheral)
        size = len(rates)
        matrix = np.zeros((size + 1, size + 1), complex)  # the last state is the area so far
        matrix[:size, :size], matrix[size, 0] = rates, 1 / p["volume"]
        enter = np.eye(size + 1)[0]
        y = linear(matrix, [(t, a * enter, d) for t, a, d in doses], KILL_TIMES)
        drug, area = drug + y[:, 0] / p["volume"], area + y[:, size]
    grown = p["r"] * (KILL_TIMES - KILL_TIMES[0]) - p["kill"] * area
    return {"cells": 50.0 * np.exp(grown), "drug": drug}


SYSTEMS = {
    "chain": System(CHAIN, CHAIN_REGIMEN, CHAIN_TIMES, chain),
    "logistic": System(LOGISTIC, LOGISTIC_REGIMEN, LOGISTIC_TIMES, logistic),
    "gompertz": System(GOMPERTZ, GOMPERTZ_REGIMEN, GOMPERTZ_TIMES, gompertz),
    "one": System(ONE, ONE_REGIMEN, ONE_TIMES, one),
    "kill": System(KILL, KILL_REGIMEN, KILL_TIMES, kill),
}

"""The hierarchical posteriors of `inference.py`, in plain NumPy and without carpk.

Simulated patients of the five-state problem, as `problems` has it, are observed as ln(E+M) with
Gaussian noise. Of its 12 parameters some vary between patients, log-normally; some are the same for
everybody and estimated; the others are fixed at their typical values:

    ln p_i = ln typical + omega * eta_i,      eta_i ~ Normal(0, 1)
    y_ij ~ Normal(ln(E+M)(t_j; p_i), sigma)

All priors are log-normal and written here once, for every program. A point of the posterior is a
pair: logarithms of the population parameters, in the order of `Hierarchy.priors`, and standard
scores eta (patient, effect). Densities are those of such points, which differ from densities on
other scales that the programs use by a constant only, if at all.
"""

import dataclasses
import math

import numpy as np
from problems import FIVE_STATE, Problem, reference
from scipy.stats import norm

TIMES = (3.0, 7.0, 10.0, 14.0, 21.0, 28.0, 45.0, 70.0, 90.0, 120.0)
PROBLEM = dataclasses.replace(FIVE_STATE, times=TIMES)
OMEGA, SIGMA = 0.3, 0.5  # of the simulated patients, and medians of the priors
OMEGA_SD, SIGMA_SD = 0.5, 0.5  # prior SD of ln omega and ln sigma

Point = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """One simulated trial and what is estimated from it.

    `varies` have random effects, `common` are estimated without; `typical_sd` is the prior SD of
    the logarithm of either's typical value; `target_accept` is asked of every program's NUTS.
    """

    name: str
    patients: int
    varies: tuple[str, ...]
    common: tuple[str, ...]
    typical_sd: float
    seed: int
    target_accept: float = 0.8
    problem: Problem = PROBLEM

    @property
    def estimated(self) -> tuple[str, ...]:
        """Parameters of the equations whose typical values are estimated."""
        return self.varies + self.common

    @property
    def index(self) -> list[int]:
        """Where `estimated` stand among the parameters of the problem."""
        return [self.problem.parameters.index(name) for name in self.estimated]

    @property
    def priors(self) -> dict[str, tuple[float, float]]:
        """Population parameter -> median, and SD of the logarithm, of its log-normal prior."""
        typical = dict(zip(self.problem.parameters, self.problem.typical, strict=True))
        return {
            **{name: (typical[name], self.typical_sd) for name in self.estimated},
            **{f"omega_{name}": (OMEGA, OMEGA_SD) for name in self.varies},
            "sigma": (SIGMA, SIGMA_SD),
        }

    @property
    def log_priors(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and SDs of the logarithms of all population parameters, beforehand."""
        median, sd = np.array(list(self.priors.values())).T
        return np.log(median), sd

    @property
    def fixed(self) -> dict[str, float]:
        """Parameters of the equations that are not estimated -> value."""
        pairs = zip(self.problem.parameters, self.problem.typical, strict=True)
        return {name: value for name, value in pairs if name not in self.estimated}

    def split(self, log_theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """ln typical values, ln omegas and ln sigma out of the first half of a point."""
        n = len(self.estimated)
        return log_theta[:n], log_theta[n:-1], log_theta[-1]

    def patients_at(self, point: Point) -> np.ndarray:
        """Parameters of every patient (patient, 12), natural scale."""
        log_theta, eta = point
        log_typical, log_omega, _ = self.split(log_theta)
        logs = np.tile(np.log(self.problem.typical), (self.patients, 1))
        logs[:, self.index] = log_typical
        logs[:, self.index[: len(self.varies)]] += np.exp(log_omega) * eta
        return np.exp(logs)


SMALL = Hierarchy("small", 8, ("dE", "kEM", "gB"), ("dM",), 0.3, seed=11)
LARGE = Hierarchy(
    "large",
    20,
    ("rho", "LH", "dE", "kEM", "dM", "gB"),
    ("kel", "kD", "rN", "KN", "g", "kB"),
    0.3,
    seed=12,
    target_accept=0.99,
)
TINY_ONE = Hierarchy("tiny", 2, ("LH", "dE"), (), 0.5, seed=13)  # shows that everything runs
HIERARCHIES = {h.name: h for h in (SMALL, LARGE, TINY_ONE)}


def truth(h: Hierarchy) -> Point:
    """What the patients are simulated from: prior medians, and scores that `h.seed` gives."""
    eta = np.random.default_rng(h.seed).standard_normal((h.patients, len(h.varies)))
    return h.log_priors[0], eta


def simulated(h: Hierarchy) -> np.ndarray:
    """Simulated ln(E+M) (patient, time) with noise; the same for every program."""
    clean = reference(h.problem, h.patients_at(truth(h)))[..., 0]
    return clean + SIGMA * np.random.default_rng(h.seed + 1000).standard_normal(clean.shape)


def points(h: Hierarchy, n: int) -> list[Point]:
    """The truth, and `n` points around it, about as far away as posterior draws are or farther."""
    rng = np.random.default_rng(h.seed + 2000)
    log_theta, eta = truth(h)
    _, sd = h.log_priors
    around = [
        (
            log_theta + 0.2 * sd * rng.standard_normal(len(sd)),
            eta + 0.2 * rng.standard_normal(eta.shape),
        )
        for _ in range(n)
    ]
    return [(log_theta, eta), *around]


def log_density(h: Hierarchy, observed: np.ndarray, point: Point) -> float:
    """ln posterior density of a point, by `problems.reference` and SciPy, up to a constant."""
    log_theta, eta = point
    sigma = math.exp(h.split(log_theta)[2])
    simulated = reference(h.problem, h.patients_at(point))[..., 0]
    total = norm.logpdf(log_theta, *h.log_priors).sum() + norm.logpdf(eta).sum()
    return float(total + norm.logpdf(observed, simulated, sigma).sum())

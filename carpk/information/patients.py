"""Information of patients' samples: the linearized population model, limits included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats
from jax import Array
from jaxtyping import Float

from carpk._types import Arrays, Values
from carpk.assay.residual import Residual
from carpk.errors import FitError
from carpk.information.columns import Column, point_of, theta_of
from carpk.information.design import Sampled, params_of, typical_of
from carpk.population.bound import FLOOR
from carpk.population.parameters import Kind
from carpk.population.population import Population
from carpk.population.random_effects import COHORT, INFUSION, PATIENT

STEP = 1e-3  # of the central differences, on the estimation scale
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(20)  # averages over random effects


def moved(f: Callable[[Array], Array], x: np.ndarray) -> np.ndarray:
    """f at x (p,) and a step either way along every axis, (1 + 2 p, ...); see `slopes`.

    Predictions on a mesh are smooth in the parameters, and a forward run compiles in a tenth of the
    time of its reverse mode.
    """
    moves = STEP * np.concatenate([np.zeros((1, x.size)), np.eye(x.size), -np.eye(x.size)])
    return np.asarray(jax.jit(jax.vmap(f))(jnp.asarray(x + moves)))


def slopes(y: np.ndarray) -> np.ndarray:
    """Derivatives (p, ...) from what `moved` gives, or a function of it."""
    size = (len(y) - 1) // 2
    slope: np.ndarray = (y[1 : size + 1] - y[size + 1 :]) / (2 * STEP)
    return slope


@dataclasses.dataclass(frozen=True)
class SampleSensitivities:
    """Sensitivities of every sample, standardized to a residual SD of 1.

    Attributes:
        typical: estimated structural parameter -> derivative of the standardized mean by its
            estimation scale, (P, T, K), infusion by infusion; the patient's own is the sum.
        residual: column name of a residual parameter -> derivative of ln SD by its log, (P, T).
        limit: standard-normal score of the lower limit of quantification, (P, T); -inf without one.
    """

    typical: Mapping[str, Float[np.ndarray, "patient time infusion"]]
    residual: Mapping[str, Float[np.ndarray, "patient time"]]
    limit: Float[np.ndarray, "patient time"]


def sample_sensitivities(
    population: Population, who: Sampled, columns: Sequence[Column]
) -> SampleSensitivities:
    """Sensitivities of all samples at the columns' values."""
    names, k = population.estimated, who.infusions
    size = len(who.patients)
    phi = typical_of(population, columns, who.design, size)
    apart = [n for n in names if INFUSION in population.variability_levels.get(n, ())]
    moves = [(n, i) for n in names for i in (range(k) if n in apart else (None,))]

    def predictions(move: Array) -> Array:
        each = {n: jnp.broadcast_to(x[:, None], (size, k)) for n, x in phi.items()}
        for j, (n, i) in enumerate(moves):
            each[n] = each[n] + move[j] * ((np.arange(k) == i) | (i is None))
        return jnp.maximum(who.predictor(params_of(population, each)), FLOOR)

    every = moved(predictions, np.zeros(len(moves)))
    f = np.where(who.mask, every[0], 1.0)
    theta = theta_of(columns, point_of(columns))
    df, limit = np.zeros((len(moves), *f.shape)), np.full(f.shape, -np.inf)
    residual: dict[str, np.ndarray] = {}
    for o, output in enumerate(who.outputs):
        here = who.mask & (who.which == o)
        model, own = population.residual_of(output), dict(population.residual_theta(theta, output))
        if model.known_sd:
            if not np.isfinite(who.sd[here]).all():
                raise FitError(
                    f"identifiability: KnownSD() takes the SDs of {output} from data, and planned "
                    "samples have none. Plan with ck.assay.Additive(), whose sigma_add is their SD."
                )
            own["sd"] = np.where(here, who.sd, 1.0)
        _refuse(who, here & ~np.isfinite(f), "has no value: the equations cannot be solved")
        spread = model.sample(jnp.ones(f.shape), f, own) > 100 * FLOOR
        empty = here & (who.lloq <= FLOOR) & ~np.asarray(spread)
        _refuse(who, empty, "is 0, of which a measurement without a limit tells nothing")
        lloq = np.where(here, np.maximum(who.lloq, FLOOR), 1.0)
        mean, by_sd, score = standardized(model, own, f, np.where(here, every, 1.0), lloq)
        df = np.where(here, slopes(mean), df)
        limit = np.where(here & (who.lloq > FLOOR), score, limit)
        for name, column in population.residual_names(output).items():
            residual[column] = np.where(here, by_sd[name], residual.get(column, 0.0))
    typical = {n: np.zeros((*f.shape, k)) for n in names}
    for (n, i), d in zip(moves, df, strict=True):
        typical[n][..., 0 if i is None else i] = d
    return SampleSensitivities(typical, residual, limit)


def standardized(
    residual: Residual, theta: Values, f: np.ndarray, near: np.ndarray, lloq: np.ndarray
) -> tuple[np.ndarray, dict[str, Array], Arrays]:
    """Measurements around predictions f, standardized to SD 1.

    Args:
        f, lloq: predictions and limits, of one shape.
        near: predictions close by, whose shape ends in that of f.

    Returns:
        Means of measurements around `near`; derivatives of ln SD by the log of each residual
        parameter, at f; and the scores of the limits.
    """
    ones = jnp.ones(np.shape(f))
    middle, above = (residual.sample(z, f, theta) for z in (0 * ones, ones))
    if residual.discrete:  # whose median is a whole number, and not their expectation
        middle = f

    def score(factors: Values) -> Arrays:
        moved = {n: theta[n] * x for n, x in factors.items()}
        return residual.standardize(above, f, {**theta, **moved})[0]

    of_mean, of_sd = (float(np.sqrt(x)) for x in residual.efficiency(theta))
    by_sd = jax.jacfwd(score)({n: 1.0 for n in residual.names}) if residual.names else {}
    mean = -of_mean * np.asarray(residual.standardize(middle, near, theta)[0])
    return mean, {n: -of_sd * x for n, x in by_sd.items()}, residual.standardize(lloq, f, theta)[0]


def _refuse(who: Sampled, bad: np.ndarray, what: str) -> None:
    """Refuse the first sample that is marked, (P, T)."""
    if bad.any():
        row, place = np.argwhere(bad)[0]
        raise FitError(
            f"identifiability: {who.outputs[who.which[row, place]]} of {who.labels[row]} on day "
            f"{who.time[row, place]:g} {what}. Give its `lloq`, leave out that day, or evaluate "
            "elsewhere with `at`."
        )


def censored_normal(limit: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expected information of a normal variable that is only seen above a limit.

    Args:
        limit: its standard-normal score, any shape.

    Returns:
        In (mean / SD, ln SD): of the mean, mixed, of ln SD; 1, 0 and 2 without a limit. Of the
        variable where it is seen and of whether it is seen (M3).
    """
    c = np.clip(limit, -40.0, 40.0)
    pdf, seen = scipy.stats.norm.pdf(c), scipy.stats.norm.sf(c)
    hidden = pdf * np.exp(scipy.stats.norm.logpdf(c) - scipy.special.log_ndtr(c))
    mean = seen + c * pdf + hidden
    mixed = (c**2 + 1) * pdf + c * hidden
    return mean, mixed, 2 * seen + c * pdf + c**3 * pdf + c**2 * hidden


@dataclasses.dataclass(frozen=True)
class PatientInformation:
    """Arrays from which the information of any choice of the samples follows by linear algebra.

    Of P rows, T samples, each as a normal variable with SD 1, K infusions, q random effects of one
    infusion and p columns. The covariance of a row's samples is I + sum_k B_k C B_k', with B_k the
    effects of infusion k and C their correlation.

    Attributes:
        patients: (P,).
        mean: derivatives of the means by every column, (P, T, p).
        random_effects: B, derivatives of the means by the random effects, in SDs of these, (P, T,
            K, q); those of the patient in the first place.
        correlation: C, (q, q).
        spreads: of each column that is an omega or a correlation, the derivative of the covariance
            of the random effects, in these SDs, (p, q, q); zeros of the others.
        noise: derivative of ln SD by the column, (P, T, p).
        shared: derivatives of the means by the effects that the patients of a cohort share, in SDs
            of these, (P, T, g).
        of_shared: the column of each one's SD, (g,).
        cohort: index of the cohort of each row, (P,).
    """

    patients: np.ndarray
    mean: np.ndarray
    random_effects: np.ndarray
    correlation: np.ndarray
    spreads: np.ndarray
    noise: np.ndarray
    shared: np.ndarray
    of_shared: tuple[int, ...]
    cohort: np.ndarray

    def matrix(self, keep: np.ndarray) -> np.ndarray:
        """Information (p, p) of the samples that are kept, (P, T)."""
        kept = keep.astype(float)[..., None]
        mean, noise = self.mean * kept, self.noise * kept
        b = self.random_effects * kept[..., None]
        factor = np.linalg.cholesky(self.correlation)
        flat = (b @ factor).reshape(*b.shape[:2], -1)
        inverse = np.linalg.inv(np.eye(b.shape[1]) + flat @ flat.transpose(0, 2, 1))
        total: np.ndarray = np.einsum(
            "p,pti,pts,psj->ij", self.patients, mean, inverse, mean, optimize=True
        )
        # 1/2 tr(V^-1 dV_i V^-1 dV_j), with dV_i = sum_k B_k S_i B_k' of a spread S_i and
        # 2 diag(noise_i) of a residual parameter
        spread = [i for i, s in enumerate(self.spreads) if s.any()]
        s = self.spreads[spread]
        inside = np.einsum("ptka,pts,pslb->pkalb", b, inverse, b, optimize=True)
        pairs = np.einsum(
            "p,iab,pkblc,jcd,pldka->ij",
            self.patients,
            s,
            inside,
            s,
            inside,
            optimize=True,
        )
        total[np.ix_(spread, spread)] += 0.5 * pairs
        half = np.einsum("ptka,pts->pska", b, inverse, optimize=True)
        mixed = np.einsum(
            "p,pska,iab,pskb,psj->ij", self.patients, half, s, half, noise, optimize=True
        )
        total[spread] += mixed
        total[:, spread] += mixed.T
        of_noise = np.einsum("pti,pts,psj->pij", noise, inverse**2, noise, optimize=True)
        total += 2 * np.einsum("p,pij->ij", self.patients, of_noise)
        if not self.of_shared:
            return total
        by_row = zip(b, noise, mean, self.shared * kept, inverse, self.patients, strict=True)
        rows = [self._beside_shared(*row) for row in by_row]
        for cohort in np.unique(self.cohort):
            own = [row for row, c in zip(rows, self.cohort, strict=True) if c == cohort]
            total += self._of_cohort(*(np.sum(x, axis=0) for x in zip(*own, strict=True)))
        return total

    def _beside_shared(
        self,
        b: np.ndarray,
        noise: np.ndarray,
        mean: np.ndarray,
        u: np.ndarray,
        inverse: np.ndarray,
        size: float,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Cross terms of a row with the effects shared with other patients, u (T, g).

        With D the inverse of the row's own covariance and dV_i its derivative by column i, for
        `size` patients: u'Du, u'D mean, u'D dV_i Du and u'D dV_i D dV_j Du.
        """
        v = np.einsum("tka,iab,skb->its", b, self.spreads, b, optimize=True)
        v += 2 * np.einsum("ti,ts->its", noise, np.eye(len(noise)))
        du = inverse @ u
        first = np.einsum("tg,its,sh->igh", du, v, du, optimize=True)
        second = np.einsum("tg,itr,rq,jqs,sh->ijgh", du, v, inverse, v, du, optimize=True)
        return size * u.T @ du, size * du.T @ mean, size * first, size * second

    def _of_cohort(
        self, inside: np.ndarray, by_mean: np.ndarray, first: np.ndarray, second: np.ndarray
    ) -> np.ndarray:
        """Correction of a cohort's information for the shared effects.

        The inverse of D^-1 + u u' is D - D u m u' D, with m the inverse of 1 + u'Du.
        """
        g = len(inside)
        m = np.linalg.inv(np.eye(g) + inside)
        weighed = m @ first  # (p, g, g)
        added: np.ndarray = -by_mean.T @ m @ by_mean
        added -= np.einsum("gh,ijhg->ij", m, second)
        added += 0.5 * np.einsum("igh,jhg->ij", weighed, weighed)
        place, alone = np.array(self.of_shared), inside @ m
        added[np.ix_(place, place)] += 2 * alone**2
        mixed = np.einsum("igg->gi", weighed @ m)
        added[place] += mixed
        added[:, place] += mixed.T
        return added


def patient_information(
    population: Population, who: Sampled, columns: Sequence[Column]
) -> PatientInformation:
    """The arrays of a design, samples weighted by their probability of censoring."""
    s = sample_sensitivities(population, who, columns)
    size, p = who.mask.shape, len(columns)
    random = population.random_effects
    place = {effect: i for i, effect in enumerate(random.columns)}
    theta = theta_of(columns, point_of(columns))
    factor = np.asarray(random.factor(theta))
    sds = np.sqrt(np.diag(factor @ factor.T))
    correlation = factor @ factor.T / np.outer(sds, sds)
    effects = np.zeros((*size, who.infusions, len(place)))
    for (name, kind), i in place.items():
        by = sds[i] * s.typical[name]
        if kind == PATIENT:
            effects[:, :, 0, i] = by.sum(axis=2)
        else:
            effects[..., i] = by
    shared = [
        (j, c.value * s.typical[c.parameter.of].sum(axis=2))
        for j, c in enumerate(columns)
        if c.parameter.level == COHORT
    ]
    common = np.zeros((*size, len(shared)))
    for g, (_, by) in enumerate(shared):
        common[..., g] = by
    mean, noise = np.zeros((*size, p)), np.zeros((*size, p))
    spreads = np.zeros((p, len(place), len(place)))
    for j, c in enumerate(columns):
        parameter = c.parameter
        if parameter.kind == Kind.TYPICAL:
            mean[..., j] = s.typical[parameter.of].sum(axis=2)
        elif parameter.kind == Kind.BETA:
            x = who.design[parameter.covariate][:, None, c.place[0]]
            mean[..., j] = s.typical[parameter.of].sum(axis=2) * x
        elif parameter.level == COHORT:
            continue
        elif parameter.kind == Kind.OMEGA:  # of ln omega, which is in its row and its column
            i = place[parameter.of, parameter.level]
            spreads[j, i] += correlation[i]
            spreads[j, :, i] += correlation[i]
        elif parameter.kind == Kind.CORRELATION:
            one, other = (place[population.correlated[k], PATIENT] for k in c.place)
            spreads[j, one, other] = spreads[j, other, one] = 1.0
        else:
            noise[..., j] = s.residual.get(parameter.name, 0.0)
    variance = np.einsum("ptka,ab,ptkb->pt", effects, correlation, effects)
    variance += np.sum(common**2, axis=2)
    nodes = s.limit[..., None] - np.sqrt(variance)[..., None] * NODES
    share = WEIGHTS / WEIGHTS.sum()
    a, b, d = (x @ share for x in censored_normal(nodes))
    a, b, d = (np.where(who.mask, x, 0.0) for x in (a, b, d))
    # [[a, b], [b, d]] = a (1, b/a)(1, b/a)' + the rest, which is of the SD alone
    root = np.sqrt(a)
    tilt = np.divide(b, root, out=np.zeros_like(b), where=root > 0)
    rest = np.sqrt(np.maximum(d - tilt**2, 0.0) / 2)
    mean = mean * root[..., None] + noise * tilt[..., None]
    return PatientInformation(
        who.patients,
        mean,
        effects * root[..., None, None],
        correlation,
        spreads,
        noise * rest[..., None],
        common * root[..., None],
        tuple(j for j, _ in shared),
        who.cohort,
    )

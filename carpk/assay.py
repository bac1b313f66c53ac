"""What the assay sees: residual models, limits of quantification, qPCR units.

A residual model gives the distribution of a measured level y around the true level f. Its
parameters are standard deviations, never variances.

qPCR counts transgene copies per µg of DNA: a share of the leukocytes, and not a number of cells.
Lymphodepletion empties this denominator as well. Three ways to deal with it:

- modelled: fit the copies as they are to the output "transgene" of `niche` or `niche_full`, which
  divide by their own lymphocytes and a pool of myeloid cells; the default after lymphodepletion;
- measured: `to_cells` (and `to_copies`, the way back) with the patient's own leukocyte counts;
- constant: the same with one number, and a warning.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float

from carpk import student
from carpk.errors import CarpkWarning, DatasetError, ModelError

GENOMES_PER_UG = 1e6 / 6.6  # diploid genomes in 1 µg of DNA, at 6.6 pg per cell
COPIES, CELLS = "copies/µg", "cells/µL"
COLUMNS = ("patient", "time", "analyte", "value", "unit")  # of observations
LN_SQRT_2PI = 0.5 * jnp.log(2 * jnp.pi)

Theta = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Residual:
    """Base of the residual models: some function of y and f, its score, is standard normal.

    Attributes:
        on_log: whether the error is on the logarithmic scale.
        heavy: whether its tails are heavier than those of a normal distribution.
    """

    on_log: ClassVar[bool] = False
    heavy: ClassVar[bool] = False

    @property
    def names(self) -> tuple[str, ...]:
        """The residual parameters."""
        return tuple(self.priors())

    def standardize(self, y: Any, f: Any, theta: Theta) -> tuple[Any, Any]:
        """(z, ln dz/dy): the standard-normal score of y, and the log of its slope."""
        raise NotImplementedError

    def sample(self, z: Any, f: Any, theta: Theta) -> Any:
        """The measured level with standard-normal score z."""
        raise NotImplementedError

    def priors(self) -> dict[str, dist.Distribution]:
        """Default priors of the residual parameters."""
        raise NotImplementedError

    def efficiency(self, theta: Theta) -> tuple[Any, Any]:
        """Information of a measurement on its mean and on ln SD, over that of its score.

        The score is taken as a normal variable whose mean moves as it does for a measurement in the
        middle, and whose SD as for one that lies an SD above it; 1 where that is exact.
        """
        return 1.0, 1.0

    def log_prob(self, y: Any, f: Any, theta: Theta) -> Any:
        """ln density of a measured level y."""
        z, log_slope = self.standardize(y, f, theta)
        return -0.5 * z**2 - LN_SQRT_2PI + log_slope

    def log_cdf(self, y: Any, f: Any, theta: Theta) -> Any:
        """ln P(measured level < y)."""
        return log_ndtr(self.standardize(y, f, theta)[0])

    def log_sf(self, y: Any, f: Any, theta: Theta) -> Any:
        """ln P(measured level > y)."""
        return log_ndtr(-self.standardize(y, f, theta)[0])


@dataclasses.dataclass(frozen=True)
class LogNormal(Residual):
    """ln y ~ Normal(ln f, sigma): the residual model of nearly every CAR-T analysis.

    The default prior of sigma (an SD of ln y) is log-normal with median 0.5 and a 90 % interval of
    0.22 to 1.14, which holds the published 0.56 (Stein 2019) and 0.55-0.94 (Mueller-Schoell 2021).
    """

    on_log: ClassVar[bool] = True

    def standardize(self, y: Any, f: Any, theta: Theta) -> tuple[Any, Any]:
        z = (jnp.log(y) - jnp.log(f)) / theta["sigma"]
        return z, -jnp.log(y) - jnp.log(theta["sigma"])

    def sample(self, z: Any, f: Any, theta: Theta) -> Any:
        return f * jnp.exp(theta["sigma"] * z)

    def priors(self) -> dict[str, dist.Distribution]:
        return {"sigma": dist.LogNormal(math.log(0.5), 0.5)}


@dataclasses.dataclass(frozen=True)
class StudentT(Residual):
    """ln y = ln f + sigma t, with t of Student's distribution: outlying samples count for less.

    sigma is a scale and not an SD: that of ln y is sigma sqrt(df / (df - 2)). Quantiles of the
    measured level are finite, its mean is not. The prior of sigma is that of `LogNormal`.

    Attributes:
        df: degrees of freedom, 1 or more; 4 unless given. None: a parameter `df`, whose prior is
            Gamma(2, 0.1) of shape and rate, after Juarez and Steel (2010,
            doi:10.1198/jbes.2009.07145).

    Reference: Lange, Little and Taylor (1989), doi:10.1080/01621459.1989.10478852.
    """

    df: float | None = 4.0
    on_log: ClassVar[bool] = True
    heavy: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.df is not None and not 1 <= self.df < math.inf:
            raise ModelError(
                f"StudentT: df must be a number of at least 1, or None to estimate it, but is "
                f"{self.df!r}."
            )

    def _df(self, theta: Theta) -> Any:
        return jnp.asarray(theta["df"] if self.df is None else self.df, float)

    def _t(self, y: Any, f: Any, theta: Theta) -> Any:
        return (jnp.log(y) - jnp.log(f)) / theta["sigma"]

    def standardize(self, y: Any, f: Any, theta: Theta) -> tuple[Any, Any]:
        t, df = self._t(y, f, theta), self._df(theta)
        z = student.score(t, df)
        slope = student.log_pdf(t, df) + 0.5 * z**2 + LN_SQRT_2PI
        return z, slope - jnp.log(y) - jnp.log(theta["sigma"])

    def sample(self, z: Any, f: Any, theta: Theta) -> Any:
        return f * jnp.exp(theta["sigma"] * student.quantile_of_score(z, self._df(theta)))

    def priors(self) -> dict[str, dist.Distribution]:
        own = {} if self.df is not None else {"df": dist.Gamma(2.0, 0.1)}
        return LogNormal().priors() | own

    def efficiency(self, theta: Theta) -> tuple[Any, Any]:
        if self.df is None:
            raise ModelError(
                "StudentT: the information of data is known for a fixed df only; give df, such as "
                "StudentT(df=4), for this check."
            )
        df, ln_2pi = self._df(theta), 2 * LN_SQRT_2PI
        at_0 = jnp.exp(2 * student.log_pdf(jnp.zeros(()), df) + ln_2pi)
        t = student.quantile_of_score(jnp.ones(()), df)
        at_1 = t**2 * jnp.exp(2 * student.log_pdf(t, df) + ln_2pi + 1.0)
        return (df + 1) / (df + 3) / at_0, df / (df + 3) / at_1

    def log_prob(self, y: Any, f: Any, theta: Theta) -> Any:
        scale = jnp.log(y) + jnp.log(theta["sigma"])
        return student.log_pdf(self._t(y, f, theta), self._df(theta)) - scale

    def log_cdf(self, y: Any, f: Any, theta: Theta) -> Any:
        return student.log_cdf(self._t(y, f, theta), self._df(theta))

    def log_sf(self, y: Any, f: Any, theta: Theta) -> Any:
        return student.log_cdf(-self._t(y, f, theta), self._df(theta))


@dataclasses.dataclass(frozen=True)
class Proportional(Residual):
    """y ~ Normal(f, sigma_prop f)."""

    def _sd(self, f: Any, theta: Theta) -> Any:
        return theta["sigma_prop"] * f

    def standardize(self, y: Any, f: Any, theta: Theta) -> tuple[Any, Any]:
        sd = self._sd(f, theta)
        return (y - f) / sd, -jnp.log(sd) + jnp.zeros_like(y)

    def sample(self, z: Any, f: Any, theta: Theta) -> Any:
        return f + self._sd(f, theta) * z

    def priors(self) -> dict[str, dist.Distribution]:
        return {"sigma_prop": dist.LogNormal(math.log(0.5), 0.5)}


@dataclasses.dataclass(frozen=True)
class Combined(Proportional):
    """y ~ Normal(f, sqrt(sigma_add² + (sigma_prop f)²)); sigma_add has the unit of y.

    `typical_add` centres the prior of sigma_add, in the unit of y: half the LLOQ, say.
    """

    typical_add: float = 1.0

    def _sd(self, f: Any, theta: Theta) -> Any:
        return jnp.sqrt(theta["sigma_add"] ** 2 + (theta["sigma_prop"] * f) ** 2)

    def priors(self) -> dict[str, dist.Distribution]:
        return {
            "sigma_add": dist.LogNormal(math.log(self.typical_add), 1.0),
            "sigma_prop": dist.LogNormal(math.log(0.5), 0.5),
        }


def log_likelihood(
    residual: Residual,
    y: Float[Array, "*n"],
    f: Float[Array, "*n"],
    theta: Theta,
    censored: Any,
    lloq: Float[Array, "*n"],
    limit: Float[Array, "*n"] | None = None,
) -> Float[Array, "*n"]:
    """ln likelihood of each measurement, censored or not.

    Args:
        y: measured level; the limit itself where censored.
        f: true level, same unit.
        theta: parameters of the residual model.
        censored: 0 measured; 1 below `lloq`, M3: ln P(Y < lloq) (Beal 2001,
            doi:10.1023/A:1012299115260); -1 above y.
        lloq: lower limit of quantification.
        limit: where finite, a censored level is also known to lie above it (M4).
    """

    def may_be(kind: int) -> bool:
        return isinstance(censored, jax.core.Tracer) or bool(np.any(np.asarray(censored) == kind))

    each = residual.log_prob(y, f, theta)
    if may_be(1):
        lloq = jnp.where(censored == 1, lloq, y)  # an LLOQ of 0 or NaN must not reach a gradient
        below = residual.log_cdf(lloq, f, theta)
        if limit is not None:
            bounded = jnp.isfinite(limit) & (limit < lloq)
            floor = jnp.where(bounded, limit, 0.5 * lloq)
            share = residual.log_cdf(floor, f, theta) - below
            inside = below + jnp.log1p(-jnp.exp(jnp.minimum(share, -1e-12)))
            below = jnp.where(bounded, inside, below)
        each = jnp.where(censored == 1, below, each)
    if may_be(-1):
        each = jnp.where(censored == -1, residual.log_sf(y, f, theta), each)
    return each


def copies_per_ug(car_t: Any, leukocytes: Any, vcn: Any = 1.0) -> Any:
    """Transgene copies per µg of DNA from CAR-T cells and all nucleated cells [both cells/µL].

    1 µg of DNA is about 151,515 diploid genomes (6.6 pg each), so the level is a share of the
    leukocytes: after lymphodepletion the denominator falls, and the level rises without any
    expansion.

    Args:
        car_t: CAR-T cells [cells/µL].
        leukocytes: all nucleated cells in the extracted fraction, CAR-T included [cells/µL].
        vcn: vector copies per CAR-T cell.
    """
    return GENOMES_PER_UG * vcn * car_t / leukocytes


def cells_per_ul(transgene: Any, leukocytes: Any, vcn: Any = 1.0) -> Any:
    """CAR-T cells/µL from transgene copies/µg of DNA; the inverse of `copies_per_ug`."""
    return transgene * leukocytes / (GENOMES_PER_UG * vcn)


# --- the denominator of data ----------------------------------------------------------------------

Denominator = Literal["measured", "constant"]


def to_cells(
    data: Any,
    *,
    vcn: float | Mapping[Any, float],
    denominator: Denominator = "measured",
    leukocytes: float | None = None,
    analyte: str = "transgene",
    name: str = "car_t",
    wbc: str = "wbc",
) -> Any:
    """Measured transgene copies/µg of DNA as CAR-T cells/µL, by `cells_per_ul`.

    With "measured" every sample is divided by the patient's own leukocyte count of its day, between
    two counts on the logarithmic scale. Nothing is extrapolated: a sample before the first or after
    the last count is refused. With "constant" all are divided by `leukocytes`, and it warns.
    Limits of quantification are converted with their sample, so that they come to differ.

    The count must be of the cells whose DNA was taken: WBC where that is whole blood, but
    mononuclear cells where it is those.

    Args:
        data: a `Dataset`, or observations: columns patient, time, analyte, value, unit and perhaps
            lloq, limit, censored. Counts are observations too, of the analyte `wbc` in cells/µL;
            `Dataset` converts 10^9/L when it reads them.
        vcn: vector copies per CAR-T cell, a number or patient -> number; it is never guessed.
        denominator: "measured" or "constant".
        leukocytes: with "constant", nucleated cells/µL.
        analyte: what is converted.
        name: what it is called then.
        wbc: analyte of the leukocyte counts.

    Returns:
        Like `data`, with the rows of `analyte` converted and a note; all others as they are.

    Raises:
        DatasetError: names the patient and day of what cannot be converted.
    """
    return _converted(data, vcn, denominator, leukocytes, (analyte, COPIES), (name, CELLS), wbc)


def to_copies(
    data: Any,
    *,
    vcn: float | Mapping[Any, float],
    denominator: Denominator = "measured",
    leukocytes: float | None = None,
    analyte: str = "car_t",
    name: str = "transgene",
    wbc: str = "wbc",
) -> Any:
    """CAR-T cells/µL as transgene copies/µg of DNA, by `copies_per_ug`; undoes `to_cells`."""
    return _converted(data, vcn, denominator, leukocytes, (analyte, CELLS), (name, COPIES), wbc)


def _converted(
    data: Any,
    vcn: float | Mapping[Any, float],
    denominator: str,
    leukocytes: float | None,
    old: tuple[str, str],
    new: tuple[str, str],
    wbc: str,
) -> Any:
    """`to_cells` and `to_copies`: (analyte, unit) of what is converted and what it becomes."""
    whole = None if isinstance(data, pd.DataFrame) else data
    label = "observations" if whole is None else f"Dataset {whole.name!r}"
    frame = (data if whole is None else whole.observations).copy()
    absent = [column for column in COLUMNS if column not in frame]
    if absent:
        raise DatasetError(f"{label}: no column `{absent[0]}`; needed are {', '.join(COLUMNS)}.")
    here = frame["analyte"] == old[0]
    chosen = _rows_of(frame, old, label)
    if (frame["analyte"] == new[0]).any():
        raise DatasetError(
            f"{label} has {new[0]!r} already, which another assay measured. Give what is converted "
            "a name of its own, such as name='car_t_qpcr'."
        )
    if denominator == "measured":
        if leukocytes is not None:
            raise DatasetError(
                f"{label}: `leukocytes` belongs to denominator='constant'; the measured one takes "
                f"the counts in the analyte {wbc!r}."
            )
        level = _leukocytes(frame, chosen, wbc, label)
        how = f"the patient's own leukocyte counts ({wbc!r}, log-linear between counts)"
    elif denominator == "constant":
        level = np.full(len(chosen), _positive(leukocytes, "leukocytes [cells/µL]", label))
        how = f"a constant {leukocytes:g} leukocytes/µL"
        warnings.warn(
            f"{label}: {how} stand for those of every day. After lymphodepletion there are fewer, "
            "and leukopenia then reads as expansion, several-fold in the first ten days after "
            "Flu/Cy. Use counts (denominator='measured'), or fit the copies to the output "
            "'transgene' of 'niche'.",
            CarpkWarning,
            stacklevel=3,
        )
    else:
        raise DatasetError(
            f"{label}: denominator={denominator!r} is unknown; data convert with 'measured' or "
            "'constant'. A modelled one is in the models: fit the copies as they are to the output "
            "'transgene' of 'niche' or 'niche_full'."
        )
    number = [
        _positive(_of(vcn, patient, label), f"vcn of patient {patient!r}", label)
        for patient in chosen["patient"]
    ]
    convert = cells_per_ul if new[1] == CELLS else copies_per_ug
    factor = convert(1.0, level, np.array(number))
    for column in ("value", "lloq", "limit"):
        if column in frame:
            frame[column] = frame[column].astype(float)
            frame.loc[here, column] = chosen[column].to_numpy(dtype=float) * factor
    frame.loc[here, ["analyte", "unit"]] = list(new)
    cells = (frame[here] if new[1] == CELLS else chosen)["value"].to_numpy(dtype=float)
    _warn_of_more_cells_than_there_are(chosen, cells / level, label)
    note = (
        f"observations: {len(chosen)} of {old[0]} in {old[1]} converted to {new[0]} in {new[1]} "
        f"through {how}, {GENOMES_PER_UG:.0f} genomes per µg of DNA and the VCN that was given."
    )
    if whole is None:
        return frame
    if (whole.summaries["analyte"] == old[0]).any():
        note += f" Published statistics of {old[0]} stay in {old[1]}."
    return dataclasses.replace(whole, observations=frame, notes=(*whole.notes, note))


def _rows_of(frame: pd.DataFrame, what: tuple[str, str], label: str) -> pd.DataFrame:
    """The rows of an analyte, all of which must be in its unit."""
    analyte, unit = what
    rows = frame[frame["analyte"] == analyte]
    if rows.empty:
        known = ", ".join(map(repr, dict.fromkeys(frame["analyte"])))
        raise DatasetError(f"{label} has no {analyte!r}; it has {known or 'no rows'}.")
    wrong = rows[rows["unit"] != unit]
    if not wrong.empty:
        raise DatasetError(
            f"{label}: {analyte!r} must be in {unit}, but is in {wrong['unit'].iloc[0]!r} "
            f"{_place(wrong.iloc[0])}. carpk.Dataset.from_frames converts units."
        )
    return rows


def _leukocytes(frame: pd.DataFrame, chosen: pd.DataFrame, wbc: str, label: str) -> np.ndarray:
    """Leukocytes [cells/µL] at every sample, log-linear in time between the patient's counts."""
    counts = _rows_of(frame, (wbc, CELLS), label)
    level = np.empty(len(chosen))
    by_patient = dict(list(counts.groupby("patient")))
    owners = chosen["patient"].to_numpy()
    for patient in dict.fromkeys(owners):
        own = by_patient.get(patient)
        if own is None:
            raise DatasetError(
                f"{label}: patient {patient!r} has no {wbc!r}. Add the patient's leukocyte counts, "
                "or leave out the patient."
            )
        own = own.sort_values("time")
        _check_counts(own, wbc, label)
        days, sampled = own["time"].to_numpy(float), chosen["time"].to_numpy(float)
        mine = np.flatnonzero(owners == patient)
        for day in sampled[mine]:
            if not days[0] <= day <= days[-1]:
                raise DatasetError(
                    f"{label}: patient {patient!r} has a sample on day {day:g}, but {wbc!r} only "
                    f"from day {days[0]:g} to day {days[-1]:g}, and counts are not extrapolated. "
                    "Add a count of that day, or leave the sample out."
                )
        logs = np.log(own["value"].to_numpy(float))
        level[mine] = np.exp(np.interp(sampled[mine], days, logs))
    return level


def _check_counts(own: pd.DataFrame, wbc: str, label: str) -> None:
    """One patient's counts: measured, above 0, one at a time."""
    censored = own["censored"] if "censored" in own else pd.Series(0, index=own.index)
    advice = "Give the number of cells, or leave the count out."
    for wrong, words in (
        (~(own["value"] > 0), "is not above 0"),
        (censored != 0, "is only known to lie beyond a limit"),
        (own["time"].duplicated(), "is the second of that time"),
    ):
        if wrong.any():
            raise DatasetError(f"{label}: {wbc!r} {_place(own[wrong].iloc[0])} {words}. {advice}")


def _warn_of_more_cells_than_there_are(rows: pd.DataFrame, share: Any, label: str) -> None:
    over = np.flatnonzero(share > 1)
    if over.size:
        warnings.warn(
            f"{label}: {over.size} sample(s), the first {_place(rows.iloc[over[0]])}, hold more "
            f"CAR-T cells than leukocytes ({share[over[0]]:.3g}-fold). Look at vcn, at the unit of "
            "the counts, and at which cells the DNA is from.",
            CarpkWarning,
            stacklevel=4,
        )


def _place(row: Any) -> str:
    return f"of patient {row['patient']!r} on day {row['time']:g}"


def _of(vcn: float | Mapping[Any, float], patient: Any, label: str) -> Any:
    if not isinstance(vcn, Mapping):
        return vcn
    if patient not in vcn:
        raise DatasetError(f"{label}: `vcn` has no patient {patient!r}. Add the patient's number.")
    return vcn[patient]


def _positive(number: Any, what: str, label: str) -> float:
    if number is None or not 0 < float(number) < np.inf:
        raise DatasetError(f"{label}: {what} must be a number above 0, but is {number!r}.")
    return float(number)

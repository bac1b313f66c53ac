"""Results of the information: directions, collinear pairs, parameters to fix."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from carpk._late import late
from carpk._tables import as_frame
from carpk.information.columns import Column
from carpk.population.parameters import Kind
from carpk.population.population import Population
from carpk.verdict.priors import UNINFORMED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

INFORMED = math.sqrt(0.5)  # posterior over prior SD where the data say as much as the prior
COLLINEAR = 0.95  # cosine of two sensitivities that the data can hardly tell apart
LOADING = 0.25  # of a parameter in a direction, from where it is named
SINGULAR = 1e-10  # of the largest information, from where on a direction has none
SHOWN = 6  # pairs when printed
WORTH = 0.02  # fall of a ratio that is worth a sentence
SD_TO_LOG2 = 0.5 / math.log(2)


class Fixing(TypedDict):
    """A row of `Identifiability.fix`, but for its advice."""

    parameter: str
    ratio: float
    alike: str
    cosine: float
    gains: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Identifiability:
    """Identifiable parameters of a design, and advice on the others.

    Attributes:
        columns: the scalar parameters, in the order of the matrices.
        information: expected Fisher information on the estimation scale, (p, p).
        structural: parameter -> whether it is a typical value, which can be fixed.
        notes: how it was computed, a sentence each.
    """

    columns: tuple[Column, ...]
    information: np.ndarray
    structural: Mapping[str, float]
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The scalar parameters."""
        return tuple(c.name for c in self.columns)

    @property
    def prior_sd(self) -> np.ndarray:
        """Prior SDs on the estimation scale, (p,)."""
        return np.array([c.prior_sd for c in self.columns])

    @cached_property
    def relative(self) -> np.ndarray:
        """The information in units of the priors': 1 is as much as the prior, (p, p)."""
        return self.information * np.outer(self.prior_sd, self.prior_sd)

    @cached_property
    def covariance(self) -> np.ndarray:
        """Expected posterior covariance in units of prior SDs, (p, p)."""
        return posterior(self.relative)

    @property
    def ratio(self) -> np.ndarray:
        """Expected posterior SD over prior SD, (p,)."""
        return np.sqrt(np.diag(self.covariance))

    @property
    def gain(self) -> float:
        """Expected information gain over the prior [bit]: 1 halves one SD.

        The D-criterion of Bayesian design (Chaloner & Verdinelli 1995, doi:10.1214/ss/1177009939).
        """
        return float(SD_TO_LOG2 * np.linalg.slogdet(np.eye(len(self.columns)) + self.relative)[1])

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per parameter.

        Columns: value at which this holds; scale, of the SDs that follow; prior_sd; posterior_sd,
        expected; ratio of the two; rse_percent, the expected standard error without any prior over
        the value, infinite where the data alone do not determine the parameter; verdict:
        "informed" (the data say more than the prior), "weak", or "not" (the ratio is above 0.9).
        """
        sd = self.ratio * self.prior_sd
        verdict = np.select([self.ratio > UNINFORMED, self.ratio > INFORMED], ["not", "weak"], "")
        return as_frame(
            {
                "value": [c.value for c in self.columns],
                "scale": [c.transform.name for c in self.columns],
                "prior_sd": self.prior_sd,
                "posterior_sd": sd,
                "ratio": self.ratio,
                "rse_percent": self._relative_errors(),
                "verdict": np.where(verdict == "", "informed", verdict),
            },
            labels=("parameter", self.names),
        )

    def _relative_errors(self) -> np.ndarray:
        """Expected standard errors without a prior, in percent of the values."""
        values, vectors = np.linalg.eigh(self.relative)
        known = values > SINGULAR * max(values[-1], 0.0)
        variance = (vectors[:, known] ** 2) @ (1 / values[known])
        free = (vectors[:, ~known] ** 2).sum(axis=1) > math.sqrt(SINGULAR)
        se = np.where(free, np.inf, np.sqrt(variance)) * self.prior_sd
        slope = np.array([float(c.transform.derivative(c.value)) for c in self.columns])
        value = np.abs([c.value for c in self.columns])
        unknown = np.full(se.size, np.nan)
        errors: np.ndarray = 100 * np.divide(se / slope, value, out=unknown, where=value > 0)
        return errors

    @cached_property
    def directions(self) -> pd.DataFrame:
        """Independent directions in units of prior SDs, the best informed first.

        Columns: information, over that of the prior; composition: the parameters that move by most
        of it, "rho up, kap down".
        """
        values, vectors = np.linalg.eigh(self.relative)
        rows = []
        for value, v in zip(values[::-1], vectors.T[::-1], strict=True):
            order = np.argsort(-np.abs(v), kind="stable")
            v = v * np.sign(v[order[0]])
            parts = [i for i in order if abs(v[i]) >= LOADING]
            words = [f"{self.names[i]} {'up' if v[i] > 0 else 'down'}" for i in parts]
            rows.append((max(float(value), 0.0), ", ".join(words)))
        labels = "direction", range(1, len(rows) + 1)
        return as_frame(rows, ["information", "composition"], labels=labels)

    @cached_property
    def collinear(self) -> pd.DataFrame:
        """Pairs that act on the data alike: a, b and the cosine of their sensitivities.

        Above 0.95 in size, of parameters each of which the data would tell if it were the only
        unknown; the most alike first.
        """
        rows = [
            (self.names[i], self.names[j], self._cosines[i, j])
            for i in range(len(self.columns))
            for j in range(i)
            if abs(self._cosines[i, j]) > COLLINEAR
            and min(self.relative[i, i], self.relative[j, j]) > 1
        ]
        rows.sort(key=lambda row: -abs(row[2]))
        return as_frame(rows, ["a", "b", "cosine"])

    @cached_property
    def _cosines(self) -> np.ndarray:
        size = np.sqrt(np.diag(self.relative))
        outer = np.outer(size, size)
        none = np.zeros_like(outer)
        cosines: np.ndarray = np.divide(self.relative, outer, out=none, where=outer > 0)
        return cosines

    @cached_property
    def fix(self) -> pd.DataFrame:
        """Parameters to fix, or to give an external prior; in this order, one at a time.

        Each time the parameter whose SD the data shrink least, of those that they do not tell, or
        not from another one: of all it gives up the least. Columns: parameter; ratio of its
        posterior to its prior SD when its turn comes; alike, the parameter that acts on the data
        most like it, and their cosine; gains, the parameter that fixing it helps most, with that
        one's ratio before and after; advice, a sentence.
        """
        free, rows = np.arange(len(self.columns)), []
        while free.size > 1:
            here, cosine = (x[np.ix_(free, free)] for x in (self.relative, self._cosines))
            size = np.abs(cosine - np.eye(free.size) * np.diag(cosine))
            ratio = np.sqrt(np.diag(posterior(here)))
            told = np.diag(here) > 1
            paired = ((size > COLLINEAR) & told & told[:, None]).any(axis=1)
            open_ = (ratio > UNINFORMED) | (paired & (ratio > INFORMED))
            if not open_.any():
                break
            i = _last_largest(np.where(open_, ratio, 0.0))
            rest = np.delete(np.arange(free.size), i)
            after = np.sqrt(np.diag(posterior(here[np.ix_(rest, rest)])))
            gains = int(np.argmax(ratio[rest] / after))
            alike = int(np.argmax(size[i]))
            row: Fixing = {
                "parameter": self.names[free[i]],
                "ratio": ratio[i],
                "alike": self.names[free[alike]],
                "cosine": cosine[i, alike],
                "gains": self.names[free[rest[gains]]],
                "before": ratio[rest[gains]],
                "after": after[gains],
            }
            rows.append(row | {"advice": self._advice(row, self.columns[free[i]], here[i, i])})
            free = np.delete(free, i)
        columns = ["parameter", "ratio", "alike", "cosine", "gains", "before", "after", "advice"]
        return as_frame(rows, columns, index="parameter")

    def _advice(self, row: Fixing, column: Column, alone: float) -> str:
        """A sentence of `fix`; `alone` is the relative information if nothing else is unknown."""
        name, alike = row["parameter"], f"{row['alike']} (cosine {row['cosine']:.3f})"
        text = f"Give {name} a prior from elsewhere"
        if name in self.structural:
            fixed = f"fixed={{{name!r}: {column.value:.3g}}}"
            text = f"Fix {name} ({fixed}), or give it a prior from elsewhere"
        if 1 / math.sqrt(1 + alone) > UNINFORMED:
            return f"{text}: these data say next to nothing about it, whatever else is known."
        if abs(row["cosine"]) > COLLINEAR:
            text += f": it cannot be told from {alike}"
        else:
            text += f": these data tell it together with others only, above all {alike}"
        if row["before"] - row["after"] < WORTH:
            return f"{text}."
        return (
            f"{text}. The SD of {row['gains']} then falls from {row['before']:.2f} to "
            f"{row['after']:.2f} of the prior's."
        )

    def compare(self, other: Identifiability) -> pd.DataFrame:
        """Expected posterior SDs of two designs, for the parameters that both have.

        Columns: this, other (on the estimation scale) and change_percent from this to the other.
        `gain` of either says which is better as a whole.
        """
        both = [n for n in self.names if n in other.names]
        this, that = (x.table.loc[both, "posterior_sd"] for x in (self, other))
        return as_frame({"this": this, "other": that, "change_percent": 100 * (that / this - 1)})

    def plot(self) -> Figure:
        """Expected posterior over prior SDs, and the information by direction."""
        figure: Figure = late("carpk.plot.identifiability")(self)
        return figure

    def __repr__(self) -> str:
        p, informed = len(self.columns), int((self.directions["information"] > 1).sum())
        lines = [
            f"{informed} of {p} directions carry more information than the prior; expected gain "
            f"{self.gain:.1f} bits, at one point and by linearization."
        ]
        for word, verdict in (
            ("Informed", "informed"),
            ("Weakly informed", "weak"),
            ("Left to the prior", "not"),
        ):
            named = self.table.index[self.table["verdict"] == verdict]
            lines.append(f"  {word}: {', '.join(named) or 'none'}")
        for row in self.collinear[:SHOWN].itertuples():
            lines.append(
                f"  Told together, not apart: {row.a} and {row.b} (cosine {row.cosine:.3f})"
            )
        if len(self.collinear) > SHOWN:
            lines.append(f"  ... and {len(self.collinear) - SHOWN} more pairs in `collinear`")
        lines += [f"  {k}. {text}" for k, text in enumerate(self.fix["advice"], 1)]
        lines += [f"  Note: {note}" for note in self.notes]
        table = self.table.to_string(float_format="{:.3g}".format)
        return "\n".join([*lines, "SDs on the estimation scale:", table])


def posterior(relative: np.ndarray) -> np.ndarray:
    """Posterior covariance in prior SDs, from the information in the same units."""
    return np.linalg.inv(np.eye(len(relative)) + relative)


def _last_largest(x: np.ndarray) -> int:
    """Index of the largest; of those that are equal but for rounding, the last."""
    return int(np.flatnonzero(x > x.max() - 1e-6)[-1])


def result_of(
    population: Population, columns: Sequence[Column], information: np.ndarray, notes: Sequence[str]
) -> Identifiability:
    structural = {c.name: c.value for c in columns if c.parameter.kind == Kind.TYPICAL}
    return Identifiability(tuple(columns), information, structural, tuple(notes))

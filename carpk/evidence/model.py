"""Priors, and the joint density of the facts that are fitted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from carpk._types import Arrays
from carpk.errors import DatasetError
from carpk.evidence.likelihoods import LIKELIHOODS, SIZED, SLOPES, ArmPrediction, ReportedResult
from carpk.evidence.table import check, load
from carpk.params import transform_for
from carpk.population.parameters import WHOLE_LINE, Kind, PopulationParameter
from carpk.population.random_effects import RandomEffects

if TYPE_CHECKING:
    import pandas as pd

PRIORS: dict[str, dist.Distribution] = {
    "flu": dist.Normal(0.0, 1.5),  # log10 fold: centred on no effect, up to 300-fold either way
    "cy": dist.Normal(0.0, 1.5),
    # share of Cy's effect that is left on top of Flu: 1 if they add up, 0 if Flu does it all
    "left": dist.Uniform(0.0, 1.0),
    "tau": dist.HalfNormal(0.5),  # SD between studies, log10
    "level": dist.Normal(0.0, 1.0),  # log10 fold without lymphodepletion, typical product
    "level_sd": dist.HalfNormal(1.0),  # its SD between products
    # SD between patients: 0.50 log10 is a geometric CV of 163 % (tisa-cel Cmax, EU SmPC 5.2)
    "spread": dist.LogNormal(math.log(0.7), 0.4),
    # logits per log10 of expansion: responders' median Cmax is 1.7 to 4.5 times that of others
    # (tisa-cel, liso-cel, ide-cel), which at 0.5 log10 between patients is a slope of 1 to 2.6
    "slope_response": dist.HalfNormal(1.5),
    "slope_detectable": dist.HalfNormal(1.5),
    "slope_persistence": dist.HalfNormal(1.0),  # log10 of time per log10 of expansion: assumed
    # log10 by which fewer leukocytes per µg of DNA raise copies after lymphodepletion: assumed,
    # between none and the tenfold or more by which leukocytes fall
    "dilution": dist.HalfNormal(0.7),
    "base": dist.Normal(0.0, 1.5),  # logit of response or detection without lymphodepletion
}
SUGGESTED: dict[str, dist.Distribution] = {  # narrower, for solid tumors: assumed, and no default
    "flu": dist.Normal(1.7, 0.7),
    "cy": dist.Normal(0.2, 0.4),
}


class Model(NamedTuple):
    """The facts that are fitted, and where each belongs.

    Attributes:
        table: rows with use "fit".
        studies, products: names, in order.
        outcomes: (product, outcome) of every base rate.
        priors: name -> distribution.
    """

    table: pd.DataFrame
    studies: tuple[str, ...]
    products: tuple[str, ...]
    outcomes: tuple[tuple[str, str], ...]
    priors: Mapping[str, dist.Distribution]

    # What `judge` asks of a bound population model.
    at_reference: Mapping[str, float] = {}
    individual: None = None
    random_effects: RandomEffects = RandomEffects({})

    @property
    def parameters(self) -> dict[str, PopulationParameter]:
        """Prior and posterior are compared on the scale of the prior; no parameter has an end."""
        plain, outcomes = transform_for(WHOLE_LINE), tuple(map(", ".join, self.outcomes))
        found = {
            name: PopulationParameter(name, Kind.TYPICAL, prior, plain)
            for name, prior in self.priors.items()
        }
        if "base" in found:
            labels = {"outcome": outcomes}
            found["base"] = dataclasses.replace(found["base"], dims=("outcome",), labels=labels)
        return found

    def data(self) -> dict[str, np.ndarray]:
        """Input of `numpyro_model`, shape (row,): value, p and weight, 1 if it is not given."""
        t = self.table
        columns = {"value": t["value"], "p": t["p"], "weight": t["weight"].fillna(1.0)}
        return {name: column.to_numpy() for name, column in columns.items()}

    def log_likelihoods(self, theta: Mapping[str, Array], data: Mapping[str, Arrays]) -> Array:
        """ln likelihood of every row, shape (row,), unweighted.

        Args:
            theta: the parameters in `priors`, and `a` (product,), `u`, `v` (study,).
            data: "value" and "p" of the rows.
        """
        t = self.table
        s = [self.studies.index(x) for x in t["study"]]
        p = [self.products.index(x) for x in t["product"]]
        last = len(self.outcomes)
        outcomes = {o: i for i, o in enumerate(self.outcomes)}
        base = [outcomes.get(o, last) for o in zip(t["product"], t["kind"], strict=True)]
        flu = t["flu"].to_numpy() * (theta["flu"] + theta["tau"] * theta["u"][np.array(s)])
        on_top = jnp.where(t["flu"].to_numpy() == 1, theta["left"], 1.0)
        cy = on_top * (theta["cy"] + theta["tau"] * theta["v"][np.array(s)])
        arms = ArmPrediction(
            level=theta["level"] + theta["level_sd"] * theta["a"][np.array(p)],
            effect=jnp.stack([flu, flu + cy], axis=1),
            share=jnp.stack([1 - t["cy"].to_numpy(), t["cy"].to_numpy()], axis=1),
            spread=jnp.full(len(t), theta["spread"]),
            base=jnp.append(theta.get("base", jnp.zeros(0)), 0.0)[np.array(base)],
            slope=jnp.stack([theta[SLOPES[k]] if k in SLOPES else 0.0 for k in t["kind"]]),
            dilution=jnp.full(len(t), theta["dilution"]),
        )
        each, order = [], []
        for kind, rows in t.groupby("kind").indices.items():
            likelihood = LIKELIHOODS[str(kind)]
            n = t["n"].to_numpy()[rows]
            facts = ReportedResult(data["value"][rows], n, data["p"][rows])
            mine = jax.tree.map(lambda x, rows=rows: x[rows], arms)
            if kind in SIZED:
                one = [jax.tree.map(lambda x, i=i: x[i], (facts, mine)) for i in range(len(rows))]
                found = jnp.stack([likelihood(f._replace(n=int(f.n)), arm) for f, arm in one])
            else:
                found = jax.vmap(likelihood)(facts, mine)
            each.append(found)
            order.append(rows)
        return jnp.concatenate(each)[np.argsort(np.concatenate(order))]

    def sizes(self) -> dict[str, int]:
        """Length of every vector of parameters."""
        sizes = {"base": len(self.outcomes), "a": len(self.products)}
        return sizes | {"u": len(self.studies), "v": len(self.studies)}

    def numpyro_model(self, data: Mapping[str, Arrays] | None = None) -> None:
        """The joint density; `data` replaces columns of the table, see there."""
        facts: dict[str, Arrays] = {**self.data(), **(data or {})}
        standard = dict.fromkeys("auv", dist.Normal(0.0, 1.0))
        sizes = self.sizes()
        theta = {
            name: numpyro.sample(
                name, prior.expand([sizes[name]]).to_event(1) if name in sizes else prior
            )
            for name, prior in {**self.priors, **standard}.items()
        }
        # NumPyro first runs a model outside of `jit`, which would compile each operation alone
        each = jax.jit(lambda *given: self.log_likelihoods(*given))(theta, facts)
        total = numpyro.deterministic("log_likelihood", jnp.sum(facts["weight"] * each))
        numpyro.factor("facts", total)


def model(
    table: pd.DataFrame | None = None, priors: Mapping[str, dist.Distribution] | None = None
) -> Model:
    """The model of a table's fitted rows; `priors` replace those of `PRIORS` by name."""
    table = load() if table is None else table
    rows = table[table["use"] == "fit"].reset_index(drop=True)
    unknown = [name for name in priors or {} if name not in PRIORS]
    if unknown:
        raise DatasetError(
            f"evidence: there is no parameter {unknown[0]!r} to give a prior; there are "
            f"{', '.join(PRIORS)}."
        )
    if rows.empty:
        raise DatasetError(
            "evidence: no row of the table has use 'fit', so there is nothing to do."
        )
    for i, row in enumerate(rows.itertuples()):
        check(row, f"evidence, fitted row {i + 1} ({row.study}, {row.kind})")
    linked = rows[rows["kind"].isin(["detectable", "response"])]
    believed = {**PRIORS, **(priors or {})}
    if linked.empty:
        del believed["base"]
    return Model(
        table=rows,
        studies=tuple(dict.fromkeys(rows["study"])),
        products=tuple(dict.fromkeys(rows["product"])),
        outcomes=tuple(dict.fromkeys(zip(linked["product"], linked["kind"], strict=True))),
        priors=believed,
    )

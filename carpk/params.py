"""Parameters of a structural model: typed fields with value, unit, meaning, source and bounds.

    class Params(ck.Params):
        tmax: ck.Scalar = ck.param(9.3, "day", "time of the peak", source="Table 1", iiv=0.38)

`Params()` is the typical patient (THETA); an instance is a pytree, so it can be traced, batched
and differentiated. The metadata live on the class, never in the numbers.

What is known of a patient and enters the equations (weight, renal function, a class of patients) is
a field made with `covariate`: `Params(WT=20.0)` is a patient of 20 kg. It is never estimated.

Estimation works on an unbounded scale per parameter, given by its bounds: the log for (0, inf),
the logit for (a, b), the value itself for (-inf, inf). Random and covariate effects act there, so
a parameter varies log- or logit-normally between patients.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from carpk._late import late
from carpk._tables import as_frame
from carpk._types import Numbers
from carpk.errors import ModelError

if TYPE_CHECKING:
    import pandas as pd

Scalar = Float[Array, ""] | float


class Transform(NamedTuple):
    """A smooth one-to-one map from a parameter's range to the whole line, and back."""

    name: str
    forward: Callable[[Numbers], Numbers]
    inverse: Callable[[Numbers], Numbers]
    derivative: Callable[[Numbers], Numbers]  # of `forward`


def transform_for(bounds: tuple[float, float]) -> Transform:
    """The estimation scale of a parameter with these bounds."""
    low, high = bounds
    if (low, high) == (0.0, math.inf):
        return Transform("log", jnp.log, jnp.exp, lambda x: 1 / x)
    if math.isfinite(low) and math.isfinite(high):
        width = high - low
        return Transform(
            "logit",
            lambda x: jsp.logit((x - low) / width),
            lambda u: low + width * jsp.expit(u),
            lambda x: width / ((x - low) * (high - x)),
        )
    if (low, high) == (-math.inf, math.inf):
        return Transform("identity", lambda x: x, lambda u: u, jnp.ones_like)
    raise ModelError(
        f"A parameter has bounds ({low}, {high}), but they must be (0, inf), (-inf, inf) or two "
        "finite numbers; rewrite the parameter so that one of these holds."
    )


class ParamInfo(NamedTuple):
    """Metadata of a parameter."""

    symbol: str
    value: float
    unit: str
    about: str
    source: str
    bounds: tuple[float, float]
    iiv: float | None
    prior_sd: float
    is_covariate: bool = False
    share: float | None = None
    products: tuple[str, ...] = ()

    @property
    def transform(self) -> Transform:
        return transform_for(self.bounds)


def param(
    value: float,
    unit: str,
    about: str,
    source: str = "",
    bounds: tuple[float, float] = (0.0, math.inf),
    iiv: float | None = None,
    prior_sd: float = 1.0,
    cv: float | None = None,
) -> Any:
    """A parameter of a structural model.

    Args:
        value: typical value, in `unit`.
        unit: "1" for a pure number.
        about: what it means, in words a clinician understands.
        source: paper and table, or "assumed" with the reason.
        bounds: (0, inf) by default; also (a, b) or (-inf, inf).
        iiv: published between-patient standard deviation on the estimation scale (log or
            logit), where there is one. Always a standard deviation, never a variance.
        prior_sd: how far the typical value of another cohort or product may lie from this one:
            SD of the default prior on the estimation scale. An assumption, to be replaced where
            more is known.
        cv: published between-patient CV of a log-normal parameter, 0.23 for 23 %, in place of
            `iiv`, which it makes sqrt(ln(1 + cv²)).
    """
    low, high = bounds
    if cv is not None:
        if iiv is not None or (low, high) != (0.0, math.inf) or not cv >= 0:
            raise ModelError(
                f"param({value}, ..., cv={cv}): a CV is at least 0, takes the place of `iiv`, and "
                "belongs to a parameter with bounds (0, inf)."
            )
        iiv = math.sqrt(math.log1p(cv**2))
    if not low < value < high:
        raise ModelError(
            f"param({value}, {unit!r}, {about!r}): the value must lie inside its bounds "
            f"({low}, {high})."
        )
    if not (unit and about):
        raise ModelError(
            f"param({value}, {unit!r}, {about!r}): every parameter needs a unit and a meaning; "
            'write "1" for a pure number.'
        )
    if iiv is not None and iiv < 0:
        raise ModelError(f"param({value}, ...): iiv is a standard deviation, but {iiv} < 0.")
    transform_for(bounds)
    metadata = {
        "unit": unit,
        "about": about,
        "source": source,
        "bounds": bounds,
        "iiv": iiv,
        "prior_sd": prior_sd,
    }
    return eqx.field(default=float(value), metadata=metadata)


def covariate(
    value: float,
    unit: str,
    about: str,
    source: str = "",
    share: float | None = None,
    products: Sequence[str] = (),
) -> Any:
    """A covariate in the equations of a structural model: known of each patient, not estimated.

    Data fill it from the column of its name in the table of patients; `simulate` takes it in
    `covariates`. Patients of whom it is not known have the reference value.

    Args:
        value: at the reference patient, in `unit`; for a yes-or-no covariate 0 or 1.
        unit: "1" for a pure number.
        about: what it is; what 0 and 1 mean.
        source: where the reference value comes from.
        share: of a yes-or-no covariate that nobody observes (a latent class), the published share
            of patients who have 1; virtual patients are drawn with it.
        products: of the day of a first dose, the products that count: where the data have no
            such column, their doses fill it, from day 0 on.
    """
    if not (unit and about):
        raise ModelError(
            f"covariate({value}, {unit!r}, {about!r}): every covariate needs a unit and a meaning; "
            'write "1" for a pure number.'
        )
    if not math.isfinite(value):
        raise ModelError(f"covariate({value}, ...): the reference value must be a finite number.")
    if share is not None and not (0 <= share <= 1 and value in (0, 1)):
        raise ModelError(
            f"covariate({value}, ..., share={share}): a share must lie between 0 and 1, and "
            "belongs to a covariate that is 0 or 1."
        )
    metadata = {
        "unit": unit,
        "about": about,
        "source": source,
        "bounds": (-math.inf, math.inf),
        "iiv": None,
        "prior_sd": 0.0,
        "is_covariate": True,
        "share": share,
        "products": tuple(products),
    }
    return eqx.field(default=float(value), metadata=metadata)


class Params(eqx.Module):
    """Base class of the parameters of a structural model. See `param` and `covariate`."""

    _origin: ClassVar[Mapping[str, Any] | None] = None  # of the model, where it was loaded

    @classmethod
    def covariates(cls) -> tuple[str, ...]:
        """The fields that are covariates."""
        return tuple(name for name, info in cls.info().items() if info.is_covariate)

    @classmethod
    def info(cls) -> dict[str, ParamInfo]:
        """Symbol -> its metadata, in the order of definition."""
        infos = {}
        for field in dataclasses.fields(cls):
            if "unit" not in field.metadata:
                raise ModelError(
                    f"{cls.__name__}.{field.name} has no unit and no meaning; define it with "
                    f'`{field.name}: ck.Scalar = ck.param(value, "unit", "meaning", source=...)`.'
                )
            infos[field.name] = ParamInfo(
                symbol=field.name,
                value=field.default,  # type: ignore[arg-type]
                **field.metadata,
            )
        return infos

    @classmethod
    def describe(cls) -> pd.DataFrame:
        """One row per field: symbol, value, unit, about, iiv (an SD), scale, source.

        `scale` is the estimation scale, or "covariate".
        """
        rows = [
            {
                "symbol": i.symbol,
                "value": i.value,
                "unit": i.unit,
                "about": i.about,
                "iiv": math.nan if i.iiv is None else i.iiv,
                "scale": "covariate" if i.is_covariate else i.transform.name,
                "source": i.source,
            }
            for i in cls.info().values()
        ]
        return as_frame(rows, index="symbol")

    def items(self) -> Iterator[tuple[str, Numbers]]:
        """(symbol, value) in the order of definition."""
        for field in dataclasses.fields(self):
            yield field.name, getattr(self, field.name)

    def during(self, occasion: ArrayLike) -> Self:
        """The parameters of a patient, leaves () or (occasion,), in one occasion; leaves ()."""
        now: Self = jax.tree.map(lambda x: x if jnp.ndim(x) == 0 else x[occasion], self)
        return now

    def replace(self, **changes: ArrayLike) -> Self:
        """A copy with other values; names that are not parameters are refused."""
        unknown = sorted(set(changes) - set(self.info()))
        if unknown:
            raise ModelError(
                f"{unknown[0]!r} is not a parameter; known are {', '.join(self.info())}."
            )
        return dataclasses.replace(self, **changes)

    def __reduce__(self) -> str | tuple[object, ...]:
        """Pickle by model origin: classes created inside `build()` cannot be imported by name."""
        origin = vars(type(self)).get("_origin")
        if origin is None:
            return super().__reduce__()
        return late("carpk.library.again.params_again"), (
            origin,
            {k: jax.device_get(v) for k, v in self.items()},
        )

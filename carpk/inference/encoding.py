"""Objects as plain JSON, exactly, and back: for files that hold a fit.

Numbers keep every bit (the shortest text that reads back as the same float64; arrays as bytes), and
None, bool, int, float, text, tuple and list keep their kinds. An object is its class and fields.
Reading makes objects of the classes that a `Codec` knows and of NumPyro's distributions, and of
nothing else: a file can name no other class or function. A class of the user's own is kept with its
source, which is run only if reading is told to trust it.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NotRequired, TypeAlias, TypedDict, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
from numpyro.distributions.util import lazy_property

from carpk.errors import FitError
from carpk.inference.custom import class_of, source_of

TAG: Final = "$"  # key that tells an encoded object from a plain mapping
TEXT = pd.Series(["text"]).dtype  # of columns of text, in this version of pandas
NUMPYRO = (dist.Distribution, dist.transforms.Transform, dist.constraints.Constraint)

if TYPE_CHECKING:
    OfNumPyro: TypeAlias = (
        dist.Distribution | dist.transforms.Transform | dist.constraints.Constraint
    )

Json: TypeAlias = "bool | int | float | str | list[Json] | Mapping[str, object] | None"
"""What `json.dumps` takes."""


class EncodedColumn(TypedDict):
    """A column of a table; of categories, `values` are their codes."""

    name: NotRequired[Json]
    dtype: str
    values: list[Json]
    categories: NotRequired[EncodedColumn]
    ordered: NotRequired[bool]


EncodedTable = TypedDict("EncodedTable", {"$": str, "rows": int, "columns": list[EncodedColumn]})
EncodedArray = TypedDict(
    "EncodedArray", {"$": str, "jax": bool, "dtype": str, "shape": list[int], "value": str}
)
EncodedObject = TypedDict(
    "EncodedObject",
    {
        "$": str,
        "class": str,
        "source": NotRequired[str],
        "fields": NotRequired[Json],
        "data": NotRequired[Json],
        "static": NotRequired[Json],
    },
)


class Untrusted(FitError):
    """Refusal to run the code that a file holds, unless trusted."""


class Unreadable(FitError):
    """Content of a file that cannot be restored."""


@dataclasses.dataclass(frozen=True)
class Codec:
    """Encodes and decodes objects.

    Attributes:
        classes: name -> class that a file may name.
        own: base classes of which the user may have classes of their own, kept with their source.
        texts: whether what was kept as its text is read as that text, and not refused.
    """

    classes: Mapping[str, type]
    own: tuple[type, ...] = ()
    texts: bool = False

    def encode(self, x: object) -> Json:
        """`x` as what `json.dumps` takes; what cannot be made again is kept as its text."""
        if isinstance(x, np.generic):
            x = x.item()
        if x is None or isinstance(x, bool | int):
            return x if x is None or isinstance(x, bool) else int(x)
        if isinstance(x, str):
            return str(x)
        if isinstance(x, float):
            return x if math.isfinite(x) else {TAG: "float", "value": repr(float(x))}
        if isinstance(x, list):
            return [self.encode(y) for y in x]
        if isinstance(x, tuple | set | frozenset):
            kind = "tuple" if isinstance(x, tuple) else "set"
            items = x if kind == "tuple" else sorted(x, key=repr)
            return {TAG: kind, "value": [self.encode(y) for y in items]}
        if isinstance(x, Mapping):
            if all(isinstance(k, str) for k in x) and TAG not in x:
                return {str(k): self.encode(v) for k, v in x.items()}
            return {TAG: "pairs", "value": [[self.encode(k), self.encode(v)] for k, v in x.items()]}
        if x is pd.NA or x is pd.NaT:
            return {TAG: "missing", "value": str(x)}
        if isinstance(x, datetime.date | datetime.time):
            return {TAG: type(x).__name__, "value": x.isoformat()}
        if isinstance(x, pd.DataFrame):
            return self.encode_table(x)
        if isinstance(x, np.ndarray | jax.Array):
            return self._encode_array(x)
        if isinstance(x, NUMPYRO):
            return self._encode_numpyro(x)
        return self._encode_object(x)

    def decode(self, spec: Any, *, trust: bool = False) -> Any:
        """The inverse of `encode`.

        Raises:
            Untrusted: it holds code, and `trust` is not given.
            Unreadable: it holds what could be kept as text only, or an unknown class.
        """
        if isinstance(spec, list):
            return [self.decode(y, trust=trust) for y in spec]
        if not isinstance(spec, dict):
            return spec
        if TAG not in spec:
            return {k: self.decode(v, trust=trust) for k, v in spec.items()}
        kind = spec[TAG]
        if kind in ("float", "missing"):
            value = spec["value"]
            return {"<NA>": pd.NA, "NaT": pd.NaT}[value] if kind == "missing" else float(value)
        if kind in ("tuple", "set"):
            items = self.decode(spec["value"], trust=trust)
            return tuple(items) if kind == "tuple" else set(items)
        if kind == "pairs":
            return dict(self.decode(spec["value"], trust=trust))
        if kind in ("date", "time", "datetime", "Timestamp"):
            makers: dict[str, Callable[[str], object]] = {
                "Timestamp": pd.Timestamp,
                "datetime": datetime.datetime.fromisoformat,
            }
            makers |= {"date": datetime.date.fromisoformat, "time": datetime.time.fromisoformat}
            return makers[kind](spec["value"])
        if kind == "table":
            return self.decode_table(cast("EncodedTable", spec))
        if kind == "array":
            return _decode_array(cast("EncodedArray", spec))
        if kind == "text":
            if self.texts:
                return spec["value"]
            raise Unreadable(f"{spec['value']} could be kept as text only")
        return self._decode_object(cast("EncodedObject", spec), trust)

    # -- arrays and tables --------------------------------------------------------------------

    def _encode_array(self, x: np.ndarray | jax.Array) -> Json:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return self._as_text(x)
        plain = np.asarray(x)
        if plain.dtype.kind not in "biuf":
            return {TAG: "tuple", "value": [self.encode(y) for y in plain.tolist()]}
        content = base64.b64encode(np.ascontiguousarray(plain).tobytes()).decode()
        more = {"dtype": plain.dtype.str, "shape": list(plain.shape), "value": content}
        return {TAG: "array", "jax": isinstance(x, jax.Array), **more}

    def encode_table(self, table: pd.DataFrame) -> EncodedTable:
        """Columns with their kinds; the index is left out."""
        columns: list[EncodedColumn] = [
            {"name": self.encode(name), **self._encode_column(table.iloc[:, i])}
            for i, name in enumerate(table.columns)
        ]
        return {TAG: "table", "rows": len(table), "columns": columns}

    def _encode_column(self, column: pd.Series) -> EncodedColumn:
        if isinstance(column.dtype, pd.CategoricalDtype):
            categories = self._encode_column(column.cat.categories.to_series())
            codes: list[Json] = [int(i) for i in np.asarray(column.cat.codes)]
            return {
                "dtype": "category",
                "values": codes,
                "categories": categories,
                "ordered": bool(column.cat.ordered),
            }
        kind = "text" if column.dtype == TEXT else str(column.dtype)
        return {"dtype": kind, "values": [self.encode(x) for x in column.tolist()]}

    def decode_table(self, spec: EncodedTable) -> pd.DataFrame:
        columns = [self._decode_column(c) for c in spec["columns"]]
        table = pd.DataFrame(dict(enumerate(columns)), index=range(spec["rows"]))
        if columns:
            table.columns = pd.Index([self.decode(c["name"]) for c in spec["columns"]])
        return table

    def _decode_column(self, spec: EncodedColumn) -> pd.Series:
        kind, values = spec["dtype"], self.decode(spec["values"])
        if kind == "category":
            categories = self._decode_column(spec["categories"])
            known = pd.Index(categories)
            made = pd.Categorical.from_codes(values, known, ordered=spec["ordered"])
            return pd.Series(made)
        if kind.startswith("float"):
            return pd.Series(np.array(values, dtype=kind))
        return pd.Series(values, dtype=TEXT if kind == "text" else kind)

    # -- objects ------------------------------------------------------------------------------

    def _encode_numpyro(self, x: OfNumPyro) -> Json:
        """By the fields by which JAX takes it apart."""
        cls: Any = type(x)  # mypy takes no class as hashable
        if isinstance(x, dist.Distribution):
            data, more = x.tree_flatten()
            names = (cls.gather_pytree_data_fields(), cls.gather_pytree_aux_fields())
        else:
            data, (keys, other) = x.tree_flatten()
            names, more = (tuple(keys), tuple(other)), tuple(other.values())
        parts = [
            dict(sorted(zip(n, v, strict=True))) for n, v in zip(names, (data, more), strict=True)
        ]
        for part in parts:  # a field that is worked out when first asked for is not one of its own
            for name in list(part):
                if isinstance(getattr(cls, name, None), lazy_property):
                    del part[name]
        spec: dict[str, Json] = {TAG: "numpyro", "class": cls.__name__}
        if _of_numpyro().get(cls.__name__) is not cls:
            source = source_of(cls)
            if source is None:
                return self._as_text(x)
            spec["source"] = source
        spec |= {"data": self.encode(parts[0]), "static": self.encode(parts[1])}
        return spec

    def _encode_object(self, x: object) -> Json:
        cls: Any = type(x)  # mypy takes no class as hashable
        is_own = isinstance(x, self.own)
        if self.classes.get(cls.__name__) is not cls and not is_own:
            return self._as_text(x)
        fields = (
            {f.name: getattr(x, f.name) for f in dataclasses.fields(x) if f.init}
            if (dataclasses.is_dataclass(x))
            else vars(x)
        )
        spec = {TAG: "object", "class": cls.__name__}
        if self.classes.get(cls.__name__) is not cls:
            source = source_of(cls)
            if source is None:
                return self._as_text(x)
            spec["source"] = source
        return {**spec, "fields": self.encode(dict(fields))}

    @staticmethod
    def _as_text(x: object) -> dict[str, Json]:
        text = re.sub(r" at 0x[0-9a-f]+", "", repr(x))
        return {TAG: "text", "class": f"{type(x).__module__}.{type(x).__qualname__}", "value": text}

    def _decode_object(self, spec: EncodedObject, trust: bool) -> object:
        kind, name = spec[TAG], spec["class"]
        cls: type | None
        if "source" in spec:
            if not trust:
                raise Untrusted(f"the class {name!r} is code of its own")
            cls = class_of(name, spec["source"])
            if not issubclass(cls, NUMPYRO if kind == "numpyro" else self.own):
                raise Unreadable(f"the class {name!r} is not of a known kind")
        else:
            cls = (_of_numpyro() if kind == "numpyro" else self.classes).get(name)
            if cls is None:
                raise Unreadable(f"the class {name!r} is not known to this version")
        if kind == "numpyro":
            parts = [self.decode(spec[part], trust=trust) for part in ("data", "static")]
            return _numpyro(cls, *parts)
        fields = self.decode(spec["fields"], trust=trust)
        made: object = object.__new__(cls)
        if dataclasses.is_dataclass(made):
            return cls(**fields)
        vars(made).update(fields)
        return made


def _numpyro(
    cls: type[OfNumPyro], data: Mapping[str, object], static: Mapping[str, object]
) -> OfNumPyro:
    if not issubclass(cls, dist.Distribution):
        return cls.tree_unflatten((tuple(data), dict(static)), tuple(data.values()))
    names = (cls.gather_pytree_data_fields(), cls.gather_pytree_aux_fields())
    unknown = {*data, *static} - {*names[0], *names[1]}
    if unknown:
        raise Unreadable(f"{cls.__name__} has no {', '.join(sorted(unknown))} in this NumPyro")
    made = cls.tree_unflatten(
        tuple(static.get(name) for name in names[1]), tuple(data.get(name) for name in names[0])
    )
    if static.get("_validate_args") is None:  # as the class has it, which JAX takes for False
        vars(made).pop("_validate_args", None)
    return made


def _of_numpyro() -> dict[str, type[OfNumPyro]]:
    """Distributions, transforms and constraints that NumPyro itself has, by name."""
    waiting = list(NUMPYRO)
    found: dict[str, type[OfNumPyro]] = {}
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__module__.startswith("numpyro.distributions."):
            found[cls.__name__] = cls
    return found


def _decode_array(spec: EncodedArray) -> np.ndarray | jax.Array:
    content = base64.b64decode(spec["value"])
    x = np.frombuffer(content, spec["dtype"]).reshape(spec["shape"]).copy()
    return jnp.asarray(x) if spec["jax"] else x


def kept_as_text(spec: object, where: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """(place, text) of everything in an encoded object that cannot be made again."""
    if isinstance(spec, list):
        for i, each in enumerate(spec):
            yield from kept_as_text(each, (*where, str(i)))
    elif isinstance(spec, dict):
        if spec.get(TAG) == "text":
            yield ".".join(where), spec["value"]
            return
        for key, each in spec.items():
            yield from kept_as_text(each, where if TAG in spec else (*where, key))


def differing(one: object, other: object, path: str = "") -> list[str]:
    """Path to the first difference of two encoded objects, as `population.priors.cmax`."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = {**one, **other}
        return [
            place
            for k in keys
            for place in differing(one.get(k), other.get(k), f"{path}.{k}" if path else k)
        ]
    return [] if one == other else [path]

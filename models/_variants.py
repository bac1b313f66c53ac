"""Parameters and compartments of a variant: a class like another one, but for some of its fields.

A model file declares `Params` and `States` once, with the values of its default. Where an option of
`build` stands for other values, another unit or further fields, these functions make the class:

    revised(Params, {"CL": 4.1}, "Author 2021, Table 2")         # other typical values
    with_fields(Params, {"CL": like(Params, "CL", unit="mL/h")}) # any other property of a parameter
    with_fields(States, {"X": ck.state("cells", "exhausted cells")})
    with_fields(Params, fields_of(Immunity, Graft))              # those of further classes
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, TypeVar

import carpk as ck

AnyParams = TypeVar("AnyParams", bound=ck.Params)
Class = TypeVar("Class", bound=ck.Params | ck.States)


def like(params: type[ck.Params], name: str, **changes: Any) -> Any:
    """The parameter of this name, with other values of some arguments of `ck.param`."""
    known = params.info()[name]._asdict()
    for derived in ("symbol", "is_covariate", "share", "products"):
        del known[derived]
    return ck.param(**(known | changes))


def fields_of(*classes: type[ck.Params | ck.States]) -> dict[str, dataclasses.Field[Any]]:
    """The fields of these classes, in their order."""
    found = {}
    for each in classes:
        for f in dataclasses.fields(each):
            copy: dataclasses.Field[Any] = dataclasses.field(default=f.default, metadata=f.metadata)
            found[f.name] = copy
    return found


def with_fields(base: type[Class], fields: Mapping[str, Any]) -> type[Class]:
    """A subclass with these fields of `ck.param` or `ck.state`, new ones or in place of others."""
    own = dict(fields, __annotations__=dict.fromkeys(fields, ck.Scalar))
    return types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(own))


def revised(
    params: type[AnyParams], values: Mapping[str, float], source: str | None = None
) -> type[AnyParams]:
    """The same parameters with other typical values, all from `source`, or from their own."""
    cited = {} if source is None else {"source": source}
    return with_fields(params, {n: like(params, n, value=x, **cited) for n, x in values.items()})

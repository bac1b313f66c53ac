"""A type checker for jaxtyping that looks at arrays alone: their kind, dimensions and sizes.

Mypy sees the other types. To import this is to check every call of those of `MODULES` that are
imported afterwards, in traced code too.
"""

import functools
import inspect
import sys
import types
import typing
from collections.abc import Mapping

import jax
import jaxtyping

MODULES = [
    "carpk.assay.residual",
    "carpk.checks.marginal",
    "carpk.dosing.disposition",
    "carpk.information.patients",
    "carpk.nca",
    "carpk.population.bound",
    "carpk.population.predict",
    "carpk.population.random_effects",
    "carpk.structural",
    "carpk.summaries",
]


def of_arrays(function):
    """The typechecker: refuses a call whose arrays do not have the shapes that are written."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checked(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        for name, value in given.items():
            parameter = signature.parameters[name]
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                refuse(function, name, value, parameter.annotation)
        found = function(*args, **kwargs)
        refuse(function, "what is returned", found, signature.return_annotation)
        return found

    return checked


def refuse(function, name, value, written):
    hint = resolved(written, function.__module__)
    if not conforms(value, hint):
        raise TypeError(f"{function.__qualname__}: {name} is {shape(value)}, not {written}")


@functools.cache
def resolved(written, module):
    """An annotation, also where it is text with names that only a type checker imports."""
    if not isinstance(written, str):
        return written
    try:
        return eval(written, {"Array": jax.Array} | vars(sys.modules[module]))
    except (NameError, AttributeError, TypeError):
        return typing.Any  # of no array: those names are always there


def conforms(value, hint):
    """Whether arrays have the shapes of a hint; the rest of the hint is not asked."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if is_array(hint):
        return isinstance(value, hint)
    if origin in (typing.Union, types.UnionType) and any(map(is_array, parts)):
        return any(isinstance(value, typing.get_origin(part) or part) for part in parts)
    if origin is tuple and isinstance(value, tuple) and Ellipsis not in parts:
        return all(map(conforms, value, parts))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return all(conforms(x, parts[1]) for x in value.values())
    return True


def is_array(hint):
    return isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)


def shape(value):
    if isinstance(value, tuple):
        return f"({', '.join(map(shape, value))})"
    size = f" of shape {value.shape}" if hasattr(value, "shape") else ""
    return f"{type(value).__name__}{size}"


jaxtyping.install_import_hook(MODULES, "shapes.of_arrays")

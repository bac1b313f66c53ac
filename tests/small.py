"""Settings that run the code of pages and notebooks, and are too small for anything else."""

import functools
import inspect

import carpk as ck
from carpk.inference import importance, nuts

PAGES = {"draws": 20, "tune": 20, "chains": 2, "max_draws": 20, "patients": 4}
PAGES |= {"simulations": 20, "points": 32, "starts": 1, "target_accept": 0.6}
NOTEBOOKS = {"draws": 150, "tune": 60, "chains": 2, "max_draws": 150, "patients": 20}
NOTEBOOKS |= {"simulations": 50, "points": 32, "target_accept": 0.8}


def small(function, caps):
    """The function, with arguments of these names at most so large, given or not."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args, **kwargs):
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        for name, cap in caps.items():
            given = bound.arguments.get(name)
            if isinstance(given, int | float):
                bound.arguments[name] = min(given, cap)
            elif name in {"max_draws", "starts"} and name in bound.arguments:  # None: many
                bound.arguments[name] = cap
        return function(*bound.args, **bound.kwargs)

    return call


def everywhere(caps, replace=setattr):
    """Make what users call small, by `replace(module, name, function)`."""
    for module in (ck, ck.checks, ck.evidence):
        for name in dir(module):
            function = getattr(module, name)
            if (
                inspect.isfunction(function)
                and caps.keys() & inspect.signature(function).parameters
            ):
                replace(module, name, small(function, caps))
    replace(importance, "ROUNDS", importance.ROUNDS[:1])
    replace(importance, "PASSES", 1)
    if caps is PAGES:  # too few steps to find a good size: paths would be long
        shallow = functools.partialmethod(nuts.Nuts.__init__, max_treedepth=3)
        replace(nuts.Nuts, "__init__", shallow)

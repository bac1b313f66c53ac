"""Settings that run the code of pages and notebooks, and are too small for anything else."""

import functools
import inspect

import carpk as ck

PAGES = {"draws": 4, "tune": 30, "chains": 2, "max_draws": 4, "patients": 4}
PAGES |= {"simulations": 20, "points": 16, "target_accept": 0.6}
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
            elif name == "max_draws" and name in bound.arguments:
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

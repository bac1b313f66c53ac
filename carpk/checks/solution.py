"""The solver of a fit, checked with as many draws as one likes."""

from __future__ import annotations

from carpk.errors import FitError
from carpk.inference.result import Fit
from carpk.verdict.solver_error import SolverCheck, solver_check


def solver_error(fit: Fit, *, draws: int = 200, rtol: float = 1e-8, seed: int = 0) -> SolverCheck:
    """Solve posterior draws of an ODE model again, adaptively: importance weights and k-hat.

    The verdict of a fit rests on fewer draws.

    Args:
        fit: a fit of an ODE model.
        draws: how many, at random; `fit.chosen(draws, seed)` says which.
        rtol: tolerance of the adaptive route.
        seed: same seed, same draws.
    """
    check = solver_check(fit.bound, fit.draws(draws, seed, effects=True), rtol)
    if check is None:
        raise FitError(
            f"checks.solver_error: {fit.population.model.name!r} is a closed form, so no "
            "solver was used and there is nothing to check."
        )
    return check

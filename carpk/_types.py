"""Types that many rooms name: numbers, and numbers by the name of a parameter, site or output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias, TypeVar

import numpy as np
from jax import Array

Numbers: TypeAlias = Array | np.ndarray | float
"""What arithmetic of JAX and NumPy takes: a number, or an array of any shape."""

Arrays: TypeAlias = Array | np.ndarray
"""Arrays of any shape: of JAX inside a compiled function, of NumPy outside."""

ArrayOf = TypeVar("ArrayOf", Array, np.ndarray)
"""An array of JAX where one of JAX is given, one of NumPy where one of NumPy is."""

Values: TypeAlias = Mapping[str, Numbers]
"""Name -> value or values, such as parameters of a population inside a compiled function."""

Draws: TypeAlias = Mapping[str, np.ndarray]
"""Name -> draws, with the draws on the first axis."""

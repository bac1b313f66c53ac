"""carpk: CAR-T cellular kinetics in a notebook - fit, simulate, compare.

carpk computes in double precision and therefore switches JAX to float64 when it is imported. All
else is loaded when it is first used; `__init__.pyi` says where each name comes from.
"""

import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import lazy_loader

jax.config.update("jax_enable_x64", True)

try:
    __version__ = version("carpk")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"

_attribute, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    with warnings.catch_warnings():  # NumPyro's, in a notebook, about bars that carpk does not draw
        warnings.filterwarnings("ignore", "IProgress not found")
        return _attribute(name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

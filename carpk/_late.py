"""Functions and classes of higher floors, by name.

A result knows the figure that shows it, a model what loads it again, and neither may import it:
imports go one way (`docs/architecture.md`).
"""

from __future__ import annotations

import importlib
from typing import Any


def late(path: str) -> Any:
    """The object of a dotted name such as "carpk.plot.fit", imported when it is asked for."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)

"""What the library holds, by name and first line, without running a model's file."""

from __future__ import annotations

import ast
import importlib.util
import pkgutil
import textwrap
from pathlib import Path

import carpk.models
from carpk.models import first_line


def list_models() -> list[str]:
    """Names of the models in the library, for `load_model`."""
    found = (m.name for m in pkgutil.iter_modules(carpk.models.__path__) if not m.ispkg)
    return sorted(name for name in set(found) if not name.startswith("_"))


def titles() -> str:
    """The list as text: name and first line of every model."""
    text = []
    for name in list_models():
        spec = importlib.util.find_spec(f"carpk.models.{name}")
        source = Path(str(spec and spec.origin)).read_text(encoding="utf-8")
        doc = ast.get_docstring(ast.parse(source), clean=False)
        text.append(f"{name}: {first_line(doc or '')}")
    hint = (
        "`carpk models --long` adds outputs, states and options; `carpk models "
        f"{text[0].partition(':')[0]}` shows one."
    )
    return "\n".join([*text, "", *textwrap.wrap(hint, 100)])

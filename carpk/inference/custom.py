"""Classes of the user's own as text that makes them again, and back.

The text holds the class and what it uses of its module: imports, numbers, functions and classes.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import inspect
import linecache
import sys
import sysconfig
import textwrap
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

PLAIN = (bool, int, float, str, bytes, type(None))


@lru_cache(maxsize=64)
def source_of(cls: type) -> str | None:
    """Source of a class and of the names it uses; None where that cannot be had."""
    lines: dict[str, str] = {}
    try:
        _add(cls.__name__, cls, lines)
        text = "\n\n".join(["from __future__ import annotations", *lines.values()]) + "\n"
        class_of(cls.__name__, text)
    except Exception:  # no text, as in an interpreter; or it uses what has none
        return None
    return text


@lru_cache(maxsize=64)
def class_of(name: str, source: str) -> type:
    """The class of this name that a text makes. It runs the text."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:12]
    module = types.ModuleType(f"carpk_kept_{digest}")
    module.__file__ = f"<kept with a fit, {digest}>"
    linecache.cache[module.__file__] = (
        *(len(source), None, source.splitlines(keepends=True), module.__file__),
    )
    sys.modules[module.__name__] = module  # dataclasses look here
    try:
        exec(compile(source, module.__file__, "exec", dont_inherit=True), module.__dict__)
        made: type = getattr(module, name)
        return made
    except BaseException:
        del sys.modules[module.__name__]
        raise


def _add(name: str, x: Any, lines: dict[str, str]) -> None:
    """Add what defines `name` as `x`, after what that uses."""
    if name in lines:
        return
    if isinstance(x, types.ModuleType):
        lines[name] = f"import {x.__name__} as {name}"
        return
    if isinstance(x, PLAIN) or (isinstance(x, tuple) and all(isinstance(y, PLAIN) for y in x)):
        lines[name] = f"{name} = {x!r}"
        return
    x = inspect.unwrap(x) if not isinstance(x, type) else x
    module = sys.modules.get(getattr(x, "__module__", None) or "")
    called = getattr(x, "__qualname__", name)
    if module is not None and _is_installed(module) and getattr(module, called, None) is x:
        lines[name] = f"from {module.__name__} import {called} as {name}"
        return
    text = textwrap.dedent(inspect.getsource(x))
    space = _namespace(x)
    for other in _names_in(text):
        if other != called and other in space:
            _add(other, space[other], lines)
    lines[name] = text.rstrip() + (f"\n\n\n{name} = {called}" if name != x.__name__ else "")


def _names_in(text: str) -> list[str]:
    nodes = ast.walk(ast.parse(text))
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return [name for name in dict.fromkeys(names) if not hasattr(builtins, name)]


def _namespace(x: Callable[..., object]) -> dict[str, object]:
    """Values of the names where `x` was defined."""
    module = sys.modules.get(x.__module__)
    space = dict(vars(module)) if module is not None else {}
    functions = (
        [f for f in vars(x).values() if inspect.isfunction(f)] if isinstance(x, type) else [x]
    )
    for f in functions:
        space |= inspect.getclosurevars(f).nonlocals
    bases = x.__mro__[1:] if isinstance(x, type) else ()
    return {base.__name__: base for base in bases} | space


def _is_installed(module: types.ModuleType) -> bool:
    """A module of Python or of an installed package; not the user's own file."""
    name = module.__name__.partition(".")[0]
    if name == "carpk" or name in sys.builtin_module_names:
        return True
    if not getattr(module, "__file__", None):
        return False
    places = [Path(p) for k, p in sysconfig.get_paths().items() if k.endswith("lib")]
    path = Path(str(module.__file__)).resolve()
    return any(path.is_relative_to(place.resolve()) for place in places)

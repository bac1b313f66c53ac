"""The texts behind a structural model, and models made from texts that were kept."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import carpk.models

if TYPE_CHECKING:
    import types

LIBRARY = "models/"  # before the names of its files
SBML = (".xml", ".sbml")
LARGEST = 2**20  # bytes of a table that is kept as it is


class Origin(TypedDict):
    """How `load_model` finds a model again: its name or path, and its options."""

    name: str
    options: Mapping[str, object]


def digest_of(files: Mapping[str, str]) -> str:
    """SHA-256 of the texts behind a model."""
    each = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    return hashlib.sha256(repr(sorted(each.items())).encode()).hexdigest()


class _Texts(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports modules from texts, full name -> text."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.texts = texts

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.texts:
            return None
        installed = importlib.machinery.PathFinder.find_spec(fullname, path)
        spec = importlib.machinery.ModuleSpec(fullname, self, is_package=self.is_package(fullname))
        spec.origin = None if installed is None else installed.origin
        spec.has_location = spec.origin is not None  # tables lie beside it
        return spec

    def get_source(self, fullname: str) -> str:
        return self.texts[fullname]

    def is_package(self, fullname: str) -> bool:
        return any(name.startswith(f"{fullname}.") for name in self.texts)


@contextmanager
def installed_from(files: Mapping[str, str]) -> Iterator[None]:
    """While it lasts, modules of these files are imported from their texts."""
    texts = {_module_name(name): text for name, text in files.items() if name.endswith(".py")}
    before = {name: sys.modules.pop(name) for name in texts if name in sys.modules}
    places = {name: name.rpartition(".") for name in texts}
    held = [(sys.modules[p], short) for p, _, short in places.values() if p in sys.modules]
    for package, short in held:  # `from package import short` looks here first
        vars(package).pop(short, None)
    finder = _Texts(texts)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in texts:
            sys.modules.pop(name, None)
        for package, short in held:
            vars(package).pop(short, None)
        sys.modules.update(before)
        for name, module in before.items():
            if places[name][0] in sys.modules:
                setattr(sys.modules[places[name][0]], places[name][2], module)


def _module_name(file: str) -> str:
    name = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return f"carpk.{name}" if file.startswith(LIBRARY) else name


def files_of(path: Path, source: str) -> dict[str, str]:
    """The text of a model file, of the model files that it imports, and so on; and of tables.

    Files of the library are named as "models/piecewise.py", those of a user's folder by their path
    in it. Installed packages other than carpk's models are not followed: their versions are kept.
    """
    found: dict[str, str] = {}
    waiting = [(path, source)]
    while waiting:
        file, text = waiting.pop()
        found[_label(file, path.parent)] = text
        if file.suffix != ".py":
            continue
        for other in _named_in(file, text):
            if _label(other, path.parent) not in found:
                waiting.append((other, _text_of(other)))
    return found


def _label(file: Path, folder: Path) -> str:
    if any(file.is_relative_to(Path(place).resolve()) for place in carpk.models.__path__):
        return f"{LIBRARY}{file.name}"
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def _text_of(file: Path) -> str:
    """The text of a file; of a table that is no text, or a large one, a line that stands for it."""
    content = file.read_bytes()
    if len(content) <= LARGEST:
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    return f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}\n"


@lru_cache(maxsize=64)
def _names_in(source: str) -> tuple[frozenset[str], frozenset[str]]:
    """Modules that a file may import, and strings in it that may be names of files."""
    modules, files = set(), set()
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError:
        nodes = []
    for node in nodes:
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_name = len(node.value) < 200 and re.fullmatch(r"[\w.-][\w./-]*\.\w+", node.value)
            files |= {node.value} if is_name else set()
    return frozenset(modules), frozenset(files)


def _named_in(path: Path, source: str) -> Iterator[Path]:
    """Model files that a file imports, and files beside it that it names in a string."""
    modules, files = _names_in(source)
    beside = (path.parent / name for name in sorted(files))
    yield from (file.resolve() for file in beside if file.is_file())
    for name in sorted(modules):
        head, _, rest = name.rpartition(".")
        places = [path.parent]
        if head == carpk.models.__name__:
            places, name = [Path(place) for place in carpk.models.__path__], rest
        parts = name.split(".")
        for place in places:
            whole = (
                place.joinpath(*parts, "__init__.py"),
                place.joinpath(*parts).with_suffix(".py"),
            )
            yield from (file.resolve() for file in whole if file.is_file() and file != path)

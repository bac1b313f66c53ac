"""The libraries: structural models and studies by name, and a user's own by path."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import inspect
import linecache
import os
import pkgutil
import sys
import traceback
import types
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import carpk.models
from carpk.errors import DatasetError, ModelError
from carpk.studies import Study, read_study

_PACKAGE = Path(__file__).parent
_DATA = _PACKAGE / "_data" if (_PACKAGE / "_data").is_dir() else _PACKAGE.parent / "data"


def list_models() -> list[str]:
    """Names of the models in the library, for `load_model`."""
    found = (m.name for m in pkgutil.iter_modules(carpk.models.__path__) if not m.ispkg)
    return sorted(name for name in set(found) if not name.startswith("_"))


def load_model(name_or_path: str | os.PathLike[str], **options: Any) -> Any:
    """A structural model from the library, or from a file of your own.

        load_model("stein2019")
        load_model("stein2019", omega_is="variance")
        load_model("mine.py")                           # your copy of a model file

    Args:
        name_or_path: a name in `list_models()`, or the path of a Python file that ends in ".py"
            and defines `model` (or a function `build` that returns one). A file is read anew at
            each call, so an edit is seen at once.
        options: arguments of the file's `build`, where the model has variants.

    Returns:
        The model; its `origin` holds name (or absolute path) and options.
    """
    text = os.fspath(name_or_path)
    if text.endswith(".py"):
        path = Path(text).expanduser().resolve()
        return _load_file(path, options)
    if text not in list_models():
        raise ModelError(
            f"Model {text!r} is not in the library; {_nearest(text, list_models())}"
            + (
                f" To load the file beside you, write load_model({text + '.py'!r})."
                if Path(text + ".py").is_file()
                else " A file of your own is given by its path, which ends in '.py'."
            )
        )
    module = importlib.import_module(f"carpk.models.{text}")
    return _finish(_model_of(module, text, options), text, text, options)


def list_studies() -> list[str]:
    """Names of the studies in the library, for `load_study`."""
    return sorted(path.parent.name for path in _DATA.glob("*/about.toml"))


def load_study(name_or_path: str | os.PathLike[str]) -> Study:
    """A study from the library, or from a folder of your own that holds `about.toml`.

    Printing the study tells where its figures come from and what to beware of:

        study = load_study("zuma1_moffitt")
        study.arms["axi_cel"].regimen
        study.dataset()
    """
    text = os.fspath(name_or_path)
    if text in list_studies():
        return read_study(_DATA / text)
    folder = Path(text).expanduser()
    if (folder / "about.toml").is_file():
        return read_study(folder)
    if folder.is_dir():
        raise DatasetError(
            f"Study folder {text!r} has no about.toml. Add one with at least a title, citation, "
            "licence and how the figures were obtained; or use load_dataset for tables alone."
        )
    raise DatasetError(
        f"Study {text!r} is not in the library; {_nearest(text, list_studies())} A study of your "
        "own is given by the path of its folder, which holds about.toml."
    )


def _load_file(path: Path, options: dict[str, Any]) -> Any:
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise ModelError(
            f"Model file {path} does not exist; "
            + (
                _nearest(path.name, beside)
                if beside
                else f"there is no '.py' file in {path.parent}."
            )
        )
    place = f"Model file {path}"
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise ModelError(
            f"{place} cannot be read as UTF-8 text ({trouble}). Check its permissions and encoding."
        ) from trouble
    linecache.checkcache(str(path))
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    module = types.ModuleType(f"carpk_user_{path.stem}_{digest}")
    module.__file__ = str(path)
    before = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module  # dataclasses and annotations look here
    try:
        # Compiled here and not imported: an edit within a second of the last one must be seen.
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
        model = _model_of(module, str(path), options)
        return _finish(model, str(path), str(path), options)
    except Exception as trouble:
        if before is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = before
        line = _line_in(trouble, path)
        if line is None:
            raise
        code = source.splitlines()[line - 1].strip() if line <= source.count("\n") + 1 else ""
        said = trouble.msg if isinstance(trouble, SyntaxError) else str(trouble)
        kind = "" if isinstance(trouble, ModelError) else f"{type(trouble).__name__}: "
        deepest = traceback.extract_tb(trouble.__traceback__)[-1]
        elsewhere = not isinstance(trouble, SyntaxError | ModelError | ImportError)
        if elsewhere and deepest.filename != str(path):
            said += f" (raised in {deepest.filename}, line {deepest.lineno})"
        raise ModelError(
            f"{place}, line {line}: {kind}{said}\n    {code}\n"
            "Correct the line; load_model reads the file anew at each call."
        ) from trouble


def _line_in(trouble: Exception, path: Path) -> int | None:
    """The last line of the file that was running when the trouble came."""
    if isinstance(trouble, SyntaxError) and trouble.filename == str(path):
        return trouble.lineno
    frames = traceback.extract_tb(trouble.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)


def _model_of(module: types.ModuleType, label: str, options: dict[str, Any]) -> Any:
    """`model` of a module, or what its `build` makes of the options."""
    build = getattr(module, "build", None)
    if not options and hasattr(module, "model"):
        return module.model
    if build is None:
        if options:
            raise ModelError(
                f"Model {label!r} has no options, but got {', '.join(options)}. Leave them out; "
                "numbers are changed where the model is used."
            )
        raise ModelError(
            f"Model {label!r} defines neither `model` nor `build`. End the file with "
            "`model = ck.ClosedForm(...)`."
        )
    arguments = inspect.signature(build).parameters.values()
    if not any(a.kind is a.VAR_KEYWORD for a in arguments):
        known = [a.name for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
        unknown = [option for option in options if option not in known]
        if unknown:
            raise ModelError(
                f"Model {label!r} has no option {unknown[0]!r}; {_nearest(unknown[0], known)}"
            )
    if all(isinstance(value, Hashable) for value in options.values()):
        return _built(build, tuple(sorted(options.items())))
    return build(**options)


@lru_cache(maxsize=64)
def _built(build: Callable[..., Any], options: tuple[tuple[str, Any], ...]) -> Any:
    """What `build` makes of these options: once, so that code compiled for it is used again."""
    return build(**dict(options))


def _finish(model: Any, label: str, name: str, options: dict[str, Any]) -> Any:
    """The model with its origin, once it is seen to be one."""
    if not (dataclasses.is_dataclass(model) and hasattr(model, "outputs")):
        raise ModelError(
            f"Model {label!r}: `model` is {type(model).__name__}, but must be a structural model. "
            "End the file with `model = ck.ClosedForm(...)`."
        )
    origin = {"name": name, "options": dict(options)}
    return dataclasses.replace(model, origin=origin)  # type: ignore[type-var]


def _nearest(word: str, known: Iterable[str]) -> str:
    """ "did you mean ...? Known are ..." """
    names = list(known)
    if not names:
        return "there is none to choose from."
    by_lower = {name.lower(): name for name in names}
    close = [
        by_lower[n] for n in difflib.get_close_matches(word.lower(), by_lower, n=3, cutoff=0.5)
    ]
    if not close:
        close = [n for n in names if word and (word.lower() in n.lower())][:3]
    hint = f"did you mean {' or '.join(map(repr, close))}? Known" if close else "known"
    return f"{hint} are {', '.join(names)}."

"""The libraries: structural models and studies by name, and a user's own by path."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.abc
import importlib.machinery
import inspect
import linecache
import os
import sys
import traceback
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from functools import cache, lru_cache
from pathlib import Path

import jax

from carpk.errors import ModelError, nearest_of
from carpk.library.texts import SBML, Origin, digest_of, files_of, installed_from
from carpk.library.titles import list_models
from carpk.structural import ClosedForm, ODEModel


def load_model(name_or_path: str | os.PathLike[str], **options: object) -> ClosedForm | ODEModel:
    """A structural model from the library, or from a file of your own.

        load_model("stein2019")
        load_model("stein2019", omega_is="variance")
        load_model("mine.py")                           # your copy of a model file
        load_model("BIOMD0000001041.xml")               # SBML; needs carpk[sbml]

    Args:
        name_or_path: a name in `list_models()`, or the path of a Python file that ends in ".py"
            and defines `model` (or a function `build` that returns one), or of an SBML file that
            ends in ".xml" or ".sbml". A file is read at each call, so an edit is seen at once.
        options: arguments of the file's `build`, where the model has variants: see `options_of`.

    Returns:
        The model; its `origin` holds name (or absolute path) and options.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser().resolve()
    if text.endswith(".py"):
        return _load_file(path, options)
    if text.lower().endswith(SBML):
        return _load_sbml(path, options)
    if text not in list_models():
        raise ModelError(
            f"Model {text!r} is not in the library; {nearest_of(text, list_models())}"
            + (
                f" To load the file beside you, write load_model({text + '.py'!r})."
                if Path(text + ".py").is_file()
                else " A file of your own is given by its path, which ends in '.py'."
            )
        )
    module, files = _of_library(text)
    origin: Origin = {"name": text, "options": options}
    return _finish(_model_of(module, text, options), text, origin, files, module.__doc__)


@cache
def _of_library(name: str) -> tuple[types.ModuleType, dict[str, str]]:
    """A module of the library, and the texts behind it as they were when it was imported."""
    module = importlib.import_module(f"carpk.models.{name}")
    path = Path(str(module.__file__)).resolve()
    return module, files_of(path, path.read_text(encoding="utf-8"))


def options_of(name_or_path: str | os.PathLike[str]) -> dict[str, tuple[object, ...]]:
    """Options of a model -> their choices, the default first; () where they are free."""
    text = os.fspath(name_or_path)
    if text not in list_models():
        path = Path(text).expanduser().resolve()
        is_code = text.endswith(".py") and path.is_file()
        source = _source(path) if is_code else ""
        module = _run(path, source, digest_of(files_of(path, source))) if is_code else None
    else:
        module = importlib.import_module(f"carpk.models.{text}")
    build = getattr(module, "build", None)
    return {} if build is None else _choices(build)


def model_of_files(origin: Origin, files: Mapping[str, str]) -> ClosedForm | ODEModel:
    """The model that these texts make, in place of those that are installed or on disk now.

    It runs them: only texts that the user trusts.

    Args:
        origin, files: of a model that `load_model` gave.
    """
    name, options = origin["name"], origin["options"]
    path = Path(name)
    if path.suffix.lower() in SBML:
        from carpk import sbml  # needs an extra

        return _finish(sbml.read(path, files[path.name]), name, origin, files, None)
    module = _of_texts(name, tuple(files.items()))
    return _finish(_model_of(module, name, options), name, origin, files, module.__doc__)


@lru_cache(maxsize=16)
def _of_texts(name: str, files: tuple[tuple[str, str], ...]) -> types.ModuleType:
    """The module that these texts make: run once, so that code compiled for it is used again."""
    with installed_from(dict(files)):
        path = Path(name)
        if path.suffix == ".py":
            return _run(path, dict(files)[path.name], digest_of(dict(files)))
        return importlib.import_module(f"carpk.models.{name}")


def _missing(path: Path) -> str:
    """Error for a file that does not exist, naming its neighbours."""
    pattern = f"*{path.suffix}"
    beside = sorted(p.name for p in path.parent.glob(pattern)) if path.parent.is_dir() else []
    return f"Model file {path} does not exist; " + (
        nearest_of(path.name, beside)
        if beside
        else f"there is no '{path.suffix}' file in {path.parent}."
    )


def _load_sbml(path: Path, options: Mapping[str, object]) -> ClosedForm | ODEModel:
    from carpk import sbml  # needs an extra

    if not path.is_file():
        raise ModelError(_missing(path))
    if options:
        raise ModelError(
            f"Model file {path} is SBML, which has no options, but got {', '.join(options)}. Leave "
            "them out; numbers are changed where the model is used."
        )
    text = _source(path)
    origin: Origin = {"name": path.as_posix(), "options": {}}
    return _finish(sbml.read(path, text), str(path), origin, {path.name: text}, None)


def _load_file(path: Path, options: Mapping[str, object]) -> ClosedForm | ODEModel:
    if not path.is_file():
        raise ModelError(_missing(path))
    source = _source(path)
    try:
        files = files_of(path, source)
        module = _run(path, source, digest_of(files))
        model = _finish(
            _model_of(module, str(path), options),
            str(path),
            {"name": path.as_posix(), "options": options},
            files,
            module.__doc__,
        )
        if isinstance(model, ODEModel):
            model.check()
            model.check_derivatives()
        return model
    except Exception as trouble:
        explained = _explained(trouble, path, source)
        if explained is None:
            raise
        raise explained from trouble


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as trouble:
        raise ModelError(
            f"Model file {path} cannot be read as UTF-8 text ({trouble}). Check its permissions "
            "and encoding."
        ) from trouble


@lru_cache(maxsize=64)
def _run(path: Path, source: str, digest: str) -> types.ModuleType:
    """The module of a file with this text: run once, so that code compiled for it is used again.

    Args:
        digest: of its text and of those of the files that it imports.
    """
    linecache.checkcache(str(path))
    short = hashlib.sha256(f"{path}\n{digest}".encode()).hexdigest()[:12]
    module = types.ModuleType(f"carpk_user_{path.stem}_{short}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and annotations look here
    try:
        # Compiled here and not imported: an edit within a second of the last one must be seen.
        exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return module


def _explained(trouble: Exception, path: Path, source: str) -> ModelError | None:
    """Error in a model file, with its line; None where no line of it was running."""
    line = _line_in(trouble, path)
    if line is None:
        return None
    code = source.splitlines()[line - 1].strip() if line <= source.count("\n") + 1 else ""
    said = trouble.msg if isinstance(trouble, SyntaxError) else str(trouble)
    kind = "" if isinstance(trouble, ModelError) else f"{type(trouble).__name__}: "
    deepest = traceback.extract_tb(trouble.__traceback__)[-1]
    elsewhere = not isinstance(trouble, SyntaxError | ModelError | ImportError | AttributeError)
    advice = _advice(trouble)
    if advice:
        said = said.strip().split("\n")[0]
    elif elsewhere and deepest.filename != str(path):
        said += f" (raised in {deepest.filename}, line {deepest.lineno})"
    return ModelError(
        f"Model file {path}, line {line}: {kind}{said}\n    {code}\n"
        + (advice or "Correct the line; load_model reads the file anew at each call.")
    )


def _line_in(trouble: Exception, path: Path) -> int | None:
    """The last line of the file that was running when the trouble came."""
    if isinstance(trouble, SyntaxError) and trouble.filename == str(path):
        return trouble.lineno
    frames = traceback.extract_tb(trouble.__traceback__)
    return next((f.lineno for f in reversed(frames) if f.filename == str(path)), None)


def _advice(trouble: Exception) -> str:
    """Advice on errors whose own text speaks of JAX and not of the model; "" for others."""
    if isinstance(trouble, jax.errors.TracerBoolConversionError):
        return (
            "An `if`, `and`, `or`, `min` or `max` on a state, a parameter or the time cannot be "
            "compiled or differentiated. Write jnp.where(condition, a, b), jnp.minimum(a, b) or "
            "jnp.maximum(a, b); what happens on a given day belongs in the regimen, or in a Target "
            "with a lag."
        )
    if isinstance(trouble, jax.errors.JAXTypeError):
        return (
            "The line asks for the number behind a state, a parameter or the time, which is not "
            "known while the equations are compiled. Use the functions of jax.numpy, not those of "
            "math or numpy, and neither float() nor int()."
        )
    if isinstance(trouble, FloatingPointError):
        return (
            "The line, or its derivative, is not a number for the typical patient. A division by "
            "zero, the log or the root of a quantity that may be 0 need a jnp.where inside, around "
            "the quantity, not outside, around the result."
        )
    return ""


def _model_of(module: types.ModuleType, label: str, options: Mapping[str, object]) -> object:
    """`model` of a module, or the result of its `build` with the options."""
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
                f"Model {label!r} has no option {unknown[0]!r}; {nearest_of(unknown[0], known)}"
            )
    for option, choices in _choices(build).items():
        if choices and options.get(option, choices[0]) not in choices:
            allowed = " or ".join(f'"{c}"' if isinstance(c, str) else repr(c) for c in choices)
            raise ModelError(
                f"Model {label!r}: {option} must be {allowed}, but is {options[option]!r}."
            )
    if all(isinstance(value, Hashable) for value in options.values()):
        return _built(build, tuple(sorted(options.items())))
    return build(**options)


def _choices(build: Callable[..., object]) -> dict[str, tuple[object, ...]]:
    """Arguments of a `build` -> choices of their `Literal`, the default first; () if free."""
    choices = {}
    for name, argument in inspect.signature(build).parameters.items():
        allowed = typing.get_args(argument.annotation)
        is_literal = typing.get_origin(argument.annotation) is typing.Literal
        rest = [x for x in allowed if x != argument.default] if is_literal else []
        choices[name] = (argument.default, *rest) if is_literal else ()
    return choices


@lru_cache(maxsize=64)
def _built(build: Callable[..., object], options: tuple[tuple[str, object], ...]) -> object:
    """The model of `build` with these options, cached so that compiled code is reused."""
    return build(**dict(options))


def _finish(
    model: object, label: str, origin: Origin, files: Mapping[str, str], doc: str | None
) -> ClosedForm | ODEModel:
    """The model with its origin and the texts of its files, once it is seen to be one."""
    if not isinstance(model, ClosedForm | ODEModel):
        raise ModelError(
            f"Model {label!r}: `model` is {type(model).__name__}, but must be a structural model. "
            "End the file with `model = ck.ClosedForm(...)`."
        )
    origin = {"name": origin["name"], "options": dict(origin["options"])}
    model.params._origin = origin  # for pickle
    return dataclasses.replace(model, origin=origin, files=files, doc=model.doc or doc or "")

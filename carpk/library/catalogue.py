"""The library of models on paper: a list, a page for each, and `models/README.md`.

carpk models --long              the list, with outputs, states and options
carpk models kimmel2021          equations, citation, parameters, dosing, figures held to
carpk models --markdown          models/README.md
"""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypedDict

from carpk.library.models import load_model, options_of
from carpk.library.titles import list_models
from carpk.structural import ClosedForm, ODEModel

if TYPE_CHECKING:
    import pandas as pd

HEAD = """# The models

Written by `carpk models --markdown > models/README.md`; do not edit it by hand.

`ck.load_model("kimmel2021")` loads one, with the options in the last column as keywords (the first
choice is the default). `carpk models kimmel2021` shows its equations, its citation, its parameters
with unit, meaning and source, its dosing, and the published figures that the tests hold it to. A
model of your own starts as a copy of one of these files:
[docs/write_a_model.md](../docs/write_a_model.md).

| model | is | product | outputs | states | options |
| --- | --- | --- | --- | --- | --- |
"""


class Listed(TypedDict):
    """A model of the library, as the list tells of it."""

    about: str
    product: str
    states: list[str]
    outputs: dict[str, str]
    options: dict[str, list[object]]
    reference: str


def listing() -> dict[str, Listed]:
    """Model of the library -> about, product, states, outputs, options, reference."""
    found: dict[str, Listed] = {}
    for name in list_models():
        model = load_model(name)
        found[name] = {
            "about": model.about,
            "product": model.product,
            "states": states(model),
            "outputs": dict(model.units),
            "options": {k: list(v) for k, v in options_of(name).items()},
            "reference": model.reference,
        }
    return found


def states(model: ClosedForm | ODEModel) -> list[str]:
    """Integrated states, and drugs in closed form."""
    return list(model.compartments) if isinstance(model, ODEModel) else ["closed form"]


def lines(width: int = 100) -> str:
    """The list as text: three lines or so per model."""
    text = []
    for name, row in listing().items():
        text.append(f"{name}: {row['about']}")
        facts = [f"outputs {_outputs(row['outputs'])}", f"states {', '.join(row['states'])}"]
        if row["product"]:
            facts.insert(0, row["product"])
        if row["options"]:
            facts.append("options " + ", ".join(_option(*item) for item in row["options"].items()))
        text.append(
            textwrap.fill(
                "; ".join(facts) + ".", width, initial_indent="    ", subsequent_indent="    "
            )
        )
    return "\n".join(text)


def markdown() -> str:
    """The text of `models/README.md`."""
    rows = [
        f"| [`{name}`]({name}.py) | {row['about']}{_link(row['reference'])} | {row['product']} | "
        f"{_outputs(row['outputs'])} | {', '.join(row['states'])} | "
        f"{'; '.join(_option(*item) for item in row['options'].items())} |"
        for name, row in listing().items()
    ]
    return HEAD + "\n".join(rows) + "\n"


def page(name: str, **options: object) -> str:
    """Everything about one model.

    Args:
        name: in the library, or the path of a file.
        options: choices of its options, or the text of them.
    """
    known = options_of(name)
    chosen = {
        option: next((c for c in known.get(option, ()) if str(c) == str(value)), value)
        for option, value in options.items()
    }
    model = load_model(name, **chosen)
    rule = "-" * 100
    parts = [model.doc.strip(), ""]
    parts += [f"Option {_option(option, choices)}" for option, choices in known.items()]
    if isinstance(model, ODEModel):
        start = model.start(model.params())
        table = model.states.describe().drop(columns="integrated_as")
        table["initial"] = [float(getattr(start, state)) for state in table.index]
        parts += [rule, _table(table)]
    parts += [rule, _table(model.describe())]
    parts += [rule, f"Outputs: {_outputs(model.units)}"]
    if model.derived:
        values = {
            f"{k} [{unit}]": float(f(model.params())) for k, (f, unit) in model.derived.items()
        }
        parts.append("Derived: " + ", ".join(f"{k} = {v:.3g}" for k, v in values.items()))
    if model.regimens:
        parts.append("Dosing: " + "; ".join(model.regimens))
    if model.published:
        held = [f"{quantity}: {entry[1]:g}" for quantity, entry in model.published.items()]
        parts.append("Held to: " + "; ".join(held))
    if model.reference:
        parts.append(f"Reference: {model.reference}")
    return "\n".join(parts)


def source(name: str) -> str:
    """The text of a model's file."""
    load_model(name)  # refuses what is not there
    return inspect.getsource(importlib.import_module(f"carpk.models.{name}"))


def _table(frame: pd.DataFrame) -> str:
    """The frame with words to the left and numbers to the right."""
    words = frame.select_dtypes(exclude="number").columns
    wide = {name: frame[name].str.len().max() for name in words}
    text = frame.to_string(
        float_format="{:g}".format,
        na_rep="",
        justify="left",
        index_names=False,
        formatters={name: f"{{:<{width}}}".format for name, width in wide.items()},
    )
    return "\n".join(line.rstrip() for line in text.splitlines())


def _outputs(units: Mapping[str, str]) -> str:
    return ", ".join(f"{output} [{unit}]" for output, unit in units.items())


def _option(name: str, choices: Iterable[object]) -> str:
    return f"{name}: {', '.join(map(repr, choices))}" if choices else name


def _link(reference: str) -> str:
    doi = reference.removeprefix("doi:")
    return f" [doi:{doi}](https://doi.org/{doi})" if reference else ""

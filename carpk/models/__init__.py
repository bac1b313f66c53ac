"""The model library: `carpk.models.<name>`, one file per published model.

The files live in `models/` at the top of the repository and are part of the package once it is
built; a checkout finds them where they are.
"""

from pathlib import Path

_checkout = Path(__file__).parents[2] / "models"
if not (Path(__file__).parent / "piecewise.py").exists() and _checkout.is_dir():
    __path__.append(str(_checkout))


def first_line(doc: str) -> str:
    """What a model is: the first paragraph of its text, on one line."""
    return doc.strip().split("\n\n")[0].replace("\n", " ")

"""Studies by name, and a user's own by path."""

from __future__ import annotations

import os
from pathlib import Path

from carpk.errors import DatasetError, nearest_of
from carpk.library.study import Study, read_study

_PACKAGE = Path(__file__).parents[1]
DATA = _PACKAGE / "_data" if (_PACKAGE / "_data").is_dir() else _PACKAGE.parent / "data"


def list_studies() -> list[str]:
    """Names of the studies in the library, for `load_study`."""
    return sorted(path.parent.name for path in DATA.glob("*/about.toml"))


def load_study(name_or_path: str | os.PathLike[str]) -> Study:
    """A study from the library, or from a folder of your own that holds `about.toml`.

    Printing the study tells where its figures come from and what to beware of:

        study = load_study("zuma1_moffitt")
        study.arms["axi_cel"].regimen
        study.dataset()
    """
    text = os.fspath(name_or_path)
    if text in list_studies():
        return read_study(DATA / text)
    folder = Path(text).expanduser()
    if (folder / "about.toml").is_file():
        return read_study(folder)
    if folder.is_dir():
        raise DatasetError(
            f"Study folder {text!r} has no about.toml. Add one with at least a title, citation, "
            "licence and how the figures were obtained; or use load_dataset for tables alone."
        )
    raise DatasetError(
        f"Study {text!r} is not in the library; {nearest_of(text, list_studies())} A study of your "
        "own is given by the path of its folder, which holds about.toml."
    )

"""Tables for users: the place where results become data frames, and pandas is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

Rows = Sequence[Mapping[str, object]] | Sequence[Sequence[object]]
Columns = Mapping[Any, Any]  # name -> values


def as_frame(
    data: Rows | Columns | pd.DataFrame,
    columns: Sequence[str] | None = None,
    *,
    index: str | list[str] | None = None,
    labels: tuple[str | None, Sequence[object]] | None = None,
) -> pd.DataFrame:
    """A data frame of rows or of columns.

    Args:
        data: rows, each a mapping or a sequence; a mapping, name -> values of the column; a frame.
        columns: their names and order; what a row lacks is missing.
        index: the columns that label the rows.
        labels: in their place, the name of the labels and one label per row.
    """
    import pandas as pd

    made = pd.DataFrame(data, columns=columns)  # type: ignore[arg-type]  # the stubs say dict
    if labels is not None:
        made.index = pd.Index(labels[1], name=labels[0])
    return made if index is None else made.set_index(index)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a data frame, each a mapping, name of the column -> value."""
    return [{str(name): x for name, x in row.items()} for row in frame.to_dict("records")]

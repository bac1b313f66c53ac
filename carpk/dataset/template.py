"""An empty workbook for a cohort: three sheets with examples, and one that explains each column."""

from io import BytesIO
from pathlib import Path
from typing import Any

from carpk import _files
from carpk.dataset.excel import EXAMPLE, SUFFIXES
from carpk.dataset.sheets import MISSING
from carpk.dataset.tables import meaning
from carpk.dataset.units import DOSE_UNITS, KNOWN_ANALYTES
from carpk.errors import DatasetError

ROWS = 2000  # with drop-down lists
EXPLAINED = "about"
COLUMNS = {
    "patients": ("patient", "cohort", "weight"),
    "infusions": ("patient", "time", "product", "amount", "unit", "duration"),
    "samples": ("patient", "time", "analyte", "value", "unit", "lloq"),
}
FIRST, SECOND = f"{EXAMPLE}1", f"{EXAMPLE}2"
EXAMPLES: dict[str, tuple[tuple[object, ...], ...]] = {  # simulated
    "patients": ((FIRST, "A", 62), (SECOND, "B", 75)),
    "infusions": (
        (FIRST, -3, "fludarabine", 30, "mg/m2", 0.02),
        (FIRST, 0, "car_t", 1.5e8, "cells", 0),
        (SECOND, 0, "car_t", 1.5e8, "cells", 0),
    ),
    "samples": (
        (FIRST, 7, "transgene", 2150, "copies/µg", 50),
        (FIRST, 28, "transgene", "<50", "copies/µg", 50),
        (SECOND, 7, "alc", 310, "cells/µL", None),
    ),
}
PRODUCTS = ("car_t", "fludarabine", "cyclophosphamide")
LISTS = {  # sheet, column -> what its cells offer; others may be typed
    ("infusions", "product"): PRODUCTS,
    ("infusions", "unit"): DOSE_UNITS,
    ("samples", "analyte"): tuple(KNOWN_ANALYTES),
    ("samples", "unit"): tuple(dict.fromkeys(KNOWN_ANALYTES.values())),
}
MEANINGS = {
    "cohort": "arm or dose level; may be left out",
    "weight": "kg; further columns are covariates, too",
    "value": "the measured value, or '<50', 'BLQ', 'ND' below the LLOQ; no row without a sample",
}


def write(path: Path) -> Path:
    """Write the workbook; one that exists is not replaced.

    Raises:
        DatasetError: the file exists or is called otherwise than .xlsx, or openpyxl is missing.
    """
    if path.suffix.lower() not in SUFFIXES[:1]:
        raise DatasetError(f"{path} must end with .xlsx. Choose such a name.")
    if path.exists():
        raise DatasetError(f"{path} exists and may hold data. Choose another name.")
    try:
        import openpyxl
    except ImportError as trouble:
        raise DatasetError(MISSING) from trouble
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, columns in COLUMNS.items():
        _fill(book.create_sheet(name), name, columns)
    _explain(book.create_sheet(EXPLAINED))
    content = BytesIO()
    book.save(content)
    return _files.write(path, content.getvalue())


def _fill(sheet: Any, name: str, columns: tuple[str, ...]) -> None:
    """Header, example rows in grey, and drop-down lists."""
    from openpyxl.styles import Font
    from openpyxl.utils import get_column_letter
    from openpyxl.worksheet.datavalidation import DataValidation

    sheet.append(columns)
    for row in EXAMPLES[name]:
        sheet.append(row)
    for row in sheet.iter_rows():
        for cell in row:
            cell.font = Font(bold=True) if cell.row == 1 else Font(italic=True, color="808080")
    sheet.freeze_panes = "A2"
    for i, column in enumerate(columns, start=1):
        sheet.column_dimensions[get_column_letter(i)].width = 14
        if (name, column) in LISTS:
            offered = f'"{",".join(LISTS[name, column])}"'
            choice = DataValidation(type="list", formula1=offered, showErrorMessage=False)
            letter = get_column_letter(i)
            choice.add(f"{letter}2:{letter}{ROWS}")
            sheet.add_data_validation(choice)


def _explain(sheet: Any) -> None:
    """What each column holds, and what to do with the examples."""
    sheet.append(("sheet", "column", "holds"))
    for name, columns in COLUMNS.items():
        for column in columns:
            sheet.append((name, column, MEANINGS.get(column, meaning(column))))
    sheet.append(())
    sheet.append((f"Patients called {EXAMPLE}... are examples, simulated: replace them.",))
    sheet.append(("Time counts days from each patient's first infusion of cells, on day 0.",))
    for letter, width in zip("ABC", (12, 12, 90), strict=True):
        sheet.column_dimensions[letter].width = width

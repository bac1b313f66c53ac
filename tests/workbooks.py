"""Workbooks as laboratories keep them, written on the spot. All patients are simulated."""

import numpy as np
import openpyxl

DAYS = (3, 7, 10, 14, 28, 56, 90)
PATIENTS = ("P01", "P02", "P03", "P04", "P05", "P06")
LLOQ = 50.0


def level(patient, day):
    """Simulated copies/µg of DNA: a rise to day 10 and two declines, different in each patient."""
    size = 4000.0 * 1.7 ** PATIENTS.index(patient)
    rise = np.minimum(day, 10.0)
    fall = max(day - 10.0, 0.0)
    curve = np.exp(1.2 * (rise - 10)) * (0.98 * np.exp(-0.25 * fall) + 0.02 * np.exp(-0.02 * fall))
    wiggle = 1 + 0.1 * np.sin(7.0 * day + PATIENTS.index(patient))
    return float(f"{size * curve * wiggle:.3g}")


def save(path, sheets, merged=(), formats=()):
    """Write sheets (name -> rows). `merged`: (sheet, range); `formats`: (sheet, cell, format)."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for i, row in enumerate(rows, start=1):
            for j, entry in enumerate(row, start=1):
                if entry is not None:
                    sheet.cell(i, j, entry)
    for name, block in merged:
        book[name].merge_cells(block)
    for name, cell, shown in formats:
        book[name][cell].number_format = shown
    book.save(path)
    return path


def tidy(path):
    """A long workbook in carpk's own words: a row per dose and per sample."""
    patients = [["patient", "cohort", "weight"]]
    patients += [[p, "AB"[i % 2], 60 + 3 * i] for i, p in enumerate(PATIENTS)]
    infusions = [["patient", "time", "product", "amount", "unit", "duration"]]
    for p in PATIENTS:
        infusions += [[p, d, "fludarabine", 30, "mg/m2", 0.02] for d in (-5, -4, -3)]
        infusions.append([p, 0, "car_t", 1.5e8, "cells", 0])
    samples = [["patient", "time", "analyte", "value", "unit", "lloq", "censored"]]
    for p in PATIENTS:
        for d in DAYS:
            low = level(p, d) < LLOQ
            value = LLOQ if low else level(p, d)
            samples.append([p, d, "transgene", value, "copies/µg", LLOQ, int(low)])
    sheets = {"patients": patients, "infusions": infusions, "samples": samples}
    return save(path, sheets)


def laboratory(path):
    """A title, two merged header rows, words below the limit, total cells x percent CAR+."""
    people = [["Subject ID", "Arm", "Weight (kg)", "Total cells (x10^6)", "% CAR+"]]
    people += [[p, "AB"[i % 2], 60 + 3 * i, 300, 0.5] for i, p in enumerate(PATIENTS)]
    heads = ["CAR-T (copies/µg, LLOQ 50)", *[None] * (len(DAYS) - 1), "ALC [10^9/L]", None]
    wide = [
        ["Simulated cohort, qPCR and blood counts"],
        [],
        ["Subject ID", *heads],
        [None, *(f"D{d}" for d in DAYS), "D0", "D14"],
    ]
    for i, p in enumerate(PATIENTS):
        levels = [level(p, d) if level(p, d) >= LLOQ else ("<LOQ", "n.d.")[i % 2] for d in DAYS]
        wide.append([p, *levels, 0.1 + 0.02 * i, 0.5 + 0.05 * i])
    last = openpyxl.utils.get_column_letter(1 + len(DAYS))
    counts = [openpyxl.utils.get_column_letter(j + len(DAYS)) for j in (2, 3)]
    merged = [("qPCR", "A1:J1"), ("qPCR", "A3:A4"), ("qPCR", f"B3:{last}3")]
    merged.append(("qPCR", f"{counts[0]}3:{counts[1]}3"))
    formats = [("Demographics", f"E{i}", "0%") for i in range(2, 2 + len(PATIENTS))]
    return save(path, {"Demographics": people, "qPCR": wide}, merged, formats)

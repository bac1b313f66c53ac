"""The time to read 120,000 rows of 10,000 patients, over `pandas.read_csv` of the same file.

    python benchmarks/reading.py [--quick] [--out docs/reading.md]

All data are simulated. Every reader runs once per round, in turn; times are medians over rounds.
"""

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd

import carpk as ck

DAYS = [0.0, 1.0, 3.0, 5.0, 7.0, 10.0, 14.0, 21.0, 28.0, 60.0, 90.0]
LLOQ = 0.1  # cells/µL; assumed
ROUNDS = 5


def simulated(patients: int) -> pd.DataFrame:
    """A NONMEM table: one infusion and eleven samples of each patient."""
    rng, each = np.random.default_rng(2026), len(DAYS) + 1
    dose = np.tile([True] + [False] * len(DAYS), patients)
    levels = np.round(np.exp(rng.normal(3.0, 1.0, dose.size)), 3)
    return pd.DataFrame(
        {
            "ID": np.repeat(np.arange(1, patients + 1), each),
            "TIME": np.tile([0.0, *DAYS], patients),
            "DV": np.where(dose, ".", levels.astype(str)),
            "AMT": np.where(dose, 1e8, 0.0),
            "EVID": dose.astype(int),
            "CENS": 0,
            "WT": np.repeat(np.round(rng.normal(70.0, 10.0, patients), 1), each),
        }
    )


def readers(path: Path) -> Mapping[str, Callable[[], object]]:
    """What is timed; the frames are those of a data set that was read before."""
    units = {"car_t": "cells/µL"}

    def from_nonmem() -> ck.Dataset:
        return ck.Dataset.from_nonmem(path, units=units, lloq=LLOQ)

    frames = from_nonmem().to_frames()
    return {
        "pandas.read_csv": lambda: pd.read_csv(path),
        "Dataset.from_nonmem": from_nonmem,
        "Dataset.from_frames": lambda: ck.Dataset.from_frames(**frames),
    }


def seconds(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each, after a first round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, read in contenders.items():
            start = time.perf_counter()
            read()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def page(rows: int, patients: int, times: Mapping[str, float]) -> str:
    """The table as a page."""
    base = times["pandas.read_csv"]
    lines = [f"| {n} | {t:.2f} | {t / base:.0f} |" for n, t in times.items()]
    return "\n".join(
        [
            "# Time to read\n",
            f"Written on {date.today()} by `python benchmarks/reading.py --out docs/reading.md`: "
            f"{rows:,} rows of {patients:,}",
            "simulated patients, a dose and eleven samples each. The readers of carpk check every "
            "entry and write notes;",
            "`pandas.read_csv` parses the same file and checks nothing.\n",
            "| reader | seconds, median | over `pandas.read_csv` |",
            "|---|--:|--:|",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 patients, one round")
    parser.add_argument("--out", type=Path, help="page to write")
    asked = parser.parse_args()
    patients, rounds = (100, 1) if asked.quick else (10_000, ROUNDS)
    warnings.simplefilter("ignore", ck.CarpkWarning)
    with tempfile.TemporaryDirectory() as folder:
        path, table = Path(folder) / "simulated.csv", simulated(patients)
        table.to_csv(path, index=False)
        text = page(len(table), patients, seconds(readers(path), rounds))
    print(text)
    if asked.out:
        asked.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

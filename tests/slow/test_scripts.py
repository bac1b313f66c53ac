"""Scripts beside the data run, with settings that are too small to mean anything."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.exhaustive
def test_the_calibration_of_niche_runs(tmp_path):
    script = ROOT / "data" / "niche_calibration" / "calibrate.py"
    small = ["--iterations", "3", "--rounds", "10", "20", "--draws", "5"]
    done = subprocess.run(
        [sys.executable, str(script), *small, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    kept = pd.read_csv(ROOT / "models" / "niche_posterior.csv")
    drawn = pd.read_csv(tmp_path / "niche_posterior.csv")
    assert list(drawn) == list(kept)
    assert len(drawn) == 5
    targets = pd.read_csv(script.parent / "targets.csv", index_col="target")
    report = pd.read_csv(tmp_path / "report.csv", index_col="target")
    assert set(targets.index) <= set(report.index)
    assert report["model_median"].notna().all()


@pytest.mark.slow
def test_the_benchmark_of_reading_runs_and_writes_its_page(tmp_path):
    page = tmp_path / "reading.md"
    script = ROOT / "benchmarks" / "reading.py"
    subprocess.run([sys.executable, str(script), "--quick", "--out", str(page)], check=True)
    rows = re.findall(r"^\| ([\w.]+) \| [\d.]+ \| [\d,]+ \|$", page.read_text("utf-8"), re.M)
    assert rows == ["pandas.read_csv", "Dataset.from_nonmem", "Dataset.from_frames"]

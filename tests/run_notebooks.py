"""Run the notebooks from top to bottom, on copies, two at a time.

    python tests/run_notebooks.py                  with small settings, put in before the first cell
    python tests/run_notebooks.py --as-written     with the settings that readers see
    python tests/run_notebooks.py --keep FOLDER    the notebooks with what they show

A cell that fails ends it with exit code 1.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

TESTS = Path(__file__).parent
NOTEBOOKS = TESTS.parent / "notebooks"
SMALL = f"""\
import sys

import jax

sys.path.append({str(TESTS)!r})
jax.config.update("jax_disable_most_optimizations", True)  # they compile for longer than they run
import small

small.everywhere(small.NOTEBOOKS)
"""


def run(path: Path, as_written: bool, keep: Path | None) -> str:
    """Run one notebook; what went wrong, or nothing."""
    started = time.perf_counter()
    book = nbformat.read(path, as_version=4)
    own = len(book.cells)
    if not as_written:
        book.cells.insert(0, nbformat.v4.new_code_cell(SMALL))
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        try:
            NotebookClient(book, timeout=None, kernel_name="python3", resources=where).execute()
        except CellExecutionError as trouble:
            return f"{path.name}: {trouble}"
        finally:
            if keep:
                book.cells = book.cells[-own:]
                nbformat.write(book, keep / path.name)
    print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="of notebooks, if not all")
    parser.add_argument("--as-written", action="store_true")
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = sorted(NOTEBOOKS.glob("*.ipynb"), reverse=True)  # the last take longest
    chosen = [path for path in found if not args.names or path.name in args.names]
    if not chosen:
        sys.exit(f"No notebook is called {', '.join(args.names)}; there are those in {NOTEBOOKS}.")
    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(run, path, args.as_written, args.keep) for path in chosen]
        wrong = [trouble for job in jobs if (trouble := job.result())]
    sys.exit("\n\n".join(wrong) or 0)


if __name__ == "__main__":
    main()

"""The fits of `carpk demo` over twenty seeds, and the demo's time beside that of another commit.

    python benchmarks/demo_seeds.py                      what is missing of the 60 fits
    python benchmarks/demo_seeds.py --minutes 30         starts nothing after half an hour
    python benchmarks/demo_seeds.py --ratio 11ac756      both demos in turn, three rounds
    python benchmarks/demo_seeds.py --report             docs/demo_seeds.md

Every finished fit is one line of `demo_seeds.jsonl`, every timed demo one of `demo_times.jsonl`;
what is there is not run again. `--ratio` checks the other commit out into a temporary git worktree
and runs `carpk demo` of both trees in turn, in new processes, with this Python and without a cache
of compiled code.
"""

import argparse
import datetime
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from verdict import GRADES, append, code, lines, share, table

import carpk as ck
from carpk.demo import TARGET_ACCEPT, populations

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
FITS, TIMES = FOLDER / "demo_seeds.jsonl", FOLDER / "demo_times.jsonl"
PAGE = ROOT / "docs" / "demo_seeds.md"
SEEDS = range(1, 21)
ROUNDS = 3
DEMO = (
    "import sys; from carpk.cli import main; sys.argv[1:] = ['demo', '--out', sys.argv[1]]; main()"
)


def record(study: str, seed: int) -> dict[str, Any]:
    """One fit as the demo makes it, as a line of the file."""
    started = time.perf_counter()
    fit = ck.fit(
        populations()[study],
        ck.load_study(study),
        seed=seed,
        target_accept=TARGET_ACCEPT.get(study, 0.95),
        progress=False,
    )
    seconds = time.perf_counter() - started
    numbers, verdict = fit.verdict.numbers, fit.verdict
    return {
        "study": study,
        "seed": seed,
        "grade": verdict.grade,
        "rhat": round(numbers["rhat_max"], 4),
        "ess": round(numbers["ess_min"]),
        "divergences": int(numbers["divergences"]),
        "draws": fit.posterior.sizes["chain"] * fit.posterior.sizes["draw"],
        "seconds": round(seconds, 1),
        "cure": fit.settings.get("cure", {}).get("told", ""),
        "says": str(verdict).splitlines(),
        "code": code(),
    }


def run(minutes: float) -> None:
    started = time.monotonic()
    known = {(line["study"], line["seed"]) for line in lines(FITS)}
    todo = [(s, n) for n in SEEDS for s in populations() if (s, n) not in known]
    for i, (study, seed) in enumerate(todo):
        if time.monotonic() - started > 60 * minutes:
            print(f"{len(todo) - i} fits are left; the same command goes on.", flush=True)
            return
        line = record(study, seed)
        append(FITS, line)
        print({k: v for k, v in line.items() if k != "says"}, flush=True)


# ---------------------------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------------------------


def seconds_of(tree: Path) -> float:
    """Wall-clock seconds of `carpk demo` from a source tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAX_ENABLE_COMPILATION_CACHE": "false"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", DEMO, out],
            cwd=out,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if done.returncode not in (0, 3):  # 3: a fit is not to be trusted
            raise SystemExit(f"`carpk demo` in {tree} failed: {done.stderr.strip()[-500:]}")
        return time.perf_counter() - started


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def time_both(commit: str) -> None:
    """Rounds of both demos in turn."""
    here = git("rev-parse", "--short", "HEAD")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            for i in range(ROUNDS):
                each = {"other": seconds_of(tree), "here": seconds_of(ROOT)}
                line = {"commit": here, "other_commit": commit}
                append(TIMES, line | {k: round(x, 1) for k, x in each.items()})
                print(f"round {i + 1}: {commit} {each['other']:.0f} s, here {each['here']:.0f} s")
        finally:
            git("worktree", "remove", "--force", str(tree))


# ---------------------------------------------------------------------------------------------
# The page
# ---------------------------------------------------------------------------------------------


def summary(done: list[dict]) -> str:
    rows = []
    for study in populations():
        here = [x for x in done if x["study"] == study]
        of = Counter(x["grade"] for x in here)
        if here:
            row = [study, len(here), *(of[grade] for grade in GRADES[:3])]
            row += [f"{max(x['rhat'] for x in here):.4f}", min(x["ess"] for x in here)]
            row += [sum(x["divergences"] > 0 for x in here)]
            rows.append([*row, f"{statistics.median(x['seconds'] for x in here):.0f}"])
    head = ["study", "fits", *GRADES[:3], "largest R-hat"]
    head += ["fewest effective draws", "fits with divergences", "median seconds"]
    return table(head, rows)


def single(done: list[dict]) -> str:
    keys = ("study", "seed", "grade", "rhat", "ess", "divergences", "draws", "seconds", "cure")
    order = sorted(done, key=lambda x: (x["study"], x["seed"]))
    return table(keys, [[x[k] for k in keys] for x in order])


def ratio(timed: list[dict]) -> str:
    if not timed:
        return "The time beside that of another commit is not yet measured."
    here, other = (statistics.median(x[k] for x in timed) for k in ("here", "other"))
    each = ", ".join(f"{x['here'] / x['other']:.2f}" for x in timed)
    rounds = "one round" if len(timed) == 1 else f"medians of {len(timed)} rounds"
    return (
        f"Time of the whole demo: {here:.0f} s at {timed[-1]['commit']}, {other:.0f} s at "
        f"{timed[-1]['other_commit']} ({rounds}, both in turn): ratio "
        f"{here / other:.2f} (by round {each})."
    )


def page() -> str:
    done = lines(FITS)
    bad = sum(x["grade"] == "DO NOT TRUST" for x in done)
    total = len(SEEDS) * len(populations())
    return (
        f"# The demo over twenty seeds\n\nWritten on {datetime.date.today()} by `python "
        f"benchmarks/demo_seeds.py --report`; two cores, {len(done)} of {total} fits run. Not "
        f"trusted: {share(bad, len(done))}, with its 95 % Clopper-Pearson interval.\n\n"
        f"{ratio(lines(TIMES))}\n\n{summary(done)}\n\n## Every fit\n\n{single(done)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--ratio", metavar="COMMIT")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.report:
        PAGE.write_text(page(), encoding="utf-8")
    elif args.ratio:
        time_both(args.ratio)
    else:
        warnings.simplefilter("ignore")
        run(args.minutes)


if __name__ == "__main__":
    main()

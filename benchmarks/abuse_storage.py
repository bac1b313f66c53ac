"""Kill -9 and flipped bits: whether a fit on disk survives them.

    python benchmarks/abuse_storage.py --kills 100 --flips 200

Trials at random moments and places (seed 0), until there are as many as asked for:

- fit: a process that samples with `folder=` is killed, anywhere between its first and last block,
  those of the cure included; the same call then goes on, and must give the draws of a fit that
  nobody disturbed, bit for bit.
- save: a process that saves two fits to one file, again and again, is killed; the file must be one
  of the two, whole.
- load: a process that reads a fit, again and again, is killed; the file must be as it was.
- flip: one bit of a saved fit is flipped; `load_fit` must refuse it in a sentence.

Half of the kills are of fits. Trials are kept in `abuse_storage.json`, one by one: a run goes on
where the last one stopped. With a compilation cache (JAX_COMPILATION_CACHE_DIR,
JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0) a trial takes about ten seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpyro.distributions as dist
import pandas as pd

import carpk as ck
from carpk.inference.saving import digest_of_draws

RESULTS = Path(__file__).with_suffix(".json")
HOW = {"chains": 2, "draws": 100, "tune": 100, "starts": 1, "seed": 2, "progress": False}
PATIENCE = 300.0  # seconds that a process may take until its first block
GOOD = {"fit": "bit-equal", "save": "whole", "load": "untouched", "flip": "refused"}


def population() -> ck.Population:
    """Few parameters, so that a fit takes seconds, and SDs near 0, so that it must cure itself."""
    near_0 = dist.LogNormal(np.log(0.05), 2.0)
    return ck.Population(
        ck.load_model("piecewise"),
        varies=["cmax", "t_alpha"],
        priors={
            "sigma": dist.LogNormal(np.log(0.5), 0.2),
            "omega_cmax": near_0,
            "omega_t_alpha": near_0,
        },
        fixed={"fb": 0.0079, "beta_alpha": 0.0142, "t_double": 0.755, "tmax": 9.0},
    )


def data() -> ck.Dataset:
    """Three simulated patients."""
    rng, rows = np.random.default_rng(0), []
    names = ["a", "b", "c"]
    for name in names:
        for day in (4.0, 7.0, 10.0, 14.0, 28.0):
            level = 50 * np.exp(-abs(day - 9) / 8 + 0.4 * rng.standard_normal())
            rows.append((name, day, "car_t", level, "cells/µL"))
    doses = {"patient": names, "time": 0.0, "product": "car_t", "amount": 1e8, "unit": "cells"}
    columns = ["patient", "time", "analyte", "value", "unit"]
    return ck.Dataset.from_frames(
        doses=pd.DataFrame(doses), observations=pd.DataFrame(rows, columns=columns)
    )


# -- what is killed ---------------------------------------------------------------------------


def sampling(folder: str) -> None:
    ck.fit(population(), data(), folder=folder, **HOW)


def saving(folder: str) -> None:
    fits = [ck.load_fit(Path(folder) / name) for name in ("one.nc", "other.nc")]
    while True:
        for fit in fits:
            fit.save(Path(folder) / "fit.nc")
            (Path(folder) / "begun").touch()


def loading(folder: str) -> None:
    while True:
        ck.load_fit(Path(folder) / "fit.nc")
        (Path(folder) / "begun").touch()


@contextmanager
def killed(work: Callable[[str], None], folder: Path) -> Iterator[Callable[..., None]]:
    """Run `work` in a process of its own, which is killed at the end of the block.

    Gives a function that waits until something is there, or the process has ended.
    """
    process = multiprocessing.get_context("spawn").Process(target=work, args=(str(folder),))
    process.start()

    def wait_until(there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while process.is_alive() and not there():
            if time.monotonic() > deadline:
                raise SystemExit(f"A process wrote nothing for {PATIENCE:g} s: {work.__name__}.")
            time.sleep(0.001)

    try:
        yield wait_until
    finally:
        process.kill()
        process.join()


# -- trials -----------------------------------------------------------------------------------


def trial_fit(rng: np.random.Generator, folder: Path, whole: ck.Fit, parts: int) -> dict[str, Any]:
    draws = folder / "draws"
    after, more = int(rng.integers(parts)), float(rng.uniform(0, 0.05))
    with killed(sampling, draws) as wait_until:
        wait_until(lambda: len(list(draws.glob("*.bin"))) >= after and draws.exists())
        time.sleep(more if after else 40 * more)
    there = len(list(draws.glob("*.bin")))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again = ck.fit(population(), data(), folder=draws, **HOW)
    same = digest_of_draws(again.posterior) == digest_of_draws(whole.posterior)
    words = [str(w.message) for w in told if issubclass(w.category, ck.CarpkWarning)]
    return {"blocks": there, "found": "bit-equal" if same else "lost", "told": words}


def trial_save(rng: np.random.Generator, folder: Path, known: list[bytes]) -> dict[str, Any]:
    for name, content in zip(("one.nc", "other.nc", "fit.nc"), [*known, known[0]], strict=True):
        (folder / name).write_bytes(content)
    with killed(saving, folder) as wait_until:
        wait_until((folder / "begun").exists)
        time.sleep(float(rng.uniform(0, 1)))
    left = [p.name for p in folder.iterdir() if p.name.startswith(".")]
    allowed = {digest_of_draws(ck.load_fit(folder / n).posterior) for n in ("one.nc", "other.nc")}
    try:
        found = digest_of_draws(ck.load_fit(folder / "fit.nc").posterior)
    except ck.FitError as trouble:
        return {"found": "lost", "told": [str(trouble)]}
    return {"found": "whole" if found in allowed else "lost", "parts left": len(left)}


def trial_load(rng: np.random.Generator, folder: Path, known: list[bytes]) -> dict[str, Any]:
    (folder / "fit.nc").write_bytes(known[0])
    with killed(loading, folder) as wait_until:
        wait_until((folder / "begun").exists)
        time.sleep(float(rng.uniform(0, 0.5)))
    return {"found": "untouched" if (folder / "fit.nc").read_bytes() == known[0] else "lost"}


def trial_flip(rng: np.random.Generator, folder: Path, known: list[bytes]) -> dict[str, Any]:
    content = bytearray(known[0])
    place = int(rng.integers(len(content)))
    content[place] ^= 1 << int(rng.integers(8))
    (folder / "fit.nc").write_bytes(content)
    try:
        ck.load_fit(folder / "fit.nc")
    except ck.FitError:
        return {"found": "refused", "place": place}
    return {"found": "accepted", "place": place}


def run(kills: int, flips: int, results: Path = RESULTS) -> dict[str, list[dict[str, Any]]]:
    """Trials until there are as many as wanted; those in `results` count."""
    done: dict[str, list[dict[str, Any]]] = {kind: [] for kind in GOOD}
    if results.exists():
        done |= json.loads(results.read_text())
    wanted = {
        "fit": kills - 2 * (kills // 4),
        "save": kills // 4,
        "load": kills // 4,
        "flip": flips,
    }
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        whole = ck.fit(population(), data(), folder=root / "whole", **HOW)
        parts = len(list((root / "whole").glob("*.bin")))
        print(f"A fit of {parts} blocks, {whole.settings.get('cure', {}).get('told', 'no cure')}")
        other = ck.fit(population(), data(), method="map", seed=2, starts=1)
        known = [fit.save(root / "fit.nc").read_bytes() for fit in (whole, other)]
        trials = {"fit": lambda *x: trial_fit(*x, whole, parts)}
        trials["save"] = lambda *x: trial_save(*x, known)
        trials["load"] = lambda *x: trial_load(*x, known)
        trials["flip"] = lambda *x: trial_flip(*x, known)
        missing = [(i, kind) for kind, n in wanted.items() for i in range(len(done[kind]), n)]
        for i, kind in sorted(
            missing, key=lambda x: (x[1] != "flip", x[0])
        ):  # the quick ones first
            folder = root / f"{kind}{i}"
            folder.mkdir()
            rng = np.random.default_rng([i, *map(ord, kind)])
            done[kind].append(trials[kind](rng, folder))
            results.write_text(json.dumps(done, indent=0) + "\n")
            shutil.rmtree(folder)
    return done


def table(done: dict[str, list[dict[str, Any]]]) -> str:
    """As Markdown: kind, trials, how they ended."""
    lines = ["| | trials | wanted | so it was | not so |", "| --- | --: | --- | --: | --: |"]
    for kind, trials in done.items():
        good = sum(x["found"] == GOOD[kind] for x in trials)
        lines.append(f"| {kind} | {len(trials)} | {GOOD[kind]} | {good} | {len(trials) - good} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--flips", type=int, default=200)
    arguments = parser.parse_args()
    done = run(arguments.kills, arguments.flips)
    print(table(done))
    if any(x["found"] != GOOD[kind] for kind, trials in done.items() for x in trials):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

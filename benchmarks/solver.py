"""Speed and accuracy of carpk's solver beside other people's; see README.md in this folder.

    python benchmarks/solver.py            measures, prints, and writes the tables into README.md
    python benchmarks/solver.py --quick    tiny sizes, prints only: to see that everything runs

Every section runs in a process of its own, those marked "one thread" on a single CPU. Linux only.
"""

import argparse
import datetime
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
README = FOLDER / "README.md"
BEGIN, END = "<!-- results: written by solver.py -->", "<!-- end of results -->"
TWO_CORES = ("gradient", "compiling")  # the others are pinned to one CPU
MEMORY = ("memory_1000", "memory_10000", "memory_100000")
SECTIONS = (
    "compiling",
    "gradient",
    "forward",
    "closed_form",
    "scaling",
    *MEMORY,
    "limits",
)
LIBRARIES = (
    "carpk",
    "jax",
    "diffrax",
    "numpy",
    "scipy",
    "numba",
    "numbalsoda",
    "libroadrunner",
    "pystan",
    "httpstan",
)
SECTION_HOURS = 2


def measure(section: str, quick: bool) -> dict:
    """Results of a section, or {"failed": why}."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    cpus = os.sched_getaffinity(0)
    pin = None if section in TWO_CORES else partial(os.sched_setaffinity, 0, {max(cpus)})
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(FOLDER / "sections.py"), section, str(result)]
        try:
            subprocess.run(
                command + ["--quick"] * quick,
                capture_output=True,
                text=True,
                check=True,
                env=environment,
                preexec_fn=pin,
                timeout=3600 * SECTION_HOURS,
            )
        except subprocess.CalledProcessError as trouble:
            return {"failed": (trouble.stderr.strip().splitlines() or ["no message"])[-1]}
        except subprocess.TimeoutExpired:
            return {"failed": f"not done after {SECTION_HOURS} hours"}
        return json.loads(result.read_text())


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column to the left, numbers to the right."""
    rule = [":--"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}"


def error(x: float | None) -> str:
    return "–" if x is None else f"{x:.1e}"


def three_errors(each: list[float]) -> str:
    return " / ".join(error(x) for x in each)


def speed(per_second: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(per_second)))
    return f"{round(per_second, 3 - len(str(int(per_second)))):,.{digits}f}"


def failed_row(row: dict, width: int) -> list[str]:
    """A contender that failed, with empty cells up to `width` columns."""
    return [row["name"], f"{row['rtol']:.0e}", f"failed: {row['failed']}"] + [""] * (width - 3)


def show_gradient(answer: dict) -> str:
    rows = answer["rows"]
    carpk = rows[0].get("seconds", math.nan)
    cells = []
    for row in rows:
        if "failed" in row:
            cells.append(failed_row(row, 7))
            continue
        cells.append(
            [
                row["name"],
                f"{row['rtol']:.0e}",
                ms(row["seconds"]),
                f"{row['seconds'] / carpk:.2g}",
                error(row["value_error"]),
                error(row["gradient_error"]),
                error(row["output_error"]),
            ]
        )
    head = ["", "rtol", "ms", "ratio", "error of value", "of gradient", "of ln(E+M), largest"]
    note = (
        f"{rows[0]['patients']} patients, two cores. Median over {answer['rounds']} rounds of the "
        f"median of {answer['repeats']} evaluations. The ratio is to the first line. The error of "
        "the gradient is relative to its largest element."
    )
    return f"{note}\n\n{table(head, cells)}"


def at_error(rows: list[dict], wanted: float) -> tuple[float, str]:
    """Seconds per patient at a 95th-percentile error, and "" or what bounds it.

    Read on the line through (log error, log seconds) of the settings measured.
    """
    points = sorted(
        (math.log(row["errors"][0][1]), math.log(row["seconds"] / row["patients"])) for row in rows
    )
    x = math.log(wanted)
    if x <= points[0][0]:
        return math.exp(points[0][1]), "" if x == points[0][0] else "at its best error"
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return math.exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0)), ""
    return math.exp(points[-1][1]), "at its worst error"


def usable(row: dict) -> bool:
    """Whether a run gave finite levels for 95 % of what was asked."""
    return "failed" not in row and 0 < row["errors"][0][1] < math.inf


def show_forward(answer: dict) -> str:
    return "\n\n".join(
        show_problem(name, answer[name], build["rtol"], build)
        for name in ("five_state", "kimmel")
        for build in answer[name]["carpk_build"]
    )


def show_problem(name: str, answer: dict, rtol: float, build: dict) -> str:
    """Everybody beside carpk with the bound `rtol`."""
    rows = answer["rows"]
    ours = next(row for row in rows if row["name"] == "carpk" and row["rtol"] == rtol)
    if not usable(ours):
        return f"#### {name}, carpk with rtol {rtol:.0e}\n\ncarpk failed: {ours.get('failed')}"
    wanted = ours["errors"][0][1]
    mine = ours["seconds"] / ours["patients"]
    cells = []
    for peer in dict.fromkeys(row["name"] for row in rows):
        runs = [row for row in rows if row["name"] == peer]
        good = [ours] if peer == "carpk" else [row for row in runs if usable(row)]
        if not good:
            why = {**runs[0], "failed": runs[0].get("failed", "no finite levels")}
            cells.append(failed_row(why, 6 + len(answer["outputs"])))
            continue
        nearest = min(good, key=lambda row: abs(math.log(row["errors"][0][1] / wanted)))
        seconds, bound = at_error(good, wanted)
        cells.append(
            [
                peer,
                f"{nearest['rtol']:.0e}",
                f"{nearest['patients']:,}",
                speed(nearest["patients"] / nearest["seconds"]),
                *(three_errors(each) for each in nearest["errors"]),
                speed(1 / seconds) + (f" ({bound})" if bound else ""),
                f"{seconds / mine:.3g}",
            ]
        )
    head = ["", "rtol", "patients", "per second"]
    head += [f"error of {output}: median / 95 % / largest" for output in answer["outputs"]]
    head += ["per second at carpk's error", "times slower"]
    note = (
        f"#### {name}, carpk with rtol {rtol:.0e}\n\n"
        f"carpk: {build['steps']} steps; {build['choose']:.1f} s to choose the mesh and "
        f"{build['compile']:.1f} s to compile, once."
    )
    return f"{note}\n\n{table(head, cells)}"


def show_closed_form(answer: dict) -> str:
    rows = answer["rows"]
    cells = [
        [row["name"], speed(row["patients"] / row["seconds"]), ms(row["seconds"])] for row in rows
    ]
    note = (
        f"{rows[0]['patients']:,} patients at {answer['times']} times. Largest difference of the "
        f"log levels: {error(answer['difference'])}."
    )
    return f"{note}\n\n{table(['', 'patients per second', 'ms'], cells)}"


def show_scaling(answer: dict) -> str:
    cells = [
        [
            f"{row['patients']:,}",
            ms(row["seconds"]),
            f"{1e6 * row['seconds'] / row['patients']:.3g}",
        ]
        for row in answer["rows"]
    ]
    note = (
        f"Slope of log time against log patients from 200 on: {answer['slope']:.2f} (1 is "
        "proportional)."
    )
    return f"{note}\n\n{table(['patients', 'ms', 'µs per patient'], cells)}"


def show_memory(answers: list[dict]) -> str:
    cells = []
    for name, answer in zip(MEMORY, answers, strict=True):
        if "failed" in answer:
            cells.append([name, f"failed: {answer['failed']}", "", ""])
            continue
        sizes = (answer[key] / 2**20 for key in ("outputs", "planned", "grown"))
        cells.append([f"{answer['patients']:,}", *(f"{size:.1f}" for size in sizes)])
    head = ["patients", "outputs, MiB", "outputs and work space, MiB", "growth of the process, MiB"]
    return table(head, cells)


def show_compiling(answer: dict) -> str:
    cells = [
        [
            row["name"],
            f"{row['rtol']:.0e}",
            f"{row['choose']:.1f}" if row["choose"] else "–",
            f"{row['first']:.1f}",
            ms(row["second"]),
            str(row.get("steps", "–")),
        ]
        for row in answer["rows"]
    ]
    head = [
        "",
        "rtol",
        "choosing the mesh, s",
        "first call, s",
        "second call with other values, ms",
        "steps",
    ]
    return f"{answer['patients']} patients.\n\n{table(head, cells)}"


def show_limits(answer: dict) -> str:
    speeds = answer["nanoseconds"]
    cells = [
        [
            row["what"],
            str(row["steps"]),
            *(f"{row['counts'][kind]:,.0f}" for kind in speeds),
            f"{row['rate'] / 1e9:.2g}",
            f"{1e6 * row['measured']:.3g}",
            f"{1e6 * row['least']:.3g}",
            f"{row['least'] / row['measured']:.0%}",
        ]
        for row in answer["rows"]
    ]
    each = ["one operation alone, ns", "", *(f"{speeds[kind]:.2g}" for kind in speeds)]
    cells.append(each + [""] * 4)
    head = ["per patient", "steps", *speeds, "10⁹ operations/s", "µs", "µs of operations", "share"]
    return table(head, cells)


SHOWN = (
    ("A. Gradient of a log-likelihood", "gradient", show_gradient),
    ("B. Virtual population, one thread", "forward", show_forward),
    ("C. Closed form, one thread", "closed_form", show_closed_form),
    ("D. Scaling, one thread", "scaling", show_scaling),
    ("E. Before the first gradient, fresh process", "compiling", show_compiling),
    ("F. What limits it, one thread", "limits", show_limits),
)


def machine(libraries: Sequence[str] = LIBRARIES) -> str:
    """The kind of machine and the versions, without names or places."""
    info = Path("/proc/cpuinfo").read_text()
    found = {
        key: re.search(rf"^{key}\s*:\s*(.+)$", info, re.MULTILINE)
        for key in ("model name", "cpu family", "model")
    }
    name, family, model = (m.group(1) if m else "unknown" for m in found.values())
    versions = []
    for library in libraries:
        try:
            versions.append(f"{library} {metadata.version(library)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{library} not installed")
    cores = len(os.sched_getaffinity(0))
    return (
        f"{datetime.date.today()}. {cores} cores, {name} (family {family}, model {model}); "
        f"Python {platform.python_version()}, {', '.join(versions)}. Double precision."
    )


def report(answers: dict[str, dict]) -> str:
    """All tables as Markdown."""
    parts = [machine()]
    for title, section, show in SHOWN:
        answer = answers[section]
        shown = f"Failed: {answer['failed']}" if "failed" in answer else show(answer)
        parts += [f"### {title}", shown]
        if section == "scaling":
            parts += ["Memory of one run:", show_memory([answers[name] for name in MEMORY])]
    return "\n\n".join(parts)


def written(readme: str, results: str) -> str:
    """The README with these results between its markers."""
    head, rest = readme.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{results}\n\n{END}{tail}"


def replaced(readme: str, section: str, answer: dict) -> str:
    """The README with the table of one section anew; all contenders of a table run together."""
    title, show = next((t, show) for t, name, show in SHOWN if name == section)
    head, rest = readme.split(f"### {title}\n")
    tail = rest[re.search(r"^(### |<!-- )", rest, re.MULTILINE).start() :]
    return f"{head}### {title}\n\n{show(answer)}\n\n{tail}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes; prints only")
    parser.add_argument("--section", choices=("gradient", "forward", "closed_form", "limits"))
    args = parser.parse_args()
    if args.section:
        answer = measure(args.section, args.quick)
        if "failed" in answer:
            sys.exit(f"{args.section} failed: {answer['failed']}")
        readme = replaced(README.read_text(), args.section, answer)
        if not args.quick:
            README.write_text(readme)
        return
    answers = {}
    for section in SECTIONS:
        started = time.perf_counter()
        answers[section] = measure(section, args.quick)
        state = "failed" if "failed" in answers[section] else "done"
        print(f"{section}: {state} in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    results = report(answers)
    print(results)
    if not args.quick:
        README.write_text(written(README.read_text(), results))


if __name__ == "__main__":
    main()

"""NONMEM's event records on carpk's three routes, against answers that do not use its events.

Every case is a patient of one file, with samples between the records and at their very times, read
by `Dataset.from_nonmem`. The answers are those of `tests/reference/event_grammar.py`: single doses,
matrix exponentials and superposition.

    python benchmarks/event_grammar.py [--out docs/event_grammar.md]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import carpk as ck
from carpk.solver.events import Schedule
from carpk.solver.solve import Solver

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

from reference import event_grammar as reference  # noqa: E402

LAG = {1: 0.13, 2: 0.04}
MODELLED = {"rate": 90.0, "duration": 0.35}
NAMES = {1: ("drug", "mg"), 2: ("drug_iv", "mg"), 3: ("drug_deep", "mg")}


class Amounts(ck.States):
    depot: ck.Scalar = ck.state("mg", "amount to be absorbed")
    central: ck.Scalar = ck.state("mg", "amount in the blood")
    deep: ck.Scalar = ck.state("mg", "amount in the tissue")


class Params(ck.Params):
    ka: ck.Scalar = ck.param(reference.P["ka"], "1/day", "absorption", "assumed")
    CL: ck.Scalar = ck.param(reference.P["CL"], "L/day", "clearance", "assumed")
    V1: ck.Scalar = ck.param(reference.P["V1"], "L", "central volume", "assumed")
    Q: ck.Scalar = ck.param(reference.P["Q"], "L/day", "exchange", "assumed")
    V2: ck.Scalar = ck.param(reference.P["V2"], "L", "peripheral volume", "assumed")
    F1: ck.Scalar = ck.param(reference.SHARE[1], "1", "bioavailability", "assumed", (0, 1))
    F2: ck.Scalar = ck.param(reference.SHARE[2], "1", "bioavailability", "assumed", (0, 1))
    L1: ck.Scalar = ck.param(LAG[1], "day", "lag", "assumed")
    L2: ck.Scalar = ck.param(LAG[2], "day", "lag", "assumed")
    R: ck.Scalar = ck.param(MODELLED["rate"], "mg/day", "rate", "assumed")
    D: ck.Scalar = ck.param(MODELLED["duration"], "day", "duration", "assumed")


def flow(t, y, p):
    absorbed, there, back = p.ka * y.depot, p.Q / p.V1 * y.central, p.Q / p.V2 * y.deep
    return Amounts(-absorbed, absorbed - p.CL / p.V1 * y.central - there + back, there - back)


def targets(depot, central, deep, lag, modelled):
    """Targets of the three compartments, with a lag and what the model gives of RATE -1 and -2."""
    gives = {"rate": {"rate": lambda p: p.R}, "duration": {"duration": lambda p: p.D}}
    more = gives.get(modelled, {})
    late = ({"lag": lambda p: p.L1}, {"lag": lambda p: p.L2}) if lag else ({}, {})
    return {
        "drug": ck.Target(depot, bioavailability=lambda p: p.F1, unit="mg", **late[0], **more),
        "drug_iv": ck.Target(central, bioavailability=lambda p: p.F2, unit="mg", **late[1], **more),
        "drug_deep": ck.Target(deep, unit="mg"),
    }


def models(lag, modelled):
    """The drug in closed form (into depot and blood alone), and as differential equations."""
    common = {"params": Params, "units": {"conc": "mg/L"}, "product": "drug"}
    closed = ck.ODEModel(
        name="closed",
        inputs={"c": lambda p: ck.Disposition(p.CL, p.V1, ((p.Q, p.V2),), p.ka)},
        targets=targets("c_depot", "c", "c", lag, modelled),
        outputs={"conc": lambda t, y, p, c: c["c"]},
        **common,
    )
    equations = ck.ODEModel(
        name="equations",
        states=Amounts,
        vector_field=flow,
        targets=targets("depot", "central", "deep", lag, modelled),
        outputs={"conc": lambda t, y, p: y.central / p.V1},
        **common,
    )
    return closed, equations


def dose(time, cmt=1, amt=100.0, **more):
    return {"TIME": time, "EVID": 1, "CMT": cmt, "AMT": amt, **more}


def reset(time):
    return {"TIME": time, "EVID": 3, "CMT": 1}


# name -> records, and what the model gives (None, "rate", "duration")
GRAMMAR = {
    "bolus": ([dose(0.0)], None),
    "into the blood": ([dose(0.0, 2)], None),
    "into the tissue": ([dose(0.0, 3)], None),
    "infusion by RATE": ([dose(0.0, 2, RATE=250.0)], None),
    "infusion by RATE into the depot": ([dose(0.0, 1, RATE=250.0)], None),
    "infusion by DUR": ([dose(0.0, 2, DUR=0.4), dose(0.5, DUR=0.3, ADDL=1, II=0.2)], None),
    "ADDL": ([dose(0.0, ADDL=3, II=0.5)], None),
    "ADDL of infusions that overlap": ([dose(0.0, 2, RATE=100.0, ADDL=3, II=0.5)], None),
    "two drugs": ([dose(0.0, ADDL=2, II=0.7), dose(0.0, 2, 40.0, RATE=80.0)], None),
    "EVID 2 does nothing": ([dose(0.0), {"TIME": 0.6, "EVID": 2, "CMT": 1}], None),
    "EVID 3": ([dose(0.0), dose(0.3, 2, RATE=50.0), reset(0.6), dose(1.1)], None),
    "EVID 4": ([dose(0.0), dose(0.6, EVID=4)], None),
    "EVID 4 of an infusion": ([dose(0.0), dose(0.6, 2, EVID=4, RATE=200.0)], None),
    "RATE -1": ([dose(0.0, RATE=-1), dose(0.5, 2, RATE=-1)], "rate"),
    "RATE -2": ([dose(0.0, RATE=-2), dose(0.5, 2, RATE=-2)], "duration"),
    "RATE -1 with ADDL": ([dose(0.0, RATE=-1, ADDL=3, II=0.4)], "rate"),
    "SS": ([dose(0.0, SS=1, II=0.5)], None),
    "SS into the blood": ([dose(0.0, 2, SS=1, II=0.5)], None),
    "SS of an infusion": ([dose(0.0, 2, SS=1, II=0.5, RATE=400.0)], None),
    "SS of an infusion longer than II": ([dose(0.0, 2, SS=1, II=0.5, RATE=60.0)], None),
    "SS of an infusion of exactly II": ([dose(0.0, 2, SS=1, II=0.5, RATE=160.0)], None),
    "SS with II shorter than the lag": ([dose(0.0, SS=1, II=0.1)], None),
    "SS of an infusion by DUR": ([dose(0.0, 2, SS=1, II=0.5, DUR=1.2)], None),
    "SS with ADDL": ([dose(0.0, SS=1, II=0.5, ADDL=2)], None),
    "SS after other doses": ([dose(0.0, amt=500.0), dose(0.6, SS=1, II=0.5)], None),
    "SS 2": ([dose(0.0, amt=500.0), dose(0.6, SS=2, II=0.5)], None),
    "SS 2 of an infusion": ([dose(0.0), dose(0.6, 2, SS=2, II=0.5, RATE=60.0)], None),
    "SS and SS 2 at one time": ([dose(0.0, SS=1, II=0.5), dose(0.0, 2, SS=2, II=0.3)], None),
    "SS of a constant infusion": ([dose(0.0, 2, 0.0, SS=1, RATE=70.0)], None),
    "SS of a constant infusion into the depot": ([dose(0.3, 1, 0.0, SS=1, RATE=70.0)], None),
    "SS and then a reset": ([dose(0.0, SS=1, II=0.5), reset(0.6), dose(1.1, 2)], None),
    "SS with RATE -1": ([dose(0.0, SS=1, II=0.5, RATE=-1)], "rate"),
    "SS with RATE -2": ([dose(0.0, 2, SS=1, II=0.5, RATE=-2)], "duration"),
    "SS with RATE -2 longer than II": ([dose(0.0, 2, SS=1, II=0.3, RATE=-2)], "duration"),
}
# observations as (day, place among the records of its time): before and after all of them
OFTEN = (0.02, 0.05, 0.13, 0.2, 0.35, 0.45, 0.9, 1.0, 1.4, 2.2)


def with_observations(records):
    """Records with observations between them, some at the very time of a dose."""
    every = [(r["TIME"], 1, i, r) for i, r in enumerate(records)]
    times = sorted({r["TIME"] for r in records})
    seen = [(t, 2, 0) for t in (*OFTEN, *times)] + [(t, 0, 0) for t in times[1:]]
    every += [(t, place, i, {"TIME": t, "EVID": 0, "CMT": 2}) for t, place, i in seen]
    return [record for *_, record in sorted(every, key=lambda x: x[:3])]


def read(path, cases):
    """The data set of a file with these records, a patient per case."""
    columns = ["TIME", "EVID", "CMT", "AMT", "RATE", "DUR", "II", "ADDL", "SS"]
    lines = [",".join(["ID", *columns, "DV"])]
    for number, records in enumerate(cases, start=1):
        for record in records:
            value = "." if record["EVID"] else "1"
            lines.append(",".join([f"{number}", *(f"{record.get(c, 0)}" for c in columns), value]))
    path.write_text("\n".join(lines) + "\n")
    doses = [r for records in cases for r in records if r["EVID"] in (1, 4)]
    products = {cmt: NAMES[cmt] for cmt in sorted({r["CMT"] for r in doses})}
    return ck.Dataset.from_nonmem(path, analytes="conc", units={"conc": "mg/L"}, products=products)


def solved(model, data, route):
    """Levels (patient, time), and the largest residual of a steady state."""
    arrays = data.arrays(["conc"])
    days = np.where(arrays.mask, arrays.time, np.nan)
    schedule = Schedule.of(model, data.regimens(), days, follows=arrays.follows)
    shape = (schedule.patients,)
    each = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, float), shape), model.params())
    if route == "adaptive":
        solver = Solver.adaptive(schedule, "tsit5")
    else:
        typical = jax.tree.map(lambda x: x[None], each)
        solver = Solver.prepare(schedule, typical, rtol=1e-6, share=1.0)
        assert solver.exact == (route == "closed")
        assert solver.mesh is not None or solver.exact
    _, outputs, code, _, residual = jax.jit(solver.run)(each)
    assert (np.asarray(code) == 0).all()
    return np.asarray(outputs["conc"]), float(residual.max())


def compared(route, lag, modelled, path):
    """Case -> largest error of its levels: relative to each, and to a thousandth of the peak."""
    model = models(lag, modelled)[route != "closed"]
    own = {name: rows for name, (rows, needs) in GRAMMAR.items() if needs == modelled}
    cases = {name: with_observations(rows) for name, rows in own.items()}
    if route == "closed":  # a disposition takes doses into its depot and the blood
        cases = {n: rows for n, rows in cases.items() if all(r["CMT"] < 3 for r in rows)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ck.CarpkWarning)  # samples of one time have one value
        data = read(path, cases.values())
    levels, residual = solved(model, data, route)
    assert residual < 1e-9
    errors = {}
    for (name, records), found in zip(cases.items(), levels, strict=True):
        right = reference.levels(records, LAG if lag else {}, MODELLED)
        size = np.maximum(np.abs(right), 1e-3 * np.abs(right).max())
        errors[name] = float(np.max(np.abs(found[: len(right)] - right) / size))
    return errors


def table():
    """The table of errors as lines of Markdown."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for route, lag, modelled in itertools.product(ROUTES, (False, True), MODELLED_BY):
            errors = compared(route, lag, modelled, Path(folder) / "data.csv")
            found |= {(name, route, lag): error for name, error in errors.items()}
    lines = [
        "| records | " + " | ".join(f"{r}{', lag' * lag}" for r in ROUTES for lag in (0, 1)) + " |",
        "|---|" + "---|" * 2 * len(ROUTES),
    ]
    for name in GRAMMAR:
        errors = [found.get((name, route, lag)) for route in ROUTES for lag in (False, True)]
        cells = ["" if e is None else f"{e:.0e}" for e in errors]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def page():
    """The page with the table."""
    return "\n".join([*PAGE.splitlines(), "", *table(), ""])


PAGE = """# The event records of NONMEM, and what carpk makes of them

Written by `python benchmarks/event_grammar.py --out docs/event_grammar.md`. Each line is a patient
of a file that `Dataset.from_nonmem` reads, with samples between the records, just before them and
just after. The numbers are the largest errors of the levels: relative to the level, and to a
thousandth of the peak where it is lower. The right answers are written with matrix exponentials and
superposition alone (`tests/reference/event_grammar.py`); doses of a steady state are added up one
by one.

The drug has a depot (CMT 1, F 0.7), a central (CMT 2, F 0.8) and a peripheral compartment (CMT 3);
with "lag" the first two have a lag time, too. *closed* is the drug in closed form, which takes no
doses into the tissue; *mesh* and *adaptive* are its differential equations, the mesh with the bound
1e-6. RATE -1 and -2 are rate and duration from the model (`Target(rate=...)`,
`Target(duration=...)`).
"""
ROUTES = ("closed", "mesh", "adaptive")
MODELLED_BY = (None, "rate", "duration")


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path)
    out = options.parse_args().out
    text = page()
    if out is None:
        print(text)
    else:
        out.write_text(text)


if __name__ == "__main__":
    main()

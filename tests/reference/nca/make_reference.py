"""Write `curves.csv` and `pkpdutils.csv`: simulated curves and another program's NCA of them.

Needs Python 3.13 and pkpdutils (MIT), tried with pkpdutils 1.3.0; not a dependency of carpk and
never run by the test suite, which reads the two files. Run it in this folder:

    python3.13 -m pip install pkpdutils && python3.13 make_reference.py

All curves are simulated here; none is a patient's. Days and copies/µg. In pkpdutils the curves are
analysed twice: without a dose, so that areas start at the first sample, and as an extravascular
dose, for which a level of 0 is put at day 0 (`*_from_0`). BLQ: the rule set of ICH M13A.
"""

import csv
from pathlib import Path

import numpy as np
from pkpdutils import Dose, Route, Timecourse, Timecourses
from pkpdutils.nca import BLQRules, Kind, NCAOptions, nca_single, partial_auc

HERE = Path(__file__).parent
LLOQ = 50.0
DAYS = np.array([0, 1, 2, 4, 7, 9, 11, 14, 17, 21, 28, 42, 60, 90, 120, 180.0])


def cart(t, start=40.0, peak=24_000.0, tmax=9.3, contraction=0.16, share=0.008, loss=0.003):
    """Exponential rise to a peak, then contraction and persistence."""
    rise = start * (peak / start) ** (np.minimum(t, tmax) / tmax)
    past = np.maximum(t - tmax, 0)
    return rise * ((1 - share) * np.exp(-contraction * past) + share * np.exp(-loss * past))


def curves():
    """Name -> (days, levels)."""
    noise = np.random.default_rng(2019)
    noisy = cart(DAYS) * np.exp(0.5 * noise.standard_normal(DAYS.size))
    lost = cart(DAYS, contraction=0.5, share=1e-4, loss=0.02)
    gap = cart(DAYS, peak=3_000.0, share=0.03) * np.exp(0.3 * noise.standard_normal(DAYS.size))
    gap[[12, 14]] = [31.0, 12.0]  # below the LLOQ between levels above it
    late = DAYS[3:]
    flat = np.array([10.0, 60, 900, 900, 400, 180]), np.array([0, 3, 7, 10, 14, 21.0])
    regrow = cart(DAYS[:12])
    regrow[-3:] = [900, 1_500, 4_000]
    return {
        "biphasic": (DAYS, cart(DAYS)),
        "biphasic_noisy": (DAYS, noisy),
        "lost_within_a_month": (DAYS, lost),
        "blq_between": (DAYS, gap),
        "first_sample_day_4": (late, cart(late, tmax=12.0)),
        "flat_peak": (flat[1], flat[0]),
        "regrowth": (DAYS[:12], regrow),
        "rising_until_the_end": (DAYS[:6], cart(DAYS[:6], tmax=20.0)),
    }


NAMES = ["cmax", "tmax", "clast", "tlast", "auc_last", "auc_all", "lambda_z", "thalf"]
NAMES += [f"lambda_z_{name}" for name in ("n_points", "t_first", "t_last", "r2_adj")]


def analyse(t, c):
    """Quantity -> number."""
    options = NCAOptions(lloq=LLOQ, blq=BLQRules.ich_m13a())
    # `partial_auc` takes values as they are: apply the same BLQ rule by hand.
    seen = np.flatnonzero(c >= LLOQ)
    kept = (c >= LLOQ) | (np.arange(c.size) < seen[0]) | (np.arange(c.size) > seen[-1])
    ruled = np.where(c >= LLOQ, c, 0.0)[kept]

    def timecourse(time, value, dose=None):
        return Timecourse(time=time, value=value, time_unit="day", unit="1/ug", dose=dose)

    plain = nca_single(timecourse(t, c), options=options)
    oral = Dose(amount=1.0, unit="mg", route=Route.ORAL)
    dosed = nca_single(timecourse(t, c, oral), options=options)
    out = {name: float(plain.ds[name]) for name in NAMES}
    out["auc_last_from_0"] = float(dosed.ds["auc_last"])
    batch = Timecourses.from_timecourses([timecourse(t[kept], ruled, oral)])
    for day in (10, 28):
        out[f"auc_0_{day}_from_0"] = float(partial_auc(batch, 0, day).to_numpy()[0])
    linear = NCAOptions(kind=Kind.EFFECT, effect_threshold=LLOQ)
    out["time_above_linear"] = float(
        nca_single(timecourse(t[kept], ruled), options=linear).ds["time_above"]
    )
    return out


def main():
    with (HERE / "curves.csv").open("w", newline="") as inputs:
        write = csv.writer(inputs, lineterminator="\n")
        write.writerow(["curve", "time", "value", "lloq"])
        rounded = {}
        for name, (t, c) in curves().items():
            rounded[name] = t, np.array([float(f"{x:.6g}") for x in c])
            write.writerows(
                [name, f"{d:g}", f"{x:.6g}", f"{LLOQ:g}"] for d, x in zip(t, c, strict=True)
            )
    with (HERE / "pkpdutils.csv").open("w", newline="") as outputs:
        write = csv.writer(outputs, lineterminator="\n")
        write.writerow(["curve", "quantity", "value"])
        for name, (t, c) in rounded.items():
            write.writerows([name, key, repr(x)] for key, x in analyse(t, c).items())


if __name__ == "__main__":
    main()

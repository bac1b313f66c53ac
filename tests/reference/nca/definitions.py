"""NCA parameters by their definitions, one curve at a time in plain loops, without carpk.

Definitions are those of PKNCA (https://humanpred.github.io/pknca) and, of areas between two days,
of its AUCint.inf.obs: linear-up/log-down, BLQ 0 before the first quantifiable concentration,
dropped between, 0 after the last; lambda z by the best adjusted R2 of three or more points after
Tmax, more points where within 1e-4.
"""

import itertools
import math

import numpy as np
from scipy.integrate import quad

NAN = float("nan")


def area(points, start=-math.inf, stop=math.inf):
    """Area under straight rises and exponential declines, from `start` to `stop`."""
    total = 0.0
    for (t1, c1), (t2, c2) in itertools.pairwise(points):
        a, b = max(t1, start), min(t2, stop)
        if b <= a:
            continue
        left, right = (between((t1, c1), (t2, c2), day) for day in (a, b))
        if 0 < c2 < c1:
            total += (b - a) * (left - right) / math.log(left / right)
        else:
            total += (b - a) * (left + right) / 2
    return total


def between(one, two, day):
    (t1, c1), (t2, c2) = one, two
    share = (day - t1) / (t2 - t1)
    return c1 ** (1 - share) * c2**share if 0 < c2 < c1 else c1 + share * (c2 - c1)


def ruled(points, lloq):
    """The curve after the BLQ rule, of points (day, concentration, quantifiable)."""
    seen = [i for i, (_, c) in enumerate(points) if c >= lloq and c > 0]
    if not seen:
        return [(t, 0.0) for t, _ in points], []
    inside = range(seen[0], seen[-1] + 1)
    kept = [
        (t, c if i in seen else 0.0)
        for i, (t, c) in enumerate(points)
        if i in seen or i not in inside
    ]
    return kept, [points[i] for i in seen]


def regression(points):
    x, y = np.array([t for t, _ in points]), np.log([c for _, c in points])
    slope, height = np.polyfit(x, y, 1)
    flat = np.ptp(y) == 0
    r2 = 0.0 if flat else np.corrcoef(x, y)[0, 1] ** 2
    n = len(points)
    return -slope, height, 1 - (1 - r2) * (n - 1) / (n - 2)


def terminal(seen, chosen=None):
    """The points of lambda z with its regression, or None."""
    if chosen is not None:
        tried = [[(t, c) for t, c in seen if chosen[0] <= t <= chosen[1]]]
    else:
        peak = [c for _, c in seen].index(max(c for _, c in seen)) if seen else 0
        after = seen[peak + 1 :]
        tried = [after[-n:] for n in range(3, len(after) + 1)]
    fits = [(points, *regression(points)) for points in tried if len(points) >= 3]
    fits = [fit for fit in fits if fit[1] > 1e-12]
    if not fits:
        return None
    best = max(fit[3] for fit in fits)
    return max((fit for fit in fits if fit[3] >= best - 1e-4), key=lambda fit: len(fit[0]))


def parameters(points, lloq, dose=NAN, initial=0.0, intervals=((0, 28),), most=2.0, chosen=None):
    """Parameters of one curve, a list of (day, concentration) after the infusion."""
    curve, seen = ruled(points, lloq)
    curve = [(0.0, initial), *curve]
    found = {"CMAX": max(c for _, c in curve[1:]) if points else NAN}
    found["TMAX"] = next(t for t, c in seen if c == found["CMAX"]) if seen else NAN
    found["TLST"], found["CLST"] = seen[-1] if seen else (NAN, NAN)
    last = [(t, c) for t, c in curve if not seen or t <= found["TLST"]]
    found["AUCLST"] = area(last) if points else NAN
    fit = terminal(seen, chosen)
    found |= at_the_end(fit, found)
    for start, stop in intervals:
        rate = found["LAMZ"]
        found[f"AUC{start:g}_{stop:g}D"] = (
            partial(curve, start, stop, rate, most) if points else NAN
        )
    for name in ("CMAX", "AUCLST", "AUCIFO"):
        found[f"{name}D"] = found[name] / dose
    peak = seen.index((found["TMAX"], found["CMAX"])) if seen else 0
    found["FOLDX"] = seen[peak][1] / seen[0][1] if peak else NAN
    found["DBLTIME"] = NAN
    if peak:
        rise = np.polyfit(
            [t for t, _ in seen[: peak + 1]], np.log([c for _, c in seen[: peak + 1]]), 1
        )
        found["DBLTIME"] = math.log(2) / rise[0] if rise[0] > 0 else NAN
    return found


def at_the_end(fit, found):
    names = ("LAMZ", "LAMZHL", "LAMZLL", "LAMZUL", "LAMZSPN", "R2ADJ")
    names += ("AUCIFO", "AUCPEO", "AUCIFP", "AUCPEP")
    if fit is None:
        return {**dict.fromkeys(names, NAN), "LAMZNPT": 0}
    points, rate, height, adjusted = fit
    half = math.log(2) / rate
    ends = {"LAMZLL": points[0][0], "LAMZUL": points[-1][0]}
    out = {"LAMZ": rate, "LAMZHL": half, "LAMZNPT": len(points), "R2ADJ": adjusted, **ends}
    out["LAMZSPN"] = (ends["LAMZUL"] - ends["LAMZLL"]) / half
    for end, c in (("O", found["CLST"]), ("P", math.exp(height - rate * found["TLST"]))):
        out[f"AUCIF{end}"] = found["AUCLST"] + c / rate
        out[f"AUCPE{end}"] = 100 * c / rate / out[f"AUCIF{end}"]
    return out


def partial(curve, start, stop, rate, most):
    last, c = curve[-1]
    if last >= stop:
        return area(curve, start, stop)
    if stop - last > most:
        return NAN
    if c == 0:
        return area(curve, start, stop)
    tail = c / rate * (math.exp(-rate * max(start - last, 0)) - math.exp(-rate * (stop - last)))
    return area(curve, start, stop) + tail


def c0(points, lloq):
    """pk.calc.c0 of PKNCA without a sample at the time of dose: log slope, else first sample."""
    kept = [(t, c if c >= lloq else 0.0) for t, c in points]
    if len(kept) > 1:
        (t1, c1), (t2, c2) = kept[:2]
        if c2 < c1 and c2 != 0:
            return math.exp(math.log(c1) - (math.log(c2) - math.log(c1)) / (t2 - t1) * t1)
    return kept[0][1]


def of_drug(points, lloq, dose, route, duration):
    """CL = dose / AUCinf, Vz = CL / lambda z, MRT = AUMCinf / AUCinf (- duration / 2)."""
    first = c0(points, lloq) if route == "bolus" else 0.0
    found = parameters(points, lloq, dose, first)
    curve, _ = ruled(points, lloq)
    curve = [(0.0, first), *curve]
    last, rate = found["TLST"], found["LAMZ"]
    upto = [(t, c) for t, c in curve if t <= last]
    aumc = sum(moment(one, two) for one, two in itertools.pairwise(upto))
    aumc += found["CLST"] * last / rate + found["CLST"] / rate**2
    f = "F" if route == "extravascular" else ""
    found[f"CL{f}O"] = dose / found["AUCIFO"]
    found[f"VZ{f}O"] = dose / (found["AUCIFO"] * rate)
    mean_time = aumc / found["AUCIFO"]
    found["MRTEVIFO" if f else "MRTIVIFO"] = mean_time - (
        duration / 2 if route == "infusion" else 0
    )
    if route == "bolus":
        found["C0"] = first
        for end in "OP":
            back = area(upto[:2]) if len(upto) > 1 else NAN
            found[f"AUCPBE{end}"] = 100 * back / found[f"AUCIF{end}"]
    return found


def moment(one, two):
    (t1, c1), (t2, c2) = one, two
    if 0 < c2 < c1:
        return quad(lambda t: t * between(one, two, t), t1, t2, epsabs=0, epsrel=1e-12)[0]
    return (t2 - t1) * (t1 * c1 + t2 * c2) / 2

"""Cyclophosphamide, which induces its own activation, and 4-hydroxycyclophosphamide (carpk).

A design of this project from several papers, not a published model. One compartment Y [mg] for
cyclophosphamide, CY = Y / V [mg/L]; an enzyme z, relative to what it is without drug, that CY
induces; and the active metabolite 4-OH-CY, which goes as fast as it comes and so follows its
formation, with no compartment of its own:

    Y' = -CL/V (fn + (1 - fn) z) Y
    z' = kz (1 + Imax CY / (CY + C50z) - z)
    4-OH-CY = MR CY z,         MR: its AUC over that of cyclophosphamide, without induction

Outputs: both concentrations in plasma [mg/L] and their integrals from the start [mg h/L]; 1 µmol/L
of 4-OH-CY is 0.2771 mg/L. Doses are mg, infused over 1 hour unless said otherwise. In `regimens`
day 0 is the first dose; before CAR-T cells give them on days -5, -4, -3 or the like
(`Regimen.lymphodepletion`).

What is known and what is not. From the model of the Netherlands Cancer Institute (NKI; abstract):
fn, the share of clearance that cannot be induced, is 20 %; kz; and a rise of the formation of
4-OH-CY by some 50 %. Its second, slower enzyme, and the 5 % that become
2-dechloroethylcyclophosphamide, go with the rest. How CY drives z there was not read: the saturable
form and C50z are assumed. So is MR, 0.055, set between the mean ratio of Joy 2012 (0.06) and the
ratio of its mean AUCs (0.049). MR has no random effect: that of CL alone gives AUCs of 4-OH-CY a CV
of 46 %, and Joy has 53 %. No maturation in infants, no saturation at high doses, no thiotepa (the
patients of the NKI had it), no kidney.

    values="house"      CL 5.4 L/h (Ahmed 2020, rounded) and V 33 L, both scaled by weight. The V,
                        near 0.5 L/kg, is UNVERIFIED, and the scaling assumed
    values="ahmed2020"  CL 5.41 L/h and V 46.5 L (BSA/1.58)^0.861, for women with breast cancer on
                        600 mg/m². FAC = 1 is the regimen of 500 mg/m² with fluorouracil: CL 0.677
                        and V 0.629 times that. Only this was fitted to data of its authors, for one
                        dose over half an hour; induction and 4-OH-CY are ours here too

    induction="on"      the 50 % as a ceiling, never reached: after 1250 mg/m² a day for four days,
                        the middle of the NKI's doses, formation is up by 21 %
    induction="strong"  the 50 % as what is reached by then, with an Imax of 1.33 set here for that
    induction="off"     z = 1, all linear and in closed form, for speed

After three doses of 500 mg/m² the AUC of 4-OH-CY is 1.4 % larger with "on" than with "off", and
3 % with "strong"; that of cyclophosphamide is 6 and 13 % smaller. In transplantation induction was
stronger than either: half-lives of 7.1, 5.5 and 4.3 h on days 1, 2 and 4, and 2.5 times as much of
the activated metabolites on day 4 as on day 1 (Schuler 1987, abstract). Here 80 % of a dose is
activated without induction, so that none can raise the AUC of 4-OH-CY by more than a quarter.

Not met: in Ahmed 2020 the median AUC of cyclophosphamide is 566 µmol h/L. The paper's own CL gives
659 for the median dose of 600 mg/m² and 813 for that of 500.

Reference: population model of the NKI (cyclophosphamide, 4-OH-CY, 2-dechloroethylcyclophosphamide
and phosphoramide mustard with thiotepa and carboplatin; abstract on nki.nl). Ahmed et al. (2020)
Front Pharmacol 11:406, doi:10.3389/fphar.2020.00406, Tables 3 and 4, read in the transcription of
nlmixr2lib. Joy et al. (2012) Br J Clin Pharmacol 74:445-455, doi:10.1111/j.1365-2125.2012.04223.x,
Campagne et al. (2020) Clin Cancer Res 26:1563-1573, doi:10.1158/1078-0432.CCR-19-2685, and Schuler
et al. (1987) Cancer Chemother Pharmacol 20:248-252, doi:10.1007/BF00570495: abstracts.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal

import jax.numpy as jnp

import carpk as ck
from carpk.models import _body as body
from carpk.models import _variants as variants

AHMED = "Ahmed 2020, Table 3, as transcribed in nlmixr2lib"
NKI = "population model of the NKI (abstract)"
MG_PER_UMOL = 0.2771  # 4-OH-CY; molecular weight 277.1
RESIDUAL_SD = 1.54  # mg/L of cyclophosphamide, additive; Ahmed 2020, Table 3
IMAX = {"on": 0.5, "strong": 1.33}
IMAX_FROM = {
    "on": NKI + ": formation of 4-OH-CY up by about 50 %, taken as the ceiling",
    "strong": "this project: 50 % reached on the fourth day of 1250 mg/m²",
}


class Common(ck.Params):
    MR: ck.Scalar = ck.param(
        0.055,
        "1",
        "4-OH-CY over cyclophosphamide, without induction",
        "assumed, after Joy 2012 (abstract): ratio of AUC 0.06, SD 0.04, n = 23",
        prior_sd=0.4,
    )


class House(Common):
    CL: ck.Scalar = ck.param(
        5.4,
        "L/h",
        "clearance before induction, 70 kg",
        AHMED + ": 5.41 L/h, CV 46.4 %; power 0.75 of weight assumed",
        cv=0.464,
        prior_sd=0.4,
    )
    V: ck.Scalar = ck.param(
        33.0,
        "L",
        "volume, 70 kg",
        "unverified: near 0.5 L/kg; CV of Ahmed 2020, 35.9 %",
        cv=0.359,
        prior_sd=0.3,
    )
    WT: ck.Scalar = ck.covariate(70.0, "kg", "body weight", "assumed: reference")


class Ahmed(Common):
    CL: ck.Scalar = ck.param(
        5.41,
        "L/h",
        "clearance before induction, 600 mg/m²",
        AHMED + ": CV 46.4 %",
        cv=0.464,
        prior_sd=0.4,
    )
    V: ck.Scalar = ck.param(
        46.5,
        "L",
        "volume, 600 mg/m², 1.58 m²",
        AHMED + ": CV 35.9 %",
        cv=0.359,
        prior_sd=0.3,
    )
    BSA: ck.Scalar = ck.covariate(1.58, "m²", "body surface", "Ahmed 2020, Table 4: reference")
    FAC: ck.Scalar = ck.covariate(
        0.0, "1", "1 on the regimen of 500 mg/m², 0 on 600 mg/m²", "Ahmed 2020, Table 4: reference"
    )


def scaled_by_weight(p: House) -> tuple[ck.Scalar, ck.Scalar]:
    """Clearance before induction [L/h] and volume [L]."""
    return p.CL * (p.WT / 70) ** 0.75, p.V * p.WT / 70


def scaled_by_surface(p: Ahmed) -> tuple[ck.Scalar, ck.Scalar]:
    """Clearance before induction [L/h] and volume [L]: Ahmed 2020, Table 4."""
    volume = p.V * (p.BSA / 1.58) ** 0.861
    return p.CL * (1 - 0.323 * p.FAC), volume * (1 - 0.371 * p.FAC)


class Enzyme(ck.Params):
    """Induction of the clearance."""

    fn: ck.Scalar = ck.param(
        0.2,
        "1",
        "share of clearance that cannot be induced",
        NKI + ": assumed by its authors",
        bounds=(0, 1),
        prior_sd=0.3,
    )
    kz: ck.Scalar = ck.param(
        0.0223 * body.HOURS, "1/day", "rate of induction", NKI + ": 0.0223/h", prior_sd=0.3
    )
    Imax: ck.Scalar = ck.param(
        IMAX["on"], "1", "largest gain of the enzyme", IMAX_FROM["on"], prior_sd=0.5
    )
    C50z: ck.Scalar = ck.param(
        10.0, "mg/L", "cyclophosphamide that induces by half", "assumed", prior_sd=0.5
    )


class InducedHouse(Enzyme, House):
    pass


class InducedAhmed(Enzyme, Ahmed):
    pass


# values -> parameters without and with induction, and clearance [L/h] and volume [L] from them
SETS: dict[str, tuple[type[Common], type[Enzyme], Callable[..., tuple[ck.Scalar, ck.Scalar]]]] = {
    "house": (House, InducedHouse, scaled_by_weight),
    "ahmed2020": (Ahmed, InducedAhmed, scaled_by_surface),
}


class LinearStates(ck.States):
    auc: ck.Scalar = ck.state("mg h/L", "integral of the concentration of cyclophosphamide")
    auc4oh: ck.Scalar = ck.state("mg h/L", "integral of the concentration of 4-OH-CY")


class States(LinearStates):
    Y: ck.Scalar = ck.state("mg", "cyclophosphamide in the body")
    z: ck.Scalar = ck.state("1", "enzyme over that without drug", 1.0)


def doses(number: int, amount: float, hours: float = 1.0) -> ck.Regimen:
    """Daily infusions [mg], the first on day 0."""
    return ck.Regimen(
        tuple(
            ck.Infusion(float(day), amount, hours / body.HOURS, product="cyclophosphamide")
            for day in range(number)
        )
    )


HOUSE_REGIMENS = {  # mg/m² times 1.8 m², assumed for the reference patient of 70 kg
    "500 mg/m² x 3, 1.8 m²": doses(3, 900.0),
    "300 mg/m² x 3, 1.8 m²": doses(3, 540.0),
    "1250 mg/m² x 4, 1.8 m²": doses(4, 2250.0),
    "60 mg/kg x 2, 70 kg": doses(2, 4200.0),
}
AHMED_REGIMENS = {  # median doses
    "600 mg/m² over 0.5 h, 930 mg": doses(1, 930.0, 0.5),
    "500 mg/m² over 0.5 h, 777.5 mg (FAC)": doses(1, 777.5, 0.5),
}
PUBLISHED_AHMED = {  # Results: means of the estimates of single patients, so the log-normal mean
    "mean clearance, 600 mg/m² [L/h]": (lambda p: mean_clearance(p, 0.0), 5.81, 0.05),
    "mean clearance, 500 mg/m² [L/h]": (lambda p: mean_clearance(p, 1.0), 3.97, 0.05),
    # Table 3: median of all; 106 of 267 patients had 500 mg/m². Shrinkage is not in it: 10 %
    "half-life [h]": (lambda p: median_half_life(p, 106 / 267), 5.48, 0.1),
}


def mean_clearance(p: Ahmed, fac: float) -> ck.Scalar:
    """Mean of the clearances [L/h] of patients on one regimen."""
    return scaled_by_surface(p.replace(FAC=fac))[0] * math.sqrt(1 + 0.464**2)


def median_half_life(p: Ahmed, share: float) -> ck.Scalar:
    """Half-life [h] before induction, of patients of whom this share is on 500 mg/m²."""
    each = []
    for fac in (0.0, 1.0):
        clearance, volume = scaled_by_surface(p.replace(FAC=fac))
        each.append(jnp.log(2) * volume / clearance)
    return (1 - share) * each[0] + share * each[1]


def build(
    values: Literal["house", "ahmed2020"] = "house",
    induction: Literal["on", "strong", "off"] = "on",
) -> ck.ODEModel:
    """The model with one of two sets of clearance and volume, and one of three inductions."""
    plain, induced, sizes = SETS[values]
    linear = induction == "off"
    params: type[ck.Params] = plain if linear else induced
    if induction == "strong":
        params = variants.revised(induced, {"Imax": IMAX["strong"]}, IMAX_FROM["strong"])

    def drug(p: Common) -> ck.Disposition:
        clearance, volume = sizes(p)
        return ck.Disposition(body.HOURS * clearance, volume)

    def concentration(t: ck.Scalar, y: States, p: Common, *c: Mapping[str, ck.Scalar]) -> ck.Scalar:
        if linear:
            return c[0]["cy"]
        return jnp.maximum(y.Y, 0.0) / sizes(p)[1]  # a coarse step may end below 0

    def active(t: ck.Scalar, y: States, p: Common, *c: Mapping[str, ck.Scalar]) -> ck.Scalar:
        return p.MR * concentration(t, y, p, *c) * (1.0 if linear else y.z)

    def vector_field(
        t: ck.Scalar, y: States, p: InducedHouse | InducedAhmed, *c: Mapping[str, ck.Scalar]
    ) -> LinearStates:
        cy = concentration(t, y, p, *c)
        auc = dict(auc=body.HOURS * cy, auc4oh=body.HOURS * active(t, y, p, *c))
        if linear:
            return LinearStates(**auc)
        clearance, volume = sizes(p)
        return States(
            **auc,
            Y=-body.HOURS * clearance / volume * (p.fn + (1 - p.fn) * y.z) * y.Y,
            z=p.kz * (1 + p.Imax * cy / (cy + p.C50z) - y.z),
        )

    def after_one_dose(p: Common, amount: float) -> tuple[ck.Scalar, ck.Scalar]:
        """AUC of cyclophosphamide and of 4-OH-CY [mg h/L] after a dose over an hour [mg]."""
        solution = ck.solve(model, doses(1, amount), [10.0], p)
        return solution["cy_auc"][0], solution["cy4oh_auc"][0]

    def ratio_of_auc(p: Common) -> ck.Scalar:
        cy, active = after_one_dose(p, 1000.0)
        return active / cy

    def induced_on_day_4(p: Common) -> ck.Scalar:
        days = 3 + jnp.arange(0.0, 13.0) / body.HOURS
        enzyme = ck.solve(model, doses(4, 2250.0), days, p).states
        assert isinstance(enzyme, States)
        return jnp.max(jnp.asarray(enzyme.z)) - 1

    # Joy 2012: 0.06, SD 0.04, of 23 patients; 14 % is the standard error of that mean. The doses
    # are not in the abstract; 1000 mg is assumed
    published: dict[str, tuple[Callable[..., ck.Scalar] | float, ...]] = {
        "AUC of 4-OH-CY over that of cyclophosphamide": (ratio_of_auc, 0.06, 0.14)
    }
    if values == "house":
        # Campagne 2020: 1500 mg/m² over an hour, young children; 12 kg and 0.55 m² are assumed
        published["AUC of 4-OH-CY in children [µmol h/L]"] = (
            lambda p: after_one_dose(p.replace(WT=12.0), 1500 * 0.55)[1] / MG_PER_UMOL,
            107.2,
            0.1,
        )
        if induction == "strong":
            published["gain of 4-OH-CY formation in four days"] = (induced_on_day_4, 0.5)
    else:
        published |= PUBLISHED_AHMED

    model: ck.ODEModel = ck.ODEModel(
        name="cyclophosphamide",
        product="cyclophosphamide",
        reference="doi:10.3389/fphar.2020.00406" if values == "ahmed2020" else "",
        params=params,
        states=LinearStates if linear else States,
        vector_field=vector_field,
        inputs={"cy": drug} if linear else {},
        targets={"cyclophosphamide": ck.Target("cy" if linear else "Y", unit="mg")},
        outputs={
            "cy": concentration,
            "cy4oh": active,
            "cy_auc": lambda t, y, p, *c: y.auc,
            "cy4oh_auc": lambda t, y, p, *c: y.auc4oh,
        },
        units={"cy": "mg/L", "cy4oh": "mg/L", "cy_auc": "mg h/L", "cy4oh_auc": "mg h/L"},
        regimens=HOUSE_REGIMENS if values == "house" else AHMED_REGIMENS,
        derived={  # before induction
            "CL_patient": (lambda p: sizes(p)[0], "L/h"),
            "t_half": (lambda p: jnp.log(2) * sizes(p)[1] / sizes(p)[0], "h"),
            "cy_auc_1g": (lambda p: 1000 / sizes(p)[0], "mg h/L"),
            "cy4oh_auc_1g": (lambda p: 1000 * p.MR / sizes(p)[0], "mg h/L"),
        },
        published=published,
    )
    return model


model = build()

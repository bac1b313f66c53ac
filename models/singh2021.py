"""Idecabtagene vicleucel (bb2121, anti-BCMA) in multiple myeloma (Singh 2021, clinical model).

Effector and memory CAR-T cells (E, M) pass between blood (b) and bone marrow (t) and are lost from
blood. In the marrow CARs bind the BCMA of myeloma cells (T, per L). Bound complexes (X, per L of
marrow) per CAR-T cell drive expansion, bound complexes per myeloma cell drive killing; M-protein
(Mp) and soluble BCMA (Sb) follow the tumor. With c = (Et + Mt) / Vbm:

    Eb' = -K12 Eb + K21 Et - Kel_e Eb
    Mb' = -K12 Mb + K21 Mt - Kel_m Mb
    Et' =  K12 Eb - K21 Et + Kexp Et - Rm Et,    Kexp = Kexp_max (X/c) / (EC50 + X/c)
    Mt' =  K12 Mb - K21 Mt + Rm Et
    T'  =  Kg T - Kkill T,                       Kkill = Kkill_max (X/T) / (KC50 + X/T)
    X'  =  kon (c Ag_CAR - X) (T Ag_T - X) - koff X
    Mp' =  Pm T0 (T/T0)^gm - Km Mp
    Sb' =  Pb T0 (T/T0)^gb - Kb Sb

Cells are numbers, so a dose is a number of CAR+ T cells, `Regimen.cells(0, 450e6)`; the trial
(CRB-401) gave 50, 150, 450 or 800 million, flat. Bound and free CARs are in balance within minutes,
so X is taken to be in balance always, the smaller root of X' = 0. `load_model("singh2021",
binding="full")` integrates X instead, as the authors do: the peak of the transgene then differs by
0.03 % and its rise, which comes minutes later, by up to 1 %.

The equations are stiff in both forms (effectors leave the blood within minutes): over more than a
month the mesh route gives way to the adaptive one. The transgene at the infusion is the dose before
it has spread: leave the first day out of a peak. The paper reports M-protein and soluble BCMA as
percent change, that is 100 (level / baseline - 1); the levels themselves are those of the model's
own baselines, Pm T0 / Km and Pb T0 / Kb, which change with T0.

Reference: Singh et al. (2021) CPT Pharmacometrics Syst Pharmacol 10:362-376,
doi:10.1002/psp4.12598. Read in the transcription of nlmixr2lib
(Singh_2021_idecabtageneVicleucel_human: Table 1, clinical model; equations 6 to 20 of the
supplement; the authors' Monolix code), not in the paper itself. Random effects are SDs of ln.

Errata: equation 18 of the supplement lets killing act on Et; the authors' code has T, as here.
Table 1 rounds kon and koff to 7.1e4 and 2.39e-3; the code's values are taken. Left out: the random
effect of Rm, printed as 4e-5 and not estimated; the preclinical model, whose printed parameters do
not reproduce its own figure (nlmixr2lib).
"""

from typing import Literal

import jax.numpy as jnp

import carpk as ck

NLMIXR = ", as transcribed in nlmixr2lib"
TABLE = "Singh 2021, Table 1 (clinical)" + NLMIXR
FIXED = "Singh 2021, Table 1 (clinical, fixed)" + NLMIXR
CODE = "Singh 2021, Monolix code" + NLMIXR
ASSUMED = "; IIV of 50 % assumed by the authors (supplement, page 4)"

SECONDS_PER_DAY = 86_400.0
PER_MOLE = 6.023e23  # as in the authors' code
G_PER_PG = 1e-12
NG_PER_ML = 1e-6  # in 1 pg/L
SEED = 1e-6  # effectors in the marrow before any arrive, cells/L: keeps X / c finite; their code


class Params(ck.Params):
    Kexp_max: ck.Scalar = ck.param(1.73, "1/day", "largest expansion rate", TABLE, iiv=0.22)
    EC50: ck.Scalar = ck.param(
        10.0, "1", "complexes per CAR-T cell at half the largest expansion", TABLE
    )
    Rm: ck.Scalar = ck.param(2e-5, "1/day", "rate at which effectors become memory cells", TABLE)
    Kel_e: ck.Scalar = ck.param(
        113.0, "1/day", "loss rate of effectors in blood", TABLE + ASSUMED, iiv=0.5
    )
    Kel_m: ck.Scalar = ck.param(
        0.219, "1/day", "loss rate of memory cells in blood", TABLE + ASSUMED, iiv=0.5
    )
    K12: ck.Scalar = ck.param(1.71, "1/day", "rate from blood to marrow", TABLE + ASSUMED, iiv=0.5)
    K21: ck.Scalar = ck.param(0.176, "1/day", "rate from marrow to blood", TABLE + ASSUMED, iiv=0.5)
    Kkill_max: ck.Scalar = ck.param(0.343, "1/day", "largest killing rate", TABLE, iiv=0.50)
    KC50: ck.Scalar = ck.param(
        2.24, "1", "complexes per myeloma cell at half the largest killing", FIXED + "; in vitro"
    )
    Kg: ck.Scalar = ck.param(0.008, "1/day", "growth rate of the tumor", FIXED)
    kon: ck.Scalar = ck.param(7.103e4, "1/M/s", "association rate of CAR and BCMA", CODE)
    koff: ck.Scalar = ck.param(2.385e-3, "1/s", "dissociation rate of CAR and BCMA", CODE)
    Ag_CAR: ck.Scalar = ck.param(15_000.0, "1/cell", "CARs per CAR-T cell", FIXED)
    Ag_T: ck.Scalar = ck.param(12_590.0, "1/cell", "BCMA per myeloma cell", FIXED)
    TransC: ck.Scalar = ck.param(
        0.002, "copies/µg per cell/L", "transgene per CAR-T cell in blood", FIXED
    )
    Vb: ck.Scalar = ck.param(5.0, "L", "volume of blood", FIXED)
    Vbm: ck.Scalar = ck.param(3.65, "L", "volume of bone marrow", FIXED)
    T0: ck.Scalar = ck.param(2.5e9, "cells/L", "myeloma cells in marrow at the infusion", CODE)
    Pm: ck.Scalar = ck.param(12.1, "pg/cell/day", "M-protein made by a myeloma cell", FIXED)
    Km: ck.Scalar = ck.param(0.117, "1/day", "loss rate of M-protein", FIXED)
    gm: ck.Scalar = ck.param(0.215, "1", "exponent of tumor on M-protein made", TABLE, iiv=0.21)
    Pb: ck.Scalar = ck.param(0.175, "pg/cell/day", "soluble BCMA made by a myeloma cell", FIXED)
    Kb: ck.Scalar = ck.param(0.7, "1/day", "loss rate of soluble BCMA", FIXED)
    gb: ck.Scalar = ck.param(1.0, "1", "exponent of tumor on soluble BCMA made", FIXED, iiv=1.0)


class States(ck.States):
    Eb: ck.Scalar = ck.state("cells", "effector CAR-T cells in blood")
    Mb: ck.Scalar = ck.state("cells", "memory CAR-T cells in blood")
    Et: ck.Scalar = ck.state("cells", "effector CAR-T cells in marrow")
    Mt: ck.Scalar = ck.state("cells", "memory CAR-T cells in marrow")
    T: ck.Scalar = ck.state("cells/L", "myeloma cells in marrow", log=True)
    Mp: ck.Scalar = ck.state("g/L", "M-protein in serum")
    Sb: ck.Scalar = ck.state("ng/mL", "soluble BCMA in serum")


class BoundStates(States):
    X: ck.Scalar = ck.state("1/L", "complexes of CAR and BCMA in marrow")


def receptors(y: States, p: Params) -> tuple[ck.Scalar, ck.Scalar]:
    """CARs and BCMA, bound or free [per L of marrow]."""
    return p.Ag_CAR * (y.Et + y.Mt) / p.Vbm, p.Ag_T * y.T


def slopes(
    y: States, p: Params, per_car_t: ck.Scalar, per_tumor: ck.Scalar
) -> dict[str, ck.Scalar]:
    """Derivatives [per day] of all but X, from complexes per CAR-T cell and per myeloma cell."""
    expansion = p.Kexp_max * per_car_t / (p.EC50 + per_car_t)
    killing = p.Kkill_max * per_tumor / (p.KC50 + per_tumor)
    burden = y.T / p.T0
    return dict(
        Eb=-p.K12 * y.Eb + p.K21 * y.Et - p.Kel_e * y.Eb,
        Mb=-p.K12 * y.Mb + p.K21 * y.Mt - p.Kel_m * y.Mb,
        Et=p.K12 * y.Eb - p.K21 * y.Et + (expansion - p.Rm) * y.Et,
        Mt=p.K12 * y.Mb - p.K21 * y.Mt + p.Rm * y.Et,
        T=(p.Kg - killing) * y.T,
        Mp=G_PER_PG * p.Pm * p.T0 * burden**p.gm - p.Km * y.Mp,
        Sb=NG_PER_ML * p.Pb * p.T0 * burden**p.gb - p.Kb * y.Sb,
    )


def in_balance(t: ck.Scalar, y: States, p: Params) -> States:
    """Derivatives where X is the smaller root of (a - X) (b - X) = X koff / kon."""
    a, b = receptors(y, p)
    k = PER_MOLE * p.koff / p.kon
    twice = a + b + k + jnp.sqrt((a - b) ** 2 + k * (k + 2 * (a + b)))  # X = 2 a b / twice
    return States(**slopes(y, p, 2 * p.Ag_CAR * b / twice, 2 * p.Ag_T * a / twice))


def binding(t: ck.Scalar, y: BoundStates, p: Params) -> BoundStates:
    """Derivatives where X is a state."""
    a, b = receptors(y, p)
    kon, koff = p.kon * SECONDS_PER_DAY / PER_MOLE, p.koff * SECONDS_PER_DAY
    bound = kon * (a - y.X) * (b - y.X) - koff * y.X
    return BoundStates(**slopes(y, p, p.Ag_CAR * y.X / a, y.X / y.T), X=bound)


def m_protein_baseline(p: Params) -> ck.Scalar:
    """M-protein before the infusion [g/L]."""
    return G_PER_PG * p.Pm * p.T0 / p.Km


def sbcma_baseline(p: Params) -> ck.Scalar:
    """Soluble BCMA before the infusion [ng/mL]."""
    return NG_PER_ML * p.Pb * p.T0 / p.Kb


def build(binding: Literal["qss", "full"] = "qss") -> ck.ODEModel:
    """The model with complexes in balance ("qss"), or with complexes as a state ("full")."""
    states, vector_field = FORMS[binding]
    return ck.ODEModel(
        name="singh2021",
        product="idecabtagene vicleucel",
        reference="doi:10.1002/psp4.12598",
        params=Params,
        states=states,
        vector_field=vector_field,
        initial=lambda p: states(
            Et=SEED * p.Vbm, T=p.T0, Mp=m_protein_baseline(p), Sb=sbcma_baseline(p)
        ),
        targets={"car_t": ck.Target("Eb")},
        outputs={
            "transgene": lambda t, y, p: p.TransC * (y.Eb + y.Mb) / p.Vb,
            "tumor": lambda t, y, p: y.T / p.T0,
            "m_protein": lambda t, y, p: y.Mp,
            "sbcma": lambda t, y, p: y.Sb,
        },
        units={
            "transgene": "copies/µg",
            "tumor": "fraction of baseline",
            "m_protein": "g/L",
            "sbcma": "ng/mL",
        },
        derived={
            "t_half_killing": (lambda p: jnp.log(2) / p.Kkill_max, "day"),
            "t_double_tumor": (lambda p: jnp.log(2) / p.Kg, "day"),
            "KD": (lambda p: 1e9 * p.koff / p.kon, "nM"),
            "m_protein_baseline": (m_protein_baseline, "g/L"),
            "sbcma_baseline": (sbcma_baseline, "ng/mL"),
        },
        regimens={
            f"{million} million cells": ck.Regimen.cells(0, million * 1e6)
            for million in (450, 50, 150, 800)
        },
        published={
            # Results, quoted at second hand: "0.343 1/day (2-day half-life)"
            "half-life of the tumor at full killing [day]": (
                lambda p: jnp.log(2) / p.Kkill_max,
                2.0,
            ),
            "kon [1/M/s]": (lambda p: p.kon, 7.1e4),  # as Table 1 rounds them
            "koff [1/s]": (lambda p: p.koff, 2.39e-3),
        },
    )


FORMS = {"qss": (States, in_balance), "full": (BoundStates, binding)}
model = build()

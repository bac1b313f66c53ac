"""Comparison: the same virtual patients under two or more arms, or published cohorts side by side.

    ck.compare(model, {"once": one, "twice": two})                   regimens, a structural model
    ck.compare(fit, {"Flu": {"conditioning": "Flu"}, ...})           covariates of a fit
    ck.compare(study, {"responders": "responders", ...})             published cohorts

Every virtual patient gets every arm, with the same random effects, latent classes and draws of the
parameters (common random numbers), so a contrast holds no noise of who was drawn. For draw d and
patient i the contrast of an outcome y between an arm and the reference is

    x_di = ln y_di(arm) - ln y_di(reference)   (ratio),   y_di(arm) - y_di(reference)   (difference)

Its mean over patients, m_d, is the population's contrast: the ratio of geometric means, or the
difference of means. How m_d varies over draws is parameter uncertainty; how x_di varies over the
patients of one draw is variability between patients. The two are never mixed: the share of
parameters is V / (V + W), with W the mean variance within draws and V the variance of m_d less the
part W / n that n virtual patients leave in it.

A published summary of a cohort (median, geometric mean, mean, count) has no patients behind it.
Its population value is drawn from its posterior, as `published` says.
"""

from carpk.comparison.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]

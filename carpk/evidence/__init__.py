"""Published evidence on lymphodepletion: one hierarchical fit over a table of results.

fit = ck.evidence.fit(seed=1)  # of ck.evidence.load(), the table with its sources
fit                            # verdict; effects; conclusions
fit.plot(); fit.leave_one_out(); fit.sensitivity()

The quantity is z, log10 of a patient's highest later level in blood over the level just after the
infusion: above 0, the cells have expanded. In a study s of a product p

    z ~ Normal(level + level_sd a_p + lymphodepletion, spread)
    lymphodepletion = flu + tau u_s                          with Flu
                      cy + tau v_s                           with Cy
                      flu + tau u_s + left (cy + tau v_s)    with both

with a, u, v standard normal. `flu` and `cy` are what each drug adds on its own, on average over
studies, on the log10 scale; `left`, from 0 to 1, is the share of Cy's effect that is left on top
of Flu, since both empty the same space; `tau` is the SD between studies. Doses are not modelled.
Each published fact is a term of the likelihood, by its `kind` (`LIKELIHOODS`). What is not a level
(detection, response, persistence) is tied to expansion by a slope that may be 0, so that it can
inform an effect only as far as such a tie is believed.

Effects of whole studies are told apart from those of their lymphodepletion only where a study has
an arm without; HEROS 1.0 and 2.0 are two trials of one product, and their contrast is a historical
one, whose trial difference is part of u and v.
"""

from carpk.evidence.effects import lymphodepletion_effects
from carpk.evidence.fit import fit
from carpk.evidence.likelihoods import LIKELIHOODS
from carpk.evidence.model import PRIORS, SUGGESTED, model
from carpk.evidence.result import Evidence
from carpk.evidence.table import load

__all__ = [
    "LIKELIHOODS",
    "PRIORS",
    "SUGGESTED",
    "Evidence",
    "fit",
    "load",
    "lymphodepletion_effects",
    "model",
]


def __dir__() -> list[str]:
    return sorted(__all__)

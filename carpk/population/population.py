"""Population models: random effects, covariates, residual model and priors.

`bind` joins a population with data: see `bound`. Random effects: see `random_effects`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from carpk._late import late
from carpk._types import Arrays, Numbers, Values
from carpk.assay.residual import LogNormal, Residual
from carpk.dataset import Dataset
from carpk.dosing.regimen import Regimen
from carpk.errors import ModelError, nearest_of
from carpk.params import ParamInfo, Params, transform_for
from carpk.population.parameters import WHOLE_LINE, Kind, PopulationParameter, refuse_reserved
from carpk.population.random_effects import (
    COHORT,
    CORRELATION,
    INFUSION,
    LEVELS,
    PATIENT,
    RandomEffects,
    covariate_effect_name,
    eta_name,
    omega_name,
)
from carpk.structural import ClosedForm, ODEModel

if TYPE_CHECKING:
    from carpk.population.bound import BoundPopulation

Value = TypeVar("Value")  # of a parameter

OMEGA_MEDIAN = 0.5  # default prior of omega: log-normal with this median (assumed), or with the
OMEGA_SD = 0.5  # spread in the model file as median; SD of ln omega
PUBLISHED = "published"  # in place of priors
WIDENED = 1.5  # of the SD of a model's own posterior
PUBLISHED_OMEGA_SD = 0.3  # SD of ln omega where the model file has its value
EFFECT_SD = 1.0  # default prior SD of a covariate effect, on the estimation scale
LKJ = 2.0  # default concentration of the prior of correlations: mild, towards none
FORMS = ("linear", "power")  # of the effect of a number
COHORT_INDEX = "index of the cohort"  # key of the cohort index in a design dict


@dataclasses.dataclass(frozen=True, repr=False)
class Population:
    """A structural model and everything that varies around it.

    Args:
        model: structural model.
        varies: parameters that differ between patients; or parameter -> levels, out of "cohort"
            (what a cohort's patients share: a study, a product), "patient" and "infusion" (each
            infusion has its own value, its own peak above all). In an ODE model the states carry
            over, and a parameter has the value of an infusion from that infusion on until the next
            one, before the first infusion that of the first: lymphodepletion before a later
            infusion belongs to the earlier one. Initial states have the first value, doses the
            bioavailability of the infusion since which they arrive and the lag of that since which
            they are given. The disposition of drugs (`inputs`) is the same for all infusions.
        correlated: parameters whose effects in one patient are correlated; their correlation
            matrix, "correlation", has an LKJ prior with concentration 2. All others are
            independent.
        covariates: parameter -> names of covariates that shift it, on the estimation scale; or
            parameter -> {name: "linear" or "power"}. A text covariate gives one effect per category
            beyond the most frequent one; a number one effect per unit around its mean, or, with
            "power", the exponent of its ratio to the geometric mean. Covariates of the equations
            themselves need not be named: they are taken from the column of their name, where the
            data have it.
        residual: what the assay sees, `LogNormal()` unless said otherwise; `StudentT()` where some
            samples lie far off, `Additive()`, `Proportional()`, `Combined()`, `Power()`; of counts
            `assay.Poisson()` or `assay.NegativeBinomial()`, of yes and no `assay.Bernoulli()`;
            where the data have the SD of each observation `assay.KnownSD()`; with several endpoints
            one for all of them, or output -> residual model.
        priors: NumPyro distributions by name, or "published" (see `published_priors`). Names: a
            parameter's own for its typical value (natural scale), "omega_<parameter>",
            "omega_<parameter>_infusion", "omega_<parameter>_cohort",
            "correlation", "beta_<parameter>_<covariate>" and the residual's parameters. Defaults
            are weak: typical values normal around the model file's value on the estimation scale,
            with its `prior_sd` (1 unless the file says otherwise: a 90 % interval of a factor of 5
            each way); omegas log-normal around the file's spread, or 0.5, with a 90 % interval of a
            factor of 2.3 each way: cohorts of a handful of patients or of published medians hardly
            tell a spread by themselves; effects normal with SD 1.
        fixed: parameter -> value that is not estimated.
        analytes: name of an analyte in the data -> output of the model, where they differ. Names of
            several make several endpoints, fitted together: `["car_t", "alc"]`. Each has its own
            residual parameters then, "sigma_car_t" and "sigma_alc".
        virtual_patients: number of virtual patients behind cohort summaries, at least; a power of
            two. A fitted range of more than 32 patients takes eight for each, 1,024 at most: its
            ends rest on the outermost.
        summary_dependence: False treats the statistics of one cohort as independent. Intervals
            then have the wrong width, that of Tmax above all; see `summaries`.
        regimens: cohort -> what its patients were given, absolute amounts: needed where published
            cohorts are fitted with an ODE model. Individual patients have their own doses.
        rtol: of an ODE model, the largest relative error of its outputs, held for patients drawn
            from the priors and checked after the fit by `checks.solver_error`.
    """

    model: ClosedForm | ODEModel
    varies: Sequence[str] | Mapping[str, Sequence[str]] = ()
    correlated: Sequence[str] = ()
    covariates: Mapping[str, Sequence[str] | Mapping[str, str]] = dataclasses.field(
        default_factory=dict
    )
    residual: Residual | Mapping[str, Residual] = dataclasses.field(default_factory=LogNormal)
    priors: Any = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    analytes: Mapping[str, str] | Sequence[str] = ()
    virtual_patients: int = 256
    summary_dependence: bool = True
    regimens: Mapping[str, Regimen] = dataclasses.field(default_factory=dict)
    rtol: float = 1e-4

    def __repr__(self) -> str:
        """The model's name and outputs, and what differs from the defaults."""
        outputs = ", ".join(f"{k} [{u}]" for k, u in self.model.units.items())
        lines = [f"Population of {self.model.name!r}: {outputs}"]
        for field in dataclasses.fields(self)[1:]:
            value = getattr(self, field.name)
            made = field.default_factory
            usual = field.default if made is dataclasses.MISSING else made()
            if value != usual and value:
                shown = value
                if field.name == "regimens":
                    shown = list(value)
                elif field.name == "priors" and not isinstance(value, str):
                    shown = {name: type(prior).__name__ for name, prior in value.items()}
                lines.append(f"  {field.name}: {shown}")
        return "\n".join(lines)

    def __post_init__(self) -> None:
        if isinstance(self.priors, str):
            if self.priors != PUBLISHED:
                raise ModelError(
                    f"Population: priors={self.priors!r} is not known; give distributions by name, "
                    f"or {PUBLISHED!r}."
                )
            object.__setattr__(self, "priors", self.published_priors())
        self._check_names()
        self._check_levels()
        self._check_correlated()
        self._check_fixed()
        self._check_covariates()
        self._check_endpoints()
        self._check_priors()
        if self.virtual_patients & (self.virtual_patients - 1) or self.virtual_patients < 16:
            raise ModelError(
                f"Population: virtual_patients is {self.virtual_patients}, but must be a power of "
                "two, at least 16."
            )

    def _check_names(self) -> None:
        known, levels = self.model.params.info(), list(self.variability_levels)
        places: dict[str, Sequence[str]] = {
            "varies": levels,
            "covariates": list(self.covariates),
            "fixed": list(self.fixed),
            "correlated": list(self.correlated),
        }
        for where, name in ((where, name) for where, names in places.items() for name in names):
            if name not in known:
                raise ModelError(
                    f"Population: {name!r} in `{where}` is not a parameter of "
                    f"{self.model.name!r}; known are {', '.join(known)}."
                )
        of_parameters = (c for covariates in self.covariates.values() for c in covariates)
        places = {"varies": levels, "covariates": [*self.covariates, *of_parameters]}
        for where, name in ((where, name) for where, names in places.items() for name in names):
            if name in self.model.params.covariates():
                raise ModelError(
                    f"Population: {name!r} in `{where}` is a covariate in the equations of "
                    f"{self.model.name!r}; leave it out: the data's column {name!r} is used. "
                    "One value for everybody goes into `fixed`."
                )

    def _check_levels(self) -> None:
        behind = self.model.behind_inputs if isinstance(self.model, ODEModel) else ()
        for name, kinds in self.variability_levels.items():
            bad = [k for k in kinds if k not in LEVELS]
            if bad or not kinds:
                raise ModelError(
                    f"Population: {name!r} varies by {bad[0] if bad else 'nothing'!r}, but the "
                    'levels are "cohort", "patient" and "infusion".'
                )
            if INFUSION in kinds and name in behind:
                raise ModelError(
                    f"Population: {name!r} cannot vary by infusion in {self.model.name!r}: the "
                    "disposition of its inputs depends on it. Let it vary by patient."
                )

    def _check_correlated(self) -> None:
        names, levels = list(self.correlated), self.variability_levels
        alone = [name for name in names if PATIENT not in levels.get(name, ())]
        if alone or len(names) == 1 or len(set(names)) < len(names):
            what = f"{alone[0]!r} does not vary by patient" if alone else "they are not"
            raise ModelError(
                "Population: `correlated` must name two or more different parameters that vary by "
                f"patient, but {what}."
            )

    def _check_fixed(self) -> None:
        for name in self.fixed:
            if name in self.variability_levels or name in self.covariates:
                raise ModelError(
                    f"Population: {name!r} is fixed, so it can neither vary nor have covariates."
                )

    def _check_covariates(self) -> None:
        for name, columns in self.covariates.items():
            if isinstance(columns, str):
                raise ModelError(
                    f"Population: covariates[{name!r}] must be a list of names, but is "
                    f"{columns!r}; write [{columns!r}]."
                )
            for covariate, form in self.forms(name).items():
                if form not in FORMS:
                    raise ModelError(
                        f"Population: the effect of {covariate!r} on {name!r} must be one of "
                        f"{', '.join(map(repr, FORMS))}, but is {form!r}."
                    )

    def _check_endpoints(self) -> None:
        for output in self.outputs_of.values():
            self.model.require(output)
        several = set(self.outputs_of.values()) if len(self.outputs_of) > 1 else set()
        if isinstance(self.residual, Mapping) and set(self.residual) != several:
            raise ModelError(
                "Population: residual models are given for "
                f"{', '.join(self.residual) or 'nothing'}, but must be given for each of several "
                f"endpoints named in `analytes`: {', '.join(sorted(several)) or 'there are none'}."
            )

    def _check_priors(self) -> None:
        every = self._defaults({})
        made = [p.name for p in every if p.kind != Kind.TYPICAL]
        refuse_reserved(self.model.name, self.model.params.info(), made)
        known = [p.name for p in every]
        for name, prior in self.priors.items():
            if name not in known:
                raise ModelError(
                    f"Population: there is no parameter for the prior {name!r}; "
                    f"{nearest_of(name, known)}"
                )
            if not isinstance(prior, dist.Distribution):
                raise ModelError(
                    f"Population: the prior of {name!r} must be a NumPyro distribution, such as "
                    f"numpyro.distributions.LogNormal(0, 1), but is {prior!r}."
                )

    @property
    def variability_levels(self) -> dict[str, tuple[str, ...]]:
        """Parameter -> its variability levels."""
        if isinstance(self.varies, Mapping):
            return {k: tuple([v] if isinstance(v, str) else v) for k, v in self.varies.items()}
        return {k: (PATIENT,) for k in self.varies}

    @property
    def random_effects(self) -> RandomEffects:
        """The random effects."""
        return RandomEffects(self.variability_levels, tuple(self.correlated))

    def infusions_of(self, regimen: Regimen | None) -> int:
        """Infusions with random effects of their own in patients who are given this.

        A published cohort of a closed form has one.
        """
        apart = isinstance(self.model, ODEModel) and self.random_effects.at(INFUSION)
        return max(1, len(regimen.infusions)) if apart and regimen is not None else 1

    def forms(self, parameter: str) -> dict[str, str]:
        """Covariate -> form of its effect on a parameter."""
        named = self.covariates.get(parameter, ())
        return dict(named) if isinstance(named, Mapping) else dict.fromkeys(named, FORMS[0])

    @property
    def outputs_of(self) -> dict[str, str]:
        """Analyte -> output, as `analytes` says."""
        if isinstance(self.analytes, Mapping):
            return dict(self.analytes)
        return {
            a: a for a in ([self.analytes] if isinstance(self.analytes, str) else self.analytes)
        }

    def residual_of(self, output: str) -> Residual:
        """The residual model of an output."""
        return self.residual[output] if isinstance(self.residual, Mapping) else self.residual

    def residual_names(self, output: str) -> dict[str, str]:
        """Parameter of an output's residual model -> its name in this population."""
        suffix = f"_{output}" if len(self.outputs_of) > 1 else ""
        return {name: name + suffix for name in self.residual_of(output).names}

    def residual_theta(self, theta: Mapping[str, Value], output: str) -> dict[str, Value]:
        """The parameters of an output's residual model, by the names that it knows."""
        return {name: theta[named] for name, named in self.residual_names(output).items()}

    @property
    def estimated(self) -> tuple[str, ...]:
        """The structural parameters that are not fixed."""
        info = self.model.params.info()
        return tuple(p for p in info if p not in self.fixed and not info[p].is_covariate)

    def default_priors(self) -> dict[str, dist.Distribution]:
        """Priors of everything, before `priors` replaces any."""
        return {p.name: p.prior for p in self._defaults({}) if p.prior is not None}

    def _defaults(self, columns: Mapping[str, Sequence[str]]) -> list[PopulationParameter]:
        """Every parameter with its default prior; `columns` as in `parameters`."""
        info = self.model.params.info()
        free, positive = transform_for(WHOLE_LINE), transform_for((0.0, np.inf))
        found = [
            PopulationParameter(
                name,
                Kind.TYPICAL,
                typical_prior(info[name], info[name].prior_sd),
                info[name].transform,
                unit=info[name].unit,
                bounds=info[name].bounds,
                of=name,
            )
            for name in self.estimated
        ]
        for name, kinds in self.variability_levels.items():
            prior = dist.LogNormal(float(np.log(info[name].iiv or OMEGA_MEDIAN)), OMEGA_SD)
            found += [
                PopulationParameter(
                    omega_name(name, kind), Kind.OMEGA, prior, positive, of=name, level=kind
                )
                for kind in kinds
            ]
        if self.correlated:
            names = tuple(self.correlated)
            dims = ("parameter", "parameter_bis")
            found.append(
                PopulationParameter(
                    CORRELATION,
                    Kind.CORRELATION,
                    dist.LKJ(len(names), LKJ),
                    free,
                    dims,
                    dict.fromkeys(dims, names),
                )
            )
        outputs = list(dict.fromkeys(self.outputs_of.values())) or list(self.model.outputs)[:1]
        for output in outputs:
            residual, names_of = self.residual_of(output), self.residual_names(output)
            unit = dict.fromkeys(residual.in_unit_of_y, self.model.units[output])
            found += [
                PopulationParameter(
                    names_of[name],
                    Kind.RESIDUAL,
                    prior,
                    positive,
                    unit=unit.get(name, ""),
                    of=output,
                )
                for name, prior in residual.priors().items()
            ]
        effect = dist.Normal(0.0, EFFECT_SD)
        for name in self.covariates:
            for covariate in self.forms(name):
                dims_of = (f"{covariate}_level",) if covariate in columns else ()
                found.append(
                    PopulationParameter(
                        covariate_effect_name(name, covariate),
                        Kind.BETA,
                        effect,
                        free,
                        dims_of,
                        {dim: tuple(columns[covariate]) for dim in dims_of},
                        of=name,
                        covariate=covariate,
                    )
                )
        return found

    def parameters(
        self, columns: Mapping[str, Sequence[str]] | None = None
    ) -> dict[str, PopulationParameter]:
        """Every population parameter by name, in the order of the results.

        Args:
            columns: covariate -> labels of its columns, where data or a planned study have said
                them; effects are one number without.
        """
        return {
            p.name: dataclasses.replace(p, prior=self.priors.get(p.name, p.prior))
            for p in self._defaults(columns or {})
        }

    def published_priors(self) -> dict[str, dist.Distribution]:
        """Priors from the estimates of the model file's sources, widened; defaults for the others.

        A typical value is as uncertain as 1.5 times the SD of the model's own posterior, where it
        has one; else as widely as its patients differ (so that the typical patient of another
        cohort may be any patient of the published one), where that is known and less than
        `prior_sd`. An omega with a published value has a 90 % interval of a factor of 1.6 around
        it, in place of 2.3. Values that the file says were assumed keep their default priors.
        """
        priors = self.default_priors()
        draws = self.model.calibration_draws() if self.model.calibration_draws is not None else {}
        for name in self.estimated:
            info = self.model.params.info()[name]
            if not info.source or info.source.lower().startswith("assumed"):
                continue
            sd = min(info.prior_sd, info.iiv or info.prior_sd)
            if name in draws:
                sd = WIDENED * float(np.std(info.transform.forward(np.asarray(draws[name]))))
            priors[name] = typical_prior(info, sd)
            for level in self.variability_levels.get(name, ()):
                if info.iiv:
                    middle = float(np.log(info.iiv))
                    priors[omega_name(name, level)] = dist.LogNormal(middle, PUBLISHED_OMEGA_SD)
        return priors

    def typical(self, theta: Values, design: Mapping[str, Arrays]) -> dict[str, Numbers]:
        """phi of each estimated parameter at these covariates, on the estimation scale.

        Args:
            theta: population parameters, and the effects that patients of a cohort share.
            design: covariate -> columns, (..., column); of cohorts their index.
        """
        info = self.model.params.info()
        phi: dict[str, Numbers] = {}
        for name in self.estimated:
            value: Numbers = info[name].transform.forward(theta[name])
            for covariate in self.covariates.get(name, ()):
                value = value + design[covariate] @ theta[covariate_effect_name(name, covariate)]
            shared = theta.get(eta_name(name, COHORT))
            if shared is not None and COHORT_INDEX in design:
                value = value + jnp.asarray(shared)[design[COHORT_INDEX]]
            phi[name] = value
        for name in self.model.params.covariates():
            if name in design:
                phi[name] = design[name][..., 0]
        return phi

    def structural(self, phi: Values) -> Params:
        """Structural parameters [natural scale] from the estimation scale."""
        info = self.model.params.info()
        values = {name: info[name].transform.inverse(x) for name, x in phi.items()}
        return self.model.params(**{**values, **self.fixed})

    def bind(self, data: Dataset) -> BoundPopulation:
        """The population model of one data set; every mismatch is refused here."""
        bound: BoundPopulation = late("carpk.population.bound.BoundPopulation").from_data(
            self, data
        )
        return bound


def typical_prior(info: ParamInfo, sd: float) -> dist.Distribution:
    """Normal around the model file's value, with this SD, on the estimation scale."""
    centre = float(info.transform.forward(info.value))
    if info.transform.name == "log":
        return dist.LogNormal(centre, sd)
    if info.transform.name == "identity":
        return dist.Normal(centre, sd)
    low, high = info.bounds
    spread = dist.transforms.AffineTransform(low, high - low, domain=constraints.unit_interval)
    return dist.TransformedDistribution(
        dist.Normal(centre, sd), [dist.transforms.SigmoidTransform(), spread]
    )

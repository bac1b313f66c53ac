"""One list of population parameters: names, kinds, shapes, and what is refused."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import carpk as ck
from carpk.params import transform_for
from carpk.population.parameters import WHOLE_LINE, Kind, PopulationParameter, split_draws

MODEL = ck.load_model("piecewise")
POPULATION = ck.Population(
    MODEL,
    varies={"cmax": ["cohort", "patient"], "tmax": ["patient"]},
    correlated=["cmax", "tmax"],
    covariates={"cmax": ["arm"], "fb": {"weight": "power"}},
)


def test_the_list_says_of_each_parameter_what_it_is():
    told = {
        n: (p.kind, p.of, p.covariate or p.level)
        for n, p in POPULATION.parameters({"arm": ("b", "c")}).items()
    }
    assert list(told) == [
        *("cmax", "tmax", "t_double", "t_alpha", "fb", "beta_alpha"),
        *("omega_cmax_cohort", "omega_cmax", "omega_tmax", "correlation", "sigma"),
        *("beta_cmax_arm", "beta_fb_weight"),
    ]
    assert told["cmax"] == (Kind.TYPICAL, "cmax", "")
    assert told["beta_alpha"] == (Kind.TYPICAL, "beta_alpha", "")
    assert told["omega_cmax_cohort"] == (Kind.OMEGA, "cmax", "cohort")
    assert told["beta_fb_weight"] == (Kind.BETA, "fb", "weight")
    assert told["sigma"] == (Kind.RESIDUAL, "car_t", "")


def test_an_array_is_split_into_its_free_numbers_and_joined_again():
    found = POPULATION.parameters({"arm": ("b", "c")})
    assert list(found["beta_cmax_arm"].scalars) == ["beta_cmax_arm[b]", "beta_cmax_arm[c]"]
    assert list(found["correlation"].scalars) == ["correlation[cmax, tmax]"]
    assert list(found["cmax"].scalars) == ["cmax"]
    values = {
        "cmax": np.arange(3.0),
        "beta_cmax_arm": np.arange(6.0).reshape(3, 2),
        "correlation": np.broadcast_to([[1.0, 0.3], [0.3, 1.0]], (3, 2, 2)),
    }
    split = split_draws(found, values)
    assert split["beta_cmax_arm[c]"].tolist() == [1.0, 3.0, 5.0]
    for name, x in values.items():
        numbers = [one[2] for one in found[name].split(x).values()]
        assert np.array_equal(found[name].joined([jnp.asarray(n) for n in numbers]), x[2])
    assert found["beta_cmax_arm"].joint.event_shape == (2,)


def test_a_matrix_of_three_has_three_free_numbers():
    dims = ("parameter", "parameter_bis")
    labels = dict.fromkeys(dims, ("a", "b", "c"))
    free = transform_for(WHOLE_LINE)
    p = PopulationParameter("correlation", Kind.CORRELATION, dist.LKJ(3, 2.0), free, dims, labels)
    assert list(p.scalars.values()) == [(0, 1), (0, 2), (1, 2)]
    joined = p.joined([jnp.asarray(x) for x in (0.1, 0.2, 0.3)])
    assert joined.tolist() == [[1.0, 0.1, 0.2], [0.1, 1.0, 0.3], [0.2, 0.3, 1.0]]


def toy(name):
    """A closed form with a parameter of this name."""
    fields = {"cmax": ck.param(50.0, "cells/µL", "peak", "made up")}
    fields |= {name: ck.param(2.0, "day", "shape", "made up")}
    namespace = {"__annotations__": dict.fromkeys(fields, ck.Scalar), **fields}
    return ck.ClosedForm(
        name="toy",
        params=type("Params", (ck.Params,), namespace),
        outputs={"car_t": lambda t, p: p.cmax * jnp.exp(-t / getattr(p, name))},
        units={"car_t": "cells/µL"},
    )


RESERVED = ["sigma", "omega_x", "eta_x", "eta_cmax", "correlation", "beta_cmax_arm"]


@pytest.mark.parametrize("name", RESERVED)
def test_a_structural_parameter_may_not_be_called_like_one_of_the_population(name):
    with pytest.raises(ck.ModelError, match=f"'toy' has a parameter '{name}'.* rename it in"):
        ck.Population(toy(name), varies=["cmax"])


@pytest.mark.parametrize("name", ["beta_alpha", "beta", "sigmoid", "omega", "eta"])
def test_other_names_are_free(name):
    assert name in ck.Population(toy(name), varies=["cmax"]).parameters()


def test_names_of_a_residual_model_are_taken_too():
    ck.Population(toy("sigma_add"))
    with pytest.raises(ck.ModelError, match="'toy' has a parameter 'sigma_add'"):
        ck.Population(toy("sigma_add"), residual=ck.Combined())


@pytest.mark.parametrize("name", ck.list_models())
def test_no_model_of_the_library_has_a_reserved_name(name):
    ck.Population(ck.load_model(name))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("beta_cmax_arrm", "did you mean 'beta_cmax_arm'"),
        ("beta_tmax_arm", "no parameter for the prior 'beta_tmax_arm'"),
        ("omega_cmax_infusion", "did you mean 'omega_cmax"),
        ("Sigma", "did you mean 'sigma'"),
    ],
)
def test_a_prior_for_what_is_not_there_is_refused_with_the_nearest_name(name, message):
    with pytest.raises(ck.ModelError, match=message):
        ck.Population(
            MODEL,
            varies=["cmax"],
            covariates={"cmax": ["arm"]},
            priors={name: dist.Normal(0.0, 1.0)},
        )


@pytest.mark.parametrize("name", ["patient", "draw", "time", "infusion"])
def test_outputs_and_parameters_are_not_called_like_an_axis(name):
    with pytest.raises(ck.ModelError, match=f"the parameter '{name}' has the name of an axis"):
        toy(name)
    model = toy("k")
    with pytest.raises(ck.ModelError, match=f"the output '{name}' has the name of an axis"):
        ck.ClosedForm(
            name="toy",
            params=model.params,
            outputs={name: model.outputs["car_t"]},
            units={name: "cells/µL"},
        )


def test_an_output_named_as_a_parameter_is_kept_apart_from_it(tmp_path):
    namespace = {
        "__annotations__": {"tumor": ck.Scalar},
        "tumor": ck.param(7.0, "mL", "tumor at the start", "made up"),
    }
    model = ck.ClosedForm(
        name="shrinks",
        params=type("Params", (ck.Params,), namespace),
        outputs={"tumor": lambda t, p: p.tumor * jnp.exp(-0.2 * t)},
        units={"tumor": "mL"},
    )
    days = np.array([0.0, 5.0, 10.0])
    sim = ck.simulate(model, ck.Regimen.cells(), days, after=True)
    assert sim["tumor"].values[0, 0] == pytest.approx(7 * np.exp(-0.2 * days))
    assert sim.parameters["tumor"].values.item() == pytest.approx(7.0)
    assert sim.outputs == ["tumor"]
    assert "median" in sim.summary()
    with pytest.raises(ck.ModelError, match="no 'car_t'; its outputs are tumor, its parameters tu"):
        sim["car_t"]
    sim.save(tmp_path / "sim.nc")


def test_a_population_shows_what_is_not_the_default():
    population = ck.Population(ck.load_model("piecewise"), varies=["cmax"], fixed={"fb": 0.1})
    shown = "Population of 'piecewise': car_t [cells/µL]\n  varies: ['cmax']\n  fixed: {'fb': 0.1}"
    assert repr(population) == shown


@pytest.mark.parametrize("residual", [ck.Additive(), ck.Combined(), ck.Proportional()])
@pytest.mark.parametrize("analytes", [["conc"], {"level": "conc"}])
def test_an_additive_error_has_the_unit_of_its_output(residual, analytes):
    model = ck.disposition.one_compartment(unit="ng/mL")
    parameters = ck.Population(model, residual=residual, analytes=analytes).parameters()
    units = {name: p.unit for name, p in parameters.items() if p.kind == Kind.RESIDUAL}
    assert units == {name: "ng/mL" if name == "sigma_add" else "" for name in residual.priors()}

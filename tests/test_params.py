"""Parameters: transforms, metadata, refusals, and their life as pytrees."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import carpk as ck
from carpk.params import transform_for

INF = math.inf
BOUNDS = {
    "log": ((0.0, INF), [1e-6, 0.3, 1.0, 7.0, 1e9]),
    "logit (0, 1)": ((0.0, 1.0), [1e-6, 0.0079, 0.5, 0.999]),
    "logit (-2, 5)": ((-2.0, 5.0), [-1.999, 0.0, 1.5, 4.99]),
    "identity": ((-INF, INF), [-1e6, -0.2, 0.0, 3.0]),
}
CASES = [pytest.param(bounds, x, id=f"{k}: {x}") for k, (bounds, xs) in BOUNDS.items() for x in xs]


class Params(ck.Params):
    peak: ck.Scalar = ck.param(50.0, "cells/µL", "peak level", "Table 1", iiv=0.65, prior_sd=1.5)
    share: ck.Scalar = ck.param(0.01, "1", "share that persists", "assumed", (0, 1))
    shift: ck.Scalar = ck.param(-0.5, "1", "effect on the log", "assumed", (-INF, INF), iiv=0.0)


@pytest.mark.parametrize(("bounds", "x"), CASES)
def test_a_transform_is_undone_by_its_inverse(bounds, x):
    transform = transform_for(bounds)
    assert transform.inverse(transform.forward(x)) == pytest.approx(x, rel=1e-9)


@pytest.mark.parametrize(("bounds", "x"), CASES)
def test_the_derivative_of_a_transform_is_its_gradient(bounds, x):
    transform = transform_for(bounds)
    exact = jax.grad(lambda x: 1.0 * transform.forward(x))(x)
    assert float(transform.derivative(x)) == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("bounds", [b for b, _ in BOUNDS.values()], ids=list(BOUNDS))
def test_the_whole_line_maps_into_the_bounds_in_order(bounds):
    u = jnp.linspace(-20, 20, 401)
    x = np.asarray(transform_for(bounds).inverse(u))
    assert (np.diff(x) > 0).all()
    assert (x > bounds[0]).all()
    assert (x < bounds[1]).all()


def test_scales_are_the_log_and_the_logit():
    assert transform_for((0.0, INF)).forward(20.0) == pytest.approx(math.log(20))
    assert transform_for((0.0, 1.0)).forward(0.25) == pytest.approx(math.log(1 / 3))
    assert transform_for((-2.0, 2.0)).forward(1.0) == pytest.approx(math.log(3))
    assert [i.transform.name for i in Params.info().values()] == ["log", "logit", "identity"]


@pytest.mark.parametrize(("value", "bounds"), [(2.0, (1.0, INF)), (-1.0, (-INF, 0.0))])
def test_bounds_without_a_scale_are_refused_with_the_known_ones(value, bounds):
    with pytest.raises(ck.ModelError, match=r"must be \(0, inf\), \(-inf, inf\) or two finite"):
        ck.param(value, "1", "x", bounds=bounds)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"value": 0.0}, r"must lie inside its bounds \(0.0, inf\)"),
        ({"value": -1.0}, "must lie inside its bounds"),
        ({"value": math.nan}, "must lie inside its bounds"),
        ({"value": 1.0, "bounds": (0, 1)}, r"must lie inside its bounds \(0, 1\)"),
        ({"unit": ""}, 'needs a unit and a meaning; write "1" for a pure number'),
        ({"about": ""}, "needs a unit and a meaning"),
        ({"iiv": -0.1}, "iiv is a standard deviation"),
    ],
)
def test_a_bad_parameter_is_refused_where_it_is_written(arguments, words):
    with pytest.raises(ck.ModelError, match=words):
        ck.param(**{"value": 2.0, "unit": "day", "about": "time of the peak"} | arguments)


def test_a_field_without_param_is_refused_by_name():
    class Bare(ck.Params):
        peak: float = 1.0

    with pytest.raises(ck.ModelError, match=r"Bare\.peak has no unit .* ck\.param\("):
        Bare.info()


def test_everything_written_is_kept():
    peak = Params.info()["peak"]
    assert peak[:5] == ("peak", 50.0, "cells/µL", "peak level", "Table 1")
    assert (peak.bounds, peak.iiv, peak.prior_sd) == ((0.0, INF), 0.65, 1.5)
    assert list(Params.info()) == ["peak", "share", "shift"]


def test_describe_is_a_row_per_parameter():
    table = Params.describe()
    assert list(table.columns) == ["value", "unit", "about", "iiv", "scale", "source"]
    assert table.index.name == "symbol"
    assert list(table.index) == ["peak", "share", "shift"]
    assert table.loc["peak", "iiv"] == 0.65
    assert math.isnan(table.loc["share", "iiv"])
    assert table.loc["shift", "iiv"] == 0.0


def test_calling_the_class_gives_the_typical_patient():
    assert dict(Params().items()) == {"peak": 50.0, "share": 0.01, "shift": -0.5}


def test_replace_makes_a_copy_and_refuses_unknown_names():
    typical = Params()
    assert typical.replace(peak=7.0).peak == 7.0
    assert typical.peak == 50.0
    with pytest.raises(ck.ModelError, match="'cmax' is not a parameter; known are peak, share"):
        typical.replace(cmax=1.0)


def test_the_numbers_are_the_leaves_of_a_pytree():
    def total(p):
        return p.peak**2 + 3 * p.share + p.shift

    assert jax.tree.leaves(Params()) == [50.0, 0.01, -0.5]
    assert float(jax.jit(total)(Params())) == pytest.approx(2500.03 - 0.5)
    gradient = jax.grad(total)(Params())
    assert isinstance(gradient, Params)
    assert [float(x) for x in jax.tree.leaves(gradient)] == [100.0, 3.0, 1.0]
    batch = Params(peak=jnp.array([1.0, 2.0]), share=jnp.zeros(2), shift=jnp.zeros(2))
    np.testing.assert_allclose(jax.vmap(total)(batch), [1.0, 4.0])


def test_a_cv_becomes_the_sd_of_the_log():
    """A log-normal variable with SD s of its log has the CV sqrt(exp(s²) - 1)."""

    class Patient(ck.Params):
        CL: ck.Scalar = ck.param(2.0, "L/h", "clearance", "made up", cv=0.5)

    sd = Patient.info()["CL"].iiv
    assert math.sqrt(math.exp(sd**2) - 1) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.parametrize("extra", [{"iiv": 0.3}, {"bounds": (0, 5)}])
def test_a_cv_that_has_no_meaning_is_refused(extra):
    with pytest.raises(ck.ModelError, match="takes the place of `iiv`"):
        ck.param(2.0, "L/h", "clearance", cv=0.5, **extra)

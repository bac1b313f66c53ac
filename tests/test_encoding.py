"""Objects as JSON and back: exactly, and nothing but known classes."""

import dataclasses
import datetime
import json

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.distributions import constraints, transforms

from carpk.assay.residual import Residual
from carpk.inference.encoding import Codec, Unreadable, Untrusted, kept_as_text


@dataclasses.dataclass(frozen=True)
class Known:
    x: float
    more: tuple = ()


FACTOR = 3.0
LOW, HIGH = -0.5, np.float64(2.25)


def tripled(x):
    return FACTOR * x


@dataclasses.dataclass(frozen=True)
class Mine(Residual):
    """Uses a constant, a function and a module of this file."""

    scale: float = 1.0

    def __call__(self, x):
        return tripled(jnp.asarray(x)) * self.scale


class Shifted(dist.Normal):
    """A distribution of the user's own."""

    def log_prob(self, value):
        return super().log_prob(value - FACTOR)


CODEC = Codec({"Known": Known}, (Residual, dist.Distribution))


def there_and_back(x, **how):
    return CODEC.decode(json.loads(json.dumps(CODEC.encode(x))), **how)


NUMBERS = [
    *(0.1, 1 / 3, 1e-11, 4.9e-324, 1.7976931348623157e308, -0.0, 123456789.12345679, 1e16 + 2),
    *(np.inf, -np.inf, np.nan, 0, -7, 2**70, True, False, None, "", "nan", "µg/mL 中", "a\nb"),
]


@pytest.mark.parametrize("x", NUMBERS, ids=repr)
@pytest.mark.parametrize(
    "inside", [lambda x: x, lambda x: [x], lambda x: (x, [x]), lambda x: {"$": x}]
)
def test_a_value_comes_back_with_its_kind_and_every_bit(x, inside):
    assert repr(there_and_back(inside(x))) == repr(inside(x))


@pytest.mark.parametrize(
    "x",
    [
        *({1: "a", ("b", 2): None}, {"$": 1, "x": 2}, {"a": {"b": (1.5,)}}, {1, 2}, [], (), {}),
        *(
            datetime.date(2026, 1, 2),
            datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
            datetime.time(3, 4),
        ),
        *(pd.Timestamp("2026-01-02T03:04"), Known(1e-11, (1, "a"))),
    ],
    ids=repr,
)
def test_containers_dates_and_known_objects_come_back(x):
    back = there_and_back(x)
    assert back == x
    assert type(back) is type(x)


def test_numbers_of_numpy_are_those_of_python():
    assert repr(there_and_back([np.float64(0.1), np.int64(3), np.bool_(True)])) == "[0.1, 3, True]"


@pytest.mark.parametrize("kind", ["<f8", "<f4", "<i8", "|b1", "<u2"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_arrays_come_back_exactly(kind, shape, make):
    x = make(np.random.default_rng(0).normal(size=shape).astype(kind))
    back = there_and_back(x)
    assert isinstance(back, type(x))
    assert (back.dtype, back.shape) == (x.dtype, x.shape)
    np.testing.assert_array_equal(np.asarray(back), np.asarray(x))


def columns():
    rng = np.random.default_rng(0)
    floats = np.array([1e-11, np.nan, np.inf, -0.0, rng.normal()])
    return {
        "floats": floats,
        "halves": floats.astype("float32"),
        "ints": np.arange(5),
        "bools": np.arange(5) > 2,
        "texts": ["a", "nan", "", "µ", "b"],
        "texts with none": pd.Series(["a", None, "b", None, "c"]),
        "all missing": [np.nan] * 5,
        "mixed": pd.Series([1, 1.0, "1", True, None], dtype=object),
        "Int64": pd.array([1, None, 3, 4, 5], dtype="Int64"),
        "boolean": pd.array([True, None, False, True, True], dtype="boolean"),
        "categories": pd.Categorical(["b", "a", None, "b", "a"], ["b", "a"], ordered=True),
        "dates": pd.to_datetime(["2026-01-01", None, "2026-01-03", "2026-01-04", "2026-01-05"]),
        7: [1, 2, 3, 4, 5],
    }


@pytest.mark.parametrize("name", list(columns()), ids=str)
def test_a_column_comes_back_with_its_kind(name):
    table = pd.DataFrame({name: columns()[name]})
    back = there_and_back(table)
    pd.testing.assert_frame_equal(back, table)
    assert [repr(x) for x in back[name].tolist()] == [repr(x) for x in table[name].tolist()]


@pytest.mark.parametrize("rows", [0, 5])
def test_a_table_comes_back_with_its_columns_in_order(rows):
    table = pd.DataFrame(columns()).iloc[:rows]
    pd.testing.assert_frame_equal(there_and_back(table), table.reset_index(drop=True))
    pd.testing.assert_frame_equal(there_and_back(pd.DataFrame()), pd.DataFrame())


MATRIX = np.array([[2.0, 0.3], [0.3, 1.0]])
PRIORS = {
    "normal": lambda: dist.Normal(0.1, 1 / 3),
    "arrays": lambda: dist.Normal(np.array([0.1, 0.2]), jnp.array([1.0, 1 / 3])),
    "log-normal": lambda: dist.LogNormal(np.log(0.4), 0.3),
    "half-normal": lambda: dist.HalfNormal(0.7),
    "half-Cauchy": lambda: dist.HalfCauchy(0.7),
    "gamma": lambda: dist.Gamma(2.0, 0.1),
    "inverse gamma": lambda: dist.InverseGamma(2.0, 0.1),
    "beta": lambda: dist.Beta(2.0, 3.0),
    "exponential": lambda: dist.Exponential(0.1),
    "Student t": lambda: dist.StudentT(3.0, 0.1, 2.0),
    "uniform": lambda: dist.Uniform(LOW, HIGH),
    "log-uniform": lambda: dist.LogUniform(0.1, 10.0),
    "Laplace": lambda: dist.Laplace(0.1, 0.2),
    "Weibull": lambda: dist.Weibull(0.1, 1.5),
    "Dirichlet": lambda: dist.Dirichlet(np.array([1.0, 2.0, 3.0])),
    "multivariate normal": lambda: dist.MultivariateNormal(np.zeros(2), covariance_matrix=MATRIX),
    "by precision": lambda: dist.MultivariateNormal(np.zeros(2), precision_matrix=MATRIX),
    "low rank": lambda: dist.LowRankMultivariateNormal(np.zeros(2), MATRIX[:, :1], np.ones(2)),
    "truncated": lambda: dist.TruncatedNormal(1.0, 2.0, low=0.0),
    "truncated above": lambda: dist.TruncatedNormal(1.0, 2.0, high=3.0),
    "truncated twice": lambda: dist.TruncatedNormal(1.0, 2.0, low=0.0, high=3.0),
    "truncated Cauchy": lambda: dist.TruncatedCauchy(1.0, 2.0, low=0.0),
    "truncated t": lambda: dist.LeftTruncatedDistribution(dist.StudentT(3.0), low=0.5),
    "truncated array": lambda: dist.TruncatedNormal(np.array([1.0, 2.0]), 2.0, low=0.0),
    "LKJ": lambda: dist.LKJ(3, 2.0),
    "LKJ Cholesky": lambda: dist.LKJCholesky(3, 0.5, sample_method="cvine"),
    "expanded": lambda: dist.Normal(0.0, 1.0).expand((3,)),
    "to event": lambda: dist.Normal(0.0, 1.0).expand((3,)).to_event(1),
    "independent": lambda: dist.Independent(dist.Normal(np.zeros(3), 1.0), 1),
    "masked": lambda: dist.Normal(np.zeros(2), 1.0).mask(np.array([True, False])),
    "transformed": lambda: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0),
        [
            transforms.SigmoidTransform(),
            transforms.AffineTransform(0.1, 0.7, domain=constraints.unit_interval),
        ],
    ),
    "inverse transformed": lambda: dist.TransformedDistribution(
        dist.LogNormal(0.0, 1.0), [transforms.ExpTransform().inv, transforms.PowerTransform(1.0)]
    ),
    "ordered": lambda: dist.TransformedDistribution(
        dist.Normal(np.zeros(3), 1.0).to_event(1), transforms.OrderedTransform()
    ),
    "mixture": lambda: dist.MixtureSameFamily(
        dist.Categorical(np.array([0.3, 0.7])), dist.Normal(np.array([0.0, 3.0]), 1.0)
    ),
    "mixture of kinds": lambda: dist.MixtureGeneral(
        dist.Categorical(np.array([0.3, 0.7])), [dist.Normal(0.0, 1.0), dist.StudentT(3.0)]
    ),
    "improper": lambda: dist.ImproperUniform(constraints.positive, (), ()),
    "delta": lambda: dist.Delta(1.5),
    "Poisson": lambda: dist.Poisson(3.0),
    "Bernoulli": lambda: dist.Bernoulli(0.3),
    "zero-inflated": lambda: dist.ZeroInflatedPoisson(0.3, 2.0),
}


@pytest.mark.filterwarnings("ignore:Out-of-support")
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_comes_back_with_the_same_density(name):
    prior = PRIORS[name]()
    spec = CODEC.encode(prior)
    assert not list(kept_as_text(spec))
    back = CODEC.decode(json.loads(json.dumps(spec)))
    assert type(back) is type(prior)
    assert (back.batch_shape, back.event_shape) == (prior.batch_shape, prior.event_shape)
    assert CODEC.encode(back) == spec
    assert type(back.support) is type(prior.support)
    if name != "improper":
        shape = (*prior.batch_shape, *prior.event_shape)
        x = jnp.eye(3) if name.startswith("LKJ") else jnp.full(shape, 0.3)
        np.testing.assert_array_equal(back.log_prob(x), prior.log_prob(x))
    assert CODEC.encode(prior) == spec  # also after it was used


class TestCodeOfTheUsers:
    @pytest.mark.parametrize("x", [Mine(0.1), Shifted(0.1, 2.0)], ids=["object", "distribution"])
    def test_is_kept_with_its_source_and_run_only_on_trust(self, x):
        spec = json.loads(json.dumps(CODEC.encode({"prior": [x]})))
        assert "FACTOR = 3.0" in json.dumps(spec)
        with pytest.raises(Untrusted, match=type(x).__name__):
            CODEC.decode(spec)
        (back,) = CODEC.decode(spec, trust=True)["prior"]
        assert type(back) is not type(x)
        if isinstance(x, Mine):
            assert back(2.0) == x(2.0)
        else:
            assert back.log_prob(1.0) == x.log_prob(1.0)
        again = CODEC.decode(CODEC.encode(back), trust=True)
        assert type(again).__name__ == type(x).__name__

    def test_a_class_made_in_a_function_is_kept_too(self):
        power = 2.5

        class Local(Residual):
            def __call__(self, x):
                return x**power

        back = there_and_back(Local(), trust=True)
        assert back(3.0) == 3.0**2.5

    def test_what_has_no_source_is_kept_as_text_and_named(self):
        made = type("Made", (Residual,), {})()
        spec = CODEC.encode({"a": [0, made], "f": tripled})
        assert [place for place, _ in kept_as_text(spec)] == ["a.1", "f"]
        assert "0x" not in json.dumps(spec)
        with pytest.raises(Unreadable, match="Made"):
            CODEC.decode(spec["a"], trust=True)


@pytest.mark.parametrize(
    "spec",
    [
        {"$": "object", "class": "Popen", "fields": {"args": "touch /tmp/x"}},
        {"$": "object", "class": "Mine", "fields": {}},
        {"$": "numpyro", "class": "partial", "data": {}, "static": {}},
        {"$": "numpyro", "class": "Shifted", "data": {}, "static": {}},
        {"$": "numpyro", "class": "Normal", "data": {"__class__": 1}, "static": {}},
        {"$": "numpyro", "class": "biject_to", "data": {}, "static": {}},
        {"$": "object", "class": "subprocess.Popen", "fields": {}},
        {"$": "exec", "class": "x", "fields": {}},
    ],
    ids=lambda spec: spec["class"],
)
def test_a_crafted_file_reaches_no_other_class(spec):
    with pytest.raises(Unreadable):
        CODEC.decode(spec, trust=True)


def test_a_crafted_class_is_not_run_without_trust_nor_made_of_another_kind():
    code = {"source": "class X: pass\nprint('ran')"}
    spec = {"$": "object", "class": "X", "fields": {}, **code}
    with pytest.raises(Untrusted):
        CODEC.decode(spec)
    with pytest.raises(Unreadable, match="not of a known kind"):
        CODEC.decode(spec, trust=True)

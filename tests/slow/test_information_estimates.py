"""Expected information against fits of simulated data, a posterior, and a model's known limits."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.optimize

import carpk as ck
from carpk.assay.residual import log_likelihood
from carpk.checks import PlannedArm, identifiability

pytestmark = pytest.mark.slow


def test_expected_errors_are_those_of_maximum_likelihood_in_simulated_data():
    """100 data sets of 15 patients, a quarter of the samples below the limit: SDs of estimates.

    An SD of 100 estimates has a standard error of 7 %.
    """
    model = ck.load_model("piecewise")
    free = ["cmax", "tmax", "t_alpha", "fb", "sigma"]
    fixed = {"t_double": 0.755, "beta_alpha": 0.0142}
    days, lloq = jnp.array([1.0, 4, 7, 10, 14, 21, 28, 42, 60, 90]), 0.35
    result = identifiability(
        ck.Population(model, fixed=fixed), PlannedArm(15, {"car_t": days.tolist()}, lloq=lloq)
    )
    assert list(result.names) == free
    columns = result.columns
    u = jnp.array([c.transform.forward(c.value) for c in columns])

    def level(u):
        values = [c.transform.inverse(x) for c, x in zip(columns[:-1], u[:-1], strict=True)]
        params = model.params(**dict(zip(free[:-1], values, strict=True)), **fixed)
        return model.level("car_t", days, params, smooth=True)

    @jax.jit
    @jax.value_and_grad
    def loss(u, y):
        below = (y < lloq).astype(int)
        y = jnp.maximum(y, lloq)
        own = {"sigma": jnp.exp(u[-1])}
        each = log_likelihood(ck.LogNormal(), y, level(u), own, below, lloq * jnp.ones_like(y))
        return -jnp.sum(each)

    rng = np.random.default_rng(3)
    estimates, below = [], 0.0
    for _ in range(100):
        y = np.asarray(level(u)) * np.exp(columns[-1].value * rng.standard_normal((15, 10)))
        below += (y < lloq).mean() / 100
        best = scipy.optimize.minimize(loss, u, args=(y,), jac=True, method="BFGS")
        estimates.append(best.x)
    expected = np.sqrt(np.diag(np.linalg.inv(result.information)))
    assert below == pytest.approx(0.25, abs=0.1)
    found = np.std(estimates, axis=0)
    assert found == pytest.approx(expected, rel=0.2)
    assert np.mean(found / expected) == pytest.approx(1, rel=0.08)


@pytest.mark.exhaustive
def test_the_information_of_published_quartiles_foretells_the_posterior():
    """ZUMA-1, evaluated at the posterior's medians: what is told, and how well."""
    population = ck.Population(ck.load_model("piecewise"), varies=["cmax", "tmax", "t_alpha", "fb"])
    study = ck.load_study("zuma1_moffitt")
    fit = ck.fit(population, study, seed=1, draws=500, tune=500, progress=False)
    draws = fit.draws()
    at = {name: float(np.median(x)) for name, x in draws.items()}
    result = identifiability(population, study, at=at, simulations=1000)
    spread = [np.std(np.asarray(c.transform.forward(draws[c.name]))) for c in result.columns]
    found = np.array(spread) / result.prior_sd
    assert np.abs(np.log(found / result.ratio)).max() < 0.3
    told = [n for n, r in zip(result.names, result.ratio, strict=True) if r < 0.5]
    assert told == [n for n, r in zip(result.names, found, strict=True) if r < 0.5]


class TestNicheFull:
    """The full niche model, 20 free parameters, two cohorts of 5: what an analysis found that was
    made apart from carpk when the model was designed.

    Levels on days 1 to 90 with SD 0.6; then with four counts of lymphocytes. The start is day -10,
    10 days before the infusion, by an event that changes nothing.
    """

    free = (
        *("kF", "kC", "N0", "g", "rN", "kap", "kH", "H50", "nH", "VC"),
        *("kact", "dP", "fM", "rho", "B50", "dE", "kEM", "dM", "gB", "kB"),
    )
    days = (1, 3, 5, 7, 10, 14, 21, 28, 42, 60, 90)
    counts = (0, 7, 14, 28)

    def of(self, spread, *, counts):
        model = ck.load_model("niche_full")
        info = model.params.info()
        fixed = {n: i.value for n, i in info.items() if n not in self.free and not i.is_covariate}
        priors = {n: dist.LogNormal(np.log(info[n].value), spread) for n in self.free if n != "fM"}
        population = ck.Population(model, fixed=fixed, priors=priors, analytes=["car_t", "alc"])
        days = {"car_t": self.days, "alc": self.counts if counts else ()}
        start = ck.Regimen((ck.Multiply(-10.0, 1.0, "M"),))
        arms = {
            name: PlannedArm(5, days, start + model.regimens[name])
            for name in ("Flu 25 x5", "Flu 25 x5 + Cy 1500 x2")
        }
        return identifiability(population, arms, at={"sigma_car_t": 0.6, "sigma_alc": 0.6})

    def informed(self, result):
        """Directions of the structural parameters above the prior."""
        here = [result.names.index(n) for n in self.free]
        values = np.linalg.eigvalsh(result.relative[np.ix_(here, here)])
        return int((values > 1).sum())

    @pytest.mark.exhaustive
    def test_directions_and_pairs_are_those_known(self):
        cells, both = (self.of(1.0, counts=c) for c in (False, True))
        assert (self.informed(cells), self.informed(both)) == (9, 11)
        place = {name: i for i, name in enumerate(cells.names)}

        def cosine(a, b):
            i, j = place[a], place[b]
            m = cells.information
            return abs(m[i, j]) / np.sqrt(m[i, i] * m[j, j])

        known = {
            ("N0", "kF"): 0.994,
            ("rho", "kap"): 0.992,
            ("VC", "dP"): 0.992,
            ("B50", "g"): 0.988,
            ("kH", "rN"): 0.987,
            ("kH", "B50"): 0.983,
            ("rN", "rho"): 0.97,
            ("g", "dE"): 0.97,
            ("VC", "kact"): 0.955,
            ("kB", "dE"): 0.95,
        }
        for (a, b), value in known.items():
            found = cosine(a, b)
            assert found == pytest.approx(value, abs=0.004), (a, b)
        pairs = [{row.a, row.b} for row in cells.collinear.itertuples()]
        for pair in ({"N0", "kF"}, {"rho", "kap"}, {"VC", "dP"}):
            assert pair in pairs
        assert {"kap", "dP", "N0", "g"} <= set(cells.fix.index)
        assert not {"rho", "dE", "kEM", "VC"} & set(cells.fix.index)

    def test_posterior_sds_are_those_known(self):
        """With a prior SD of 0.5."""
        cells, both = (self.of(0.5, counts=c).table["posterior_sd"] for c in (False, True))
        known = {"rho": 0.19, "dE": 0.16, "kEM": 0.18, "VC": 0.21, "rN": 0.26, "kF": 0.28}
        known |= {"nH": 0.27, "gB": 0.30, "H50": 0.37, "kC": 0.45}
        for name, sd in known.items():
            assert cells[name] == pytest.approx(sd, abs=0.015), name
        for name, sd in {"rN": 0.13, "kF": 0.16, "H50": 0.22, "kC": 0.22}.items():
            assert both[name] == pytest.approx(sd, abs=0.015), name
        for name in ("N0", "dM", "kap", "kH", "dP", "g", "B50"):
            assert cells[name] > 0.48, name

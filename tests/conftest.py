"""Settings for all tests, and a fit whose posterior is known because nothing sampled it."""

import os
import tempfile

import jax

if jax.__version_info__[:2] == (0, 10):  # compiles a quarter faster, and runs slower
    os.environ["XLA_FLAGS"] = f"--xla_cpu_use_fusion_emitters=false {os.getenv('XLA_FLAGS', '')}"

import matplotlib as mpl
import numpy as np
import pytest
import shapes  # noqa: F401  checks the shapes of arrays in what is imported from here on
import xarray as xr

import carpk as ck  # switches JAX to float64 before any test makes an array
from carpk._arviz import to_idata
from carpk.verdict.judge import Verdict
from carpk.verdict.words import note, trouble

mpl.use("Agg")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers and later files find what is compiled
    COMPILED = tempfile.TemporaryDirectory(prefix="carpk-tests-", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
    jax.config.update("jax_compilation_cache_dir", COMPILED.name)

os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"  # to processes that tests start
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

POSTERIOR = {  # parameter of the population -> its value in draw 0; 2 % more in each draw
    "cmax": 40.0,
    "tmax": 8.0,
    "t_double": 0.8,
    "t_alpha": 5.0,
    "fb": 0.005,
    "beta_alpha": 0.02,
    "omega_cmax": 0.9,
    "omega_cmax_infusion": 0.4,
    "omega_tmax": 0.2,
    "sigma": 0.5,
}


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.parent.name == "models" or item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def compiled_code():
    """Given back after each file: a process may map some 65,000 regions, then XLA crashes."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def known_fit():
    """A piecewise fit to ZUMA-1 with 2 chains of 10 made-up draws, and a verdict that says so."""
    varies = {"cmax": ["patient", "infusion"], "tmax": ["patient"]}
    population = ck.Population(ck.load_model("piecewise"), varies=varies)
    grow = 1.02 ** np.arange(20).reshape(2, 10)

    def group(spread):
        values = {k: (("chain", "draw"), v * grow**spread) for k, v in POSTERIOR.items()}
        return xr.Dataset(values, coords={"chain": [0, 1], "draw": np.arange(10)})

    idata = to_idata({"posterior": group(1.0), "prior": group(3.0)})
    numbers = {"rhat_max": 2.0, "ess_min": 3.0, "divergences": 0.0, "ebfmi_min": 1.0}
    findings = trouble("made up", "The draws are made up: sample them."), note("a note", "A note.")
    verdict = Verdict(findings, numbers)
    settings = {"method": "nuts", "chains": 2, "draws": 10, "seed": 0}
    data = ck.load_study("zuma1_moffitt").dataset()
    return ck.Fit(population, data, idata, verdict, settings)

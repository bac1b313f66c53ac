"""Laws of the evidence: whatever the study, every figure has a unit, a use and a source."""

import csv
import re
import tomllib
from pathlib import Path

import pytest

from carpk.dataset import units
from carpk.library.studies import list_studies, load_study

DATA = Path(__file__).parents[1] / "data"
METRICS = {
    *("level", "cmax", "tmax", "auc", "t_half", "tlast", "clast"),
    *("fold", "detectable", "expanded"),
}
STATISTICS = {"median", "geometric mean", "mean", "count"}
FACTS = (
    "cohort,analyte,metric,time,statistic,value,low,high,interval,spread,n,unit,lloq,"
    "use,source,note"
)


def entries(study: str, file: str) -> list[dict[str, str]]:
    with (DATA / study / file).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize("name", list_studies())
class TestEveryStudy:
    def test_says_what_it_is_and_where_it_comes_from(self, name):
        about = load_study(name).about
        for key in ("title", "product", "disease", "citation", "registration", "licence"):
            assert str(about[key]).strip(), key
        assert about["unit"] == units.KNOWN_ANALYTES[about["analyte"]]
        assert about["obtained"].strip()
        assert re.search(r"doi:10\.\d{4,9}/\S+|\(no DOI\)", about["citation"])
        assert about["sources"]
        for read in about["sources"]:
            assert read["text"].strip()
            assert read["used_for"].strip()
            assert re.fullmatch(r"10\.\d{4,9}/\S+", read.get("doi", "10.1234/none"))

    def test_says_when_blood_was_drawn_and_how_that_is_known(self, name):
        sampling = load_study(name).sampling
        assert sampling["days"] == sorted(set(sampling["days"]))
        assert sampling["provenance"].startswith(("published:", "assumed:"))

    def test_every_fact_has_a_source_and_a_use(self, name):
        for row in entries(name, "facts.csv"):
            assert row["source"].strip(), row
            assert row["use"] in {"fit", "value", "check", "no"}, row
            assert row["use"] == "fit" or row["note"].strip(), row

    def test_every_fact_says_what_it_is(self, name):
        facts = DATA / name / "facts.csv"
        assert facts.read_text(encoding="utf-8").splitlines()[0] == FACTS
        for row in entries(name, "facts.csv"):
            assert re.fullmatch(r"[a-z][a-z0-9_]*", row["metric"]), row
            if row["use"] in {"fit", "value"}:
                assert row["metric"] in METRICS, row
            assert row["statistic"] in STATISTICS, row
            assert int(row["n"]) > 0, row
            assert (row["metric"] in {"level", "auc", "detectable"}) == bool(row["time"]), row

    def test_every_unit_is_known(self, name):
        for row in entries(name, "facts.csv"):
            own = units.KNOWN_ANALYTES[row["analyte"]]
            kind = row["metric"].split("_")[0]
            if kind == "auc":
                area = units.area(row["unit"])
                assert area is not None, row
                assert area[0] == own, row
                assert area[2] == "day", row
            elif kind in {"tmax", "t", "tlast", "tbql"}:
                assert row["unit"] == "day", row
            elif kind in {"level", "cmax", "clast"}:
                assert row["unit"] == own, row

    def test_every_interval_holds_its_value(self, name):
        for row in entries(name, "facts.csv"):
            if row["interval"] in {"IQR", "range"}:
                assert not row["spread"], row
                assert float(row["low"]) < float(row["value"]) < float(row["high"]), row
            elif row["interval"] in {"CV%", "SD"}:
                assert not row["low"], row
                assert not row["high"], row
                assert float(row["spread"]) > 0, row
            else:
                assert row["interval"] == "", row

    def test_every_cohort_belongs_to_an_arm(self, name):
        study = load_study(name)
        cohorts = {row["cohort"]: row["arm"] for row in entries(name, "cohorts.csv")}
        assert set(cohorts.values()) == set(study.arms)
        assert {row["cohort"] for row in entries(name, "facts.csv")} <= set(cohorts)

    def test_every_arm_gives_a_regimen_and_says_where_it_was_read(self, name):
        for arm in load_study(name).arms.values():
            assert arm.about
            assert arm.n > 0
            assert set(arm.sources) == {"lymphodepletion", "cells"}
            assert arm.regimen.infusions[0].time == 0
            infusions = [event.time for event in arm.regimen.infusions]
            for drug in arm.regimen.drugs:  # before the first cells, or between two infusions
                assert drug.time < infusions[-1]
                assert all(not 0 <= drug.time - day <= 28 for day in infusions)

    def test_no_figure_comes_from_memory(self, name):
        for path in (DATA / name).iterdir():
            text = path.read_text(encoding="utf-8").lower()
            assert "background" not in text, path.name
            assert "recalled" not in text, path.name

    def test_prints_its_provenance(self, name):
        study = load_study(name)
        lines = repr(study).splitlines()
        assert name in lines[0]
        assert max(map(len, lines)) <= 100
        told = re.sub(r"\s+", " ", repr(study))
        for read in study.about["sources"]:
            assert read["text"] in told
        for key in ("citation", "registration", "licence"):
            assert study.about[key] in told
        for caveat in study.caveats:
            assert caveat in told
        for arm in study.arms:
            assert arm in told

    def test_makes_a_dataset_of_the_same_figures(self, name):
        study = load_study(name)
        data = study.dataset()
        assert data.name == name
        assert len(data.summaries) == len(study.summaries)
        assert list(data.summaries["value"]) == pytest.approx(list(study.summaries["value"]))
        assert set(data.cohorts["cohort"]) == set(study.cohorts["cohort"])
        assert list(data.sampling) == study.sampling["days"]
        assert not [note for note in data.notes if "states no" in note]


def fact(study: str, cohort: str, metric: str, time: float | None = None) -> dict[str, str]:
    found = [
        row
        for row in entries(study, "facts.csv")
        if (row["cohort"], row["metric"]) == (cohort, metric)
        and (time is None or float(row["time"]) == time)
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("study", "cohort", "metric", "time", "printed"),
    [
        ("zuma1_moffitt", "moffitt", "level", 7, ("27.5", "16.5", "57.5", "", "19")),
        ("zuma1_moffitt", "moffitt", "level", 14, ("9.1", "3.8", "31.1", "", "23")),
        ("zuma1_moffitt", "moffitt", "level", 28, ("2.1", "0.6", "6.1", "", "22")),
        ("zuma1_moffitt", "moffitt", "level", 90, ("0.1", "0.01", "0.4", "", "22")),
        ("eliana_ensign", "responders", "cmax", None, ("32700", "", "", "163.4", "79")),
        ("eliana_ensign", "responders", "auc", 28, ("300000", "", "", "193.4", "78")),
        ("eliana_ensign", "responders", "t_half", None, ("21.7", "", "", "196.8", "65")),
        ("eliana_ensign", "responders", "tmax", None, ("9.83", "0.0111", "27.8", "", "79")),
        ("eliana_ensign", "responders", "tlast", None, ("170", "17.8", "617", "", "80")),
        ("eliana_ensign", "non_responders", "cmax", None, ("19500", "", "", "123.7", "10")),
        ("eliana_ensign", "non_responders", "auc", 28, ("210000", "", "", "111.7", "8")),
        ("eliana_ensign", "non_responders", "t_half", None, ("2.70", "", "", "154.4", "3")),
        ("eliana_ensign", "non_responders", "tmax", None, ("20.0", "0.0278", "62.7", "", "10")),
        ("eliana_ensign", "non_responders", "tlast", None, ("28.8", "13.9", "376", "", "11")),
        ("cartitude1", "phase_1b_2", "cmax", None, ("48692", "", "", "27174", "97")),
        ("cartitude1", "phase_1b_2", "tmax", None, ("12.71", "8.73", "329.77", "", "97")),
        ("cartitude1", "phase_1b_2", "auc", 28, ("504496", "", "", "385380", "97")),
        ("cartitude1", "phase_1b_2", "auc", 180, ("1033373", "", "", "1355394", "96")),
        ("cartitude1", "phase_1b_2", "t_half", None, ("23.5", "", "", "24.2", "41")),
        ("cartitude1", "phase_1b_2", "clast", None, ("2872", "", "", "8462", "97")),
        ("cartitude1", "phase_1b_2", "tlast", None, ("125.90", "20.04", "715.00", "", "97")),
        ("cartitude1", "phase_1b_2", "tbql", None, ("100.01", "27.89", "938.92", "", "65")),
        ("cartitude1", "phase_1b_2", "auc_last", None, ("1098162", "", "", "1386987", "97")),
        ("heros2", "all", "expanded", None, ("19", "", "", "", "21")),
        ("heros2", "interim_2017", "expanded", None, ("5", "", "", "", "6")),
        ("heros2", "interim_2017", "fold", None, ("89", "", "", "", "5")),
        ("heros2", "interim_2017", "tmax", None, ("7", "", "", "", "6")),
        ("heros2", "interim_2017", "detectable", 42, ("6", "", "", "", "6")),
    ],
)
def test_figures_are_those_printed(study, cohort, metric, time, printed):
    row = fact(study, cohort, metric, time)
    assert tuple(row[c] for c in ("value", "low", "high", "spread", "n")) == printed


def test_axicel_was_given_as_registered():
    regimen = load_study("zuma1_moffitt").arms["axi_cel"].regimen
    doses = {(e.product, e.time): (e.amount, e.unit, e.per) for e in regimen.events}
    assert doses[("car_t", 0)] == (2e6, "cells", "kg")
    for day in (-5, -4, -3):
        assert doses[("fludarabine", day)] == (30, "mg", "m2")
        assert doses[("cyclophosphamide", day)] == (500, "mg", "m2")
    assert len(doses) == 7


def test_heros2_was_given_as_its_abstract_and_registry_say():
    arms = load_study("heros2").arms
    assert [arm.n for arm in arms.values()] == [3, 9, 2]
    for name, arm in arms.items():
        doses = {(e.product, e.time): (e.amount, e.unit, e.per) for e in arm.regimen.events}
        for day in (0, 42, 84):
            assert doses.pop(("car_t", day)) == (1e8, "cells", "m2")
            for before in (7, 6, 5, 4, 3):
                assert doses.pop(("fludarabine", day - before)) == (25, "mg", "m2")
            for before in (7, 6) if name != "flu" else ():
                assert doses.pop(("cyclophosphamide", day - before)) == (30, "mg", "kg")
        assert not doses


def test_about_files_are_plain_toml():
    for path in DATA.glob("*/*.toml"):
        tomllib.loads(path.read_text(encoding="utf-8"))

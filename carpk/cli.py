"""`carpk ...`: the main jobs from a shell.

Exit codes: 0 ok; 1 bad input, explained in a sentence; 2 usage; 3 the fit cannot be trusted,
or is another one when it is repeated.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import carpk as ck
from carpk import _files

app = typer.Typer(
    help="CAR-T cellular kinetics: fit expansion curves, compare arms, look at models and studies.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    if version:
        typer.echo(f"carpk {ck.__version__}")
        raise typer.Exit


AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Seed = Annotated[int, typer.Option(help="Same seed and machine, same draws.")]
Draws = Annotated[int, typer.Option(min=1, help="Draws kept per chain.")]
Tune = Annotated[int, typer.Option(min=1, help="Adaptation steps per chain.")]
Chains = Annotated[int, typer.Option(min=1, help="Chains.")]


class Per(StrEnum):
    """What a dose of cells is counted per."""

    m2 = "m2"
    kg = "kg"
    patient = "patient"


@app.command()
def models(
    name: Annotated[
        str | None, typer.Argument(help="Show this model of the library, or this file.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="name:choice of a variant; repeat for more.")
    ] = None,
    source: Annotated[
        bool, typer.Option("--source", help="The text of its file, to copy and change.")
    ] = False,
    long: Annotated[
        bool, typer.Option("--long", help="List outputs, states and options, too.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The list as models/README.md.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the structural models, or show one with its equations, parameters and citation."""
    if name is None and not (long or markdown or as_json):
        from carpk.library.titles import titles

        typer.echo(titles())
        return
    from carpk.library import catalogue

    if name is None:
        if as_json:
            typer.echo(json.dumps(catalogue.listing()))
        elif markdown:
            _echo_file(catalogue.markdown())
        else:
            typer.echo(catalogue.lines())
        return
    if source:
        _echo_file(catalogue.source(name))
        return
    chosen = _choices(option)
    if as_json:
        typer.echo(ck.load_model(name, **chosen).describe().to_json(orient="index"))
    else:
        typer.echo(catalogue.page(name, **chosen))


@app.command()
def studies(
    name: Annotated[str | None, typer.Argument(help="Show this study.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the studies, or show one with the provenance of its figures."""
    if name is None:
        listed = {n: ck.load_study(n).title for n in ck.list_studies()}
        typer.echo(
            json.dumps(listed) if as_json else "\n".join(f"{n:16} {t}" for n, t in listed.items())
        )
        return
    study = ck.load_study(name)
    typer.echo(
        study.summaries.to_json(orient="records") if as_json else f"{study}\n{study.summaries}"
    )


@app.command()
def template(
    path: Annotated[Path, typer.Argument(help="The workbook to write (.xlsx).")],
) -> None:
    """Write an empty workbook for a cohort, with examples and what each column holds."""
    from carpk.dataset.template import write

    typer.echo(f"{write(path)}: replace the example rows, then run: carpk check {path}")


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="A workbook, a NONMEM file or a data folder.")],
    as_json: AsJson = False,
) -> None:
    """List every problem of a file of data with its place; without any, show what it holds."""
    from carpk.dataset import check as checked

    found = checked.check(path)
    text = json.dumps(found.as_json(), ensure_ascii=False) if as_json else repr(found)
    typer.echo(text)
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def fit(
    data: Annotated[
        str, typer.Argument(help="A study, a data folder, a workbook (.xlsx) or a NONMEM file.")
    ],
    model: Annotated[str, typer.Option(help="A model's name or a .py file.")] = "stein2019",
    varies: Annotated[str, typer.Option(help="Parameters that vary, with commas.")] = "cmax,tmax",
    covariate: Annotated[
        list[str] | None, typer.Option(help="parameter:covariate; repeat for more.")
    ] = None,
    analyte: Annotated[
        str | None, typer.Option(help="name_in_data:output_of_model, where they differ.")
    ] = None,
    method: Annotated[str, typer.Option(help="nuts, laplace or map.")] = "nuts",
    out: Annotated[Path | None, typer.Option(help="Folder for fit.nc, table and figure.")] = None,
    draws_in: Annotated[
        Path | None, typer.Option(help="Folder for draws as they come; goes on where it stopped.")
    ] = None,
    seed: Seed = 0,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
    max_draws: Annotated[
        int | None, typer.Option(min=1, help="Draws per chain in all; unset: 4 times --draws.")
    ] = None,
    target_accept: Annotated[float, typer.Option(min=0.5, max=0.999)] = 0.9,
    as_json: AsJson = False,
) -> None:
    """Fit a model to a study or a data set."""
    from carpk.inference.saving import save_or_rescue

    covariates: dict[str, list[str]] = {}
    for pair in covariate or []:
        parameter, column = _pair("covariate", pair, "parameter:covariate")
        covariates.setdefault(parameter, []).append(column)
    analytes = dict([_pair("analyte", analyte, "name_in_data:output_of_model")]) if analyte else {}
    population = ck.Population(
        ck.load_model(model),
        varies=[v.strip() for v in varies.split(",") if v.strip()],
        covariates=covariates,
        analytes=analytes,
    )
    if out is not None:
        _files.require_folder(out)  # before the draws, not after them
    result = ck.fit(
        population,
        _read(data),
        method=method,
        draws=draws,
        tune=tune,
        chains=chains,
        max_draws=max_draws,
        seed=seed,
        target_accept=target_accept,
        folder=draws_in,
    )
    if as_json:
        told = ("grade", "ok", "troubles", "doubts", "notes")
        verdict = {name: getattr(result.verdict, name) for name in told}
        table = json.loads(result.summary().to_json(orient="index"))
        typer.echo(json.dumps({**verdict, "summary": table}))
    else:
        typer.echo(repr(result))
    if out is not None:
        save_or_rescue(result, out / "fit.nc")
        _files.write(out / "summary.csv", result.summary().to_csv())
        _files.write_figure(out / "fit.png", result.plot(), dpi=130)
    if not result.ok:
        raise typer.Exit(3)


@app.command()
def rerun(
    path: Annotated[Path, typer.Argument(help="A saved fit (.nc).")],
    model: Annotated[
        str | None, typer.Option(help="In place of the model in the file: a name or a .py file.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="Of --model, name:choice; repeat for more.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run the code of the model that the file holds.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the repetition, fit.nc.")] = None,
    as_json: AsJson = False,
) -> None:
    """Repeat a saved fit: is it bit-equal, equal within Monte Carlo error, or different?"""
    from carpk.inference.saving import save_or_rescue

    if out is not None:
        _files.require_folder(out)
    given = None if model is None else ck.load_model(model, **_choices(option))
    result = ck.rerun(path, model=given, trust=trust)
    if as_json:
        names = ("grade", "ok", "different", "changed", "distances", "limit")
        typer.echo(json.dumps({name: getattr(result, name) for name in names}))
    else:
        typer.echo(repr(result))
    if out is not None:
        save_or_rescue(result.after, out / "fit.nc")
    if not result.ok:
        raise typer.Exit(3)


@app.command()
def compare(
    source: Annotated[
        str,
        typer.Argument(help="A model's name or .py file, a fit (.nc), a study or a data folder."),
    ],
    arm: Annotated[
        list[str],
        typer.Option(
            help="Twice or more, the reference first. Of a model a preset of lymphodepletion, or "
            '"none"; of a fit covariate:value; of a study a cohort.'
        ),
    ],
    option: Annotated[
        list[str] | None, typer.Option(help="Of a model, name:choice; repeat for more.")
    ] = None,
    cells: Annotated[float, typer.Option(help="Of a model: CAR+ T cells on day 0.")] = 1e8,
    per: Annotated[Per, typer.Option(help="Of a model: what the cells are counted per.")] = Per.m2,
    outcome: Annotated[
        list[str] | None, typer.Option(help="cmax, tmax, auc0_28d, ...; repeat for more.")
    ] = None,
    output: Annotated[str | None, typer.Option(help="Whose levels, where not CAR-T.")] = None,
    lloq: Annotated[float | None, typer.Option(help="Level that counts as detectable.")] = None,
    patients: Annotated[int, typer.Option(min=2, help="Virtual patients per draw.")] = 100,
    draws: Annotated[
        int | None, typer.Option(min=2, help="Draws of what is uncertain: a posterior, a figure.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Of a fit: run the code of the model in its file.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for comparison.nc, table and figure.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare arms: the same virtual patients under each, or published cohorts."""
    known: ck.ClosedForm | ck.ODEModel | ck.Fit | ck.Dataset | ck.Study
    arms: Mapping[str, str | dict[str, str] | ck.Regimen]
    if source.endswith(".nc"):
        arms = {text: dict([_pair("arm", text, "covariate:value")]) for text in arm}
        known = ck.load_fit(source, trust=trust)
    elif source in ck.list_studies() or Path(source).is_dir():
        known, arms = _read(source), {name: name for name in arm}
    else:
        known = ck.load_model(source, **_choices(option))
        infusion = ck.Regimen.cells(0, cells, per=None if per is Per.patient else per.value)
        before = {name: ck.Regimen.lymphodepletion(name) for name in arm if name != "none"}
        arms = {name: before[name] + infusion if name in before else infusion for name in arm}
    if out is not None:
        _files.require_folder(out)
    result = ck.compare(
        known,
        arms,
        outcome,
        output=output,
        lloq=lloq,
        patients=patients,
        draws=draws,
        seed=seed,
    )
    if as_json:
        table = json.loads(result.table.reset_index().to_json(orient="records"))
        head = {"basis": result.basis, "caveats": result.caveats}
        typer.echo(json.dumps({**head, "table": table}))
    else:
        typer.echo(repr(result))
    if out is not None:
        result.save(out / "comparison.nc")
        result.save(out / "comparison.csv")
        _files.write_figure(out / "comparison.png", result.plot(), dpi=130)
    if result.doubt:
        raise typer.Exit(3)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures, tables, posteriors.")] = Path(
        "demo"
    ),
    seed: Seed = 1,
    draws: Draws = 1000,
    tune: Tune = 1000,
    chains: Chains = 4,
) -> None:
    """Fit three published cohorts and lay the answers side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from carpk import demo as job

    fits = job.run(out, seed=seed, draws=draws, tune=tune, chains=chains, say=typer.echo)
    if not all(f.ok for f in fits.values()):
        raise typer.Exit(3)


def _echo_file(text: str) -> None:
    """Show the text of a file; a pipe gets it as the file is, in UTF-8."""
    text = text.rstrip()
    typer.echo(text if sys.stdout.isatty() else text.encode())


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    left, _, right = text.partition(":")
    if not (left and right):
        raise typer.BadParameter(f"must be {form}, but is {text!r}.", param_hint=f"--{option}")
    return left, right


def _choices(option: list[str] | None) -> dict[str, str]:
    """Options of a model."""
    return dict(_pair("option", text, "name:choice") for text in option or [])


def _read(data: str) -> ck.Dataset | ck.Study:
    from carpk.dataset.excel import SUFFIXES

    if data in ck.list_studies():
        return ck.load_study(data)
    path = Path(data)
    if path.suffix.lower() in SUFFIXES:
        return ck.Dataset.from_excel(path)
    if path.is_file():
        return ck.Dataset.from_nonmem(path)
    if (path / "arms.toml").exists():
        return ck.load_study(path)
    if not path.exists():
        raise ck.DatasetError(
            f"{data!r} is neither a study ({', '.join(ck.list_studies())}) nor a file or folder."
        )
    return ck.load_dataset(path)


def main() -> None:
    """Entry point: carpk's own errors become one sentence and exit code 1."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal without "µ" shows "\\xb5", not "?"
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except ck.CarpkError as error:
        print(f"carpk: {error}", file=sys.stderr)
        raise SystemExit(1) from None

"""Writing: there is the old file or the new one, whatever happens on the way."""

import ast
import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conjugate import data
from hierarchies import LINEAR
from matplotlib.figure import Figure

import carpk as ck
from carpk import _files

pytestmark = pytest.mark.portable
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals, modes and devices")
DAYS = np.arange(0.0, 15.0)
DATA = data(patients=2)


@pytest.fixture(scope="module")
def writers():
    """Everything that writes a file: name of the file -> write it there."""
    simulation = ck.simulate(LINEAR, ck.Regimen.cells(), DAYS, patients=2)
    once, twice = ck.Regimen.cells(), ck.Regimen.cells([0, 7], 1e8)
    comparison = ck.compare(LINEAR, {"once": once, "twice": twice}, ["cmax"], patients=20)
    figure = Figure()
    return {
        "text.csv": lambda path: _files.write(path, "a,b\n1,2\n"),
        "simulation.nc": simulation.save,
        "comparison.nc": comparison.save,
        "comparison.csv": comparison.save,
        "data.csv": DATA.to_nonmem,
        "figure.png": lambda path: _files.write_figure(path, figure, dpi=50),
    }


WRITERS = (
    *("text.csv", "simulation.nc", "comparison.nc", "comparison.csv", "data.csv", "figure.png"),
)


@pytest.fixture(params=WRITERS)
def writer(request, writers):
    return request.param, writers[request.param]


def test_a_file_is_written(writer, tmp_path):
    name, write = writer
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size > 0
    assert stat.S_IMODE((tmp_path / name).stat().st_mode) & 0o044  # as any file, not private
    assert not any(_files.is_part(path.name) for path in tmp_path.iterdir())


@pytest.mark.parametrize("trouble", [KeyboardInterrupt, OSError(errno.ENOSPC, "disk full")])
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_an_interrupted_write_leaves_the_old_file_whole(
    writer, tmp_path, monkeypatch, moment, trouble
):
    name, write = writer
    path = tmp_path / name
    path.write_bytes(b"old")

    def interrupted(*_):
        raise trouble

    place = (os, "fsync") if moment == "fsync" else (Path, "replace")
    monkeypatch.setattr(*place, interrupted)
    is_full = isinstance(trouble, OSError)
    with pytest.raises(ck.SaveError if is_full else KeyboardInterrupt) as told:
        write(path)
    if is_full:
        assert f"{str(path)!r} cannot be written (disk full)" in str(told.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_table_and_its_sidecar_belong_together(tmp_path, monkeypatch):
    """The second of two files fails: neither is new."""
    path = tmp_path / "data.csv"
    DATA.to_nonmem(path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    fsync, calls = os.fsync, []

    def second(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "disk full")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", second)
    assert len(before) == 2
    with pytest.raises(ck.SaveError, match=r"info\.json' cannot be written"):
        DATA.to_nonmem(path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@posix
def test_a_killed_writer_leaves_the_old_file_and_a_part_that_is_removed_later(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    code = f"""
import os, signal
from carpk import _files
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
_files.write({str(path)!r}, "new")
"""
    end = subprocess.run([sys.executable, "-c", code], check=False).returncode
    assert end == -signal.SIGKILL
    assert path.read_text() == "old"
    (part,) = (p for p in tmp_path.iterdir() if p != path)
    assert _files.is_part(part.name)
    other = tmp_path / ".part-01234567-b.csv"
    other.write_text("of another file")
    _files.write(path, "newer")
    assert part.exists()  # its writer may be alive
    an_hour_ago = time.time() - 2 * _files.LEFT_BEHIND
    for old in (part, other):
        os.utime(old, (an_hour_ago, an_hour_ago))
    _files.write(path, "newest")
    assert path.read_text() == "newest"
    assert not part.exists()
    assert other.exists()


@posix
def test_what_was_there_keeps_its_link_and_its_mode(tmp_path):
    path, link = tmp_path / "a.csv", tmp_path / "link.csv"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    _files.write(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
def test_a_long_name_a_pipe_and_a_folder(tmp_path):
    name = "ä" * 120 + ".csv"  # 244 bytes of 255
    assert _files.write(tmp_path / "new" / name, "x").read_text() == "x"
    _files.write("/dev/null", "x")
    assert not Path("/dev/null").is_file()
    with pytest.raises(ck.SaveError, match="it is a folder"):
        _files.write(tmp_path, "x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ck.SaveError, match=r"Not a directory|File exists"):
        _files.write(tmp_path / "file" / "a.csv", "x")


def test_nothing_in_the_package_writes_a_file_but_one_module():
    """`to_csv` and its like only without a path."""
    writing = {"to_netcdf", "savefig", "write_text", "write_bytes", "savez", "dump", "to_excel"}
    for path in Path(ck.__file__).parent.rglob("*.py"):
        if path.name == "_files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = node.func.attr
            into = ast.unparse(node.args[0]) if node.args else ""
            into_memory = into in {"", "content", "buffer"}
            assert name not in writing or into_memory, f"{path.name}, line {node.lineno}"
            assert name != "to_csv" or not into, f"{path.name}, line {node.lineno}"
            modes = [ast.unparse(x) for x in node.args] + [ast.unparse(k) for k in node.keywords]
            is_writing = name == "open" and any(m.strip("'\"")[:1] in "wx" for m in modes)
            assert not is_writing, f"{path.name}, line {node.lineno}"

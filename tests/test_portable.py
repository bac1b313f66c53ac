"""Import, saving and the shell on other systems than Linux, as far as one system can show it.

With the other tests marked `portable` they are what macOS and Windows run.
"""

import ast
import errno
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conjugate import data

import carpk as ck
from carpk import _files, cli
from carpk.inference import saving, storage
from carpk.inference.checkpoints import Blocks
from carpk.library.models import model_of_files

pytestmark = pytest.mark.portable

PACKAGE = Path(ck.__file__).parent
POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
MINE = """
# Ends of lines: µ
from carpk.models import piecewise
model = piecewise.build()
"""


def test_nothing_asks_for_posix_or_for_the_encoding_of_the_system():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            where = f"{path.name}, line {getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                assert not POSIX & {alias.name for alias in node.names}, where
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in POSIX, where
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                called = ast.unparse(node.func)
                said = "encoding" in {k.arg for k in node.keywords} or called == "tables.read_text"
                assert said or not called.endswith((".read_text", ".write_text")), where
                assert called not in {"os.fork", "os.kill", "signal.signal"}, where


def test_import_saving_and_the_shell_need_no_module_of_posix(tmp_path):
    """As on Windows, which has none of them; the lock is one of files there or here."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({sorted(POSIX - {"posix"})!r}))
import carpk as ck
from carpk import cli
from carpk.inference.checkpoints import Blocks
with Blocks({str(tmp_path / "a")!r}, {{}}):
    try:
        Blocks({str(tmp_path / "a")!r}, {{}})
    except ck.FitError as refused:
        print(refused)
Blocks({str(tmp_path / "a")!r}, {{}}).close()
sys.argv = ["carpk", "models"]
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert not done.returncode, done.stderr
    first, *listed = done.stdout.splitlines()
    assert re.search(r"another fit is writing to the folder .*\(process \d+ on ", first)
    assert "stein2019" in "\n".join(listed)


class TestLock:
    def test_a_file_system_without_locks_is_told(self, tmp_path, monkeypatch):
        fcntl = pytest.importorskip("fcntl")

        def refused(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refused)
        with pytest.warns(ck.CarpkWarning, match="without locks .*No locks available"):
            Blocks(tmp_path / "a", {}).close()

    def test_who_holds_it_can_be_read_where_a_locked_file_cannot(self, tmp_path):
        with Blocks(tmp_path / "a", {}):
            assert f"process {os.getpid()} on " in (tmp_path / "a" / "holder").read_text("utf-8")
            (tmp_path / "a" / "holder").unlink()
            with pytest.raises(ck.FitError, match=r"another fit .*\(unknown\)"):
                Blocks(tmp_path / "a", {})


def test_a_folder_that_cannot_be_opened_takes_files(tmp_path, monkeypatch):
    """Windows opens files only: their folder is not synced."""
    opened = os.open

    def files_only(path, *arguments, **options):
        if isinstance(path, str | Path) and Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", files_only)
    assert _files.write(tmp_path / "a.txt", "µ").read_bytes() == "µ".encode()


@pytest.mark.parametrize("name", ["data.csv", "comparison.csv"])
def test_tables_have_the_same_bytes_on_every_system(name, tmp_path, monkeypatch):
    study = ck.load_study("eliana_ensign")
    arms = {"n": "non_responders", "r": "responders"}
    write = {
        "data.csv": data(patients=2).to_nonmem,
        "comparison.csv": ck.compare(study, arms, ["cmax"]).save,
    }[name]
    written = []
    for ends in ("\n", "\r\n"):
        monkeypatch.setattr(os, "linesep", ends)
        write(tmp_path / name)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert b"\r" not in written[0]


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_a_terminal_without_a_sign_shows_its_code(encoding, monkeypatch):
    """Not "?g", which may be mg as well, and no UnicodeEncodeError after an hour of sampling."""
    content = io.BytesIO()
    terminal = io.TextIOWrapper(content, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(cli, "app", lambda: print("37 µg, R ≥ 1"))
    cli.main()
    terminal.flush()
    shown = content.getvalue().decode(encoding).strip()
    assert (
        shown
        == {
            "utf-8": "37 µg, R ≥ 1",
            "cp1252": "37 µg, R \\u2265 1",
            "ascii": "37 \\xb5g, R \\u2265 1",
        }[encoding]
    )


def test_a_model_sent_to_a_file_is_the_model(tmp_path):
    """`carpk models stein2019 --source > mine.py`, in whatever encoding the shell is."""
    code = "from carpk import cli; import sys; sys.argv[1:] = %r; cli.main()"
    with (tmp_path / "mine.py").open("wb") as file:
        subprocess.run(
            [sys.executable, "-c", code % ["models", "stein2019", "--source"]],
            stdout=file,
            env=os.environ | {"PYTHONIOENCODING": "cp1252"},
            check=True,
            stdin=subprocess.DEVNULL,
        )
    assert ck.load_model(tmp_path / "mine.py").units == ck.load_model("stein2019").units


class TestFilesOfAModel:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "mine.py"
        path.write_bytes(MINE.replace("\n", "\r\n").encode())
        return path

    def test_its_lines_may_end_as_on_windows(self, path):
        model = ck.load_model(path)
        assert model.files["mine.py"] == MINE
        assert storage._on_disk(str(path), model.files) == "still as it was"

    def test_a_fit_of_windows_finds_them_here(self, path):
        model = ck.load_model(path)
        assert "\\" not in model.origin["name"]
        origin = {"name": "C:/Users/me/mine.py", "options": {}}
        assert model_of_files(origin, model.files).units == model.units

    def test_the_library_behind_a_link_is_the_library(self, tmp_path, monkeypatch):
        import carpk.models

        link = tmp_path / "link"
        try:
            link.symlink_to(carpk.models.__path__[-1], target_is_directory=True)
        except OSError:
            pytest.skip("this system gives no links")
        monkeypatch.setattr(carpk.models, "__path__", [str(link)])
        path = tmp_path / "mine.py"
        path.write_text(
            "from carpk.models import piecewise\nmodel = piecewise.build()\n", encoding="utf-8"
        )
        assert sorted(ck.load_model(path).files) == ["mine.py", "models/piecewise.py"]


def test_the_code_of_carpk_has_one_checksum_on_every_system(tmp_path, monkeypatch):
    digest = saving._digest_of_code.__wrapped__
    before = digest()
    copy = tmp_path / "carpk"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    monkeypatch.setattr(saving, "__file__", str(copy / "inference" / "saving.py"))
    assert digest() == before


def test_a_fit_is_saved_and_read_again(known_fit, tmp_path):
    path = known_fit.save(tmp_path / "µ" / "fit.nc")
    again = ck.load_fit(path)
    assert again.posterior.equals(known_fit.posterior)
    assert repr(again) == repr(known_fit)

"""The code of the pages runs, each page from top to bottom as one session in an empty folder.

What a fenced block is follows from its language. `python` is run, unless its first line is the
name of a file, such as `# mine.py`: then it is written to that file. `sh` goes to the command
line. `text` is the output of the `python` block before it, or its error, and `# -> ...` behind an
expression is its value: numbers must agree to the digits shown, `...` stands for anything. A fence
without a language is a drawing. A comment in the page, right above a block, makes exceptions:
`<!-- not run: why -->`, `<!-- numbers vary: why -->`.

Pages are compared with their own settings. README, whose fits take hours, shows no number that
depends on them, and runs with the settings of `small.py`.
"""

import ast
import contextlib
import dataclasses
import io
import re
import shlex
import sys
import tomllib
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import pytest
import small
import typer

import carpk as ck
from carpk import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = {"README.md"}
SLOW = {"README.md", "excel.md", "when_a_fit_goes_wrong.md"}
FENCE = re.compile(
    r"(?:<!-- (?P<mark>not run|numbers vary): (?P<why>.+?) -->\n)?"
    r"^```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


@dataclasses.dataclass(frozen=True)
class Block:
    where: str
    language: str
    text: str
    mark: str = ""
    why: str = ""


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    assert text.count("```") == 2 * len(found), f"{page.name}: a fence is not closed, or indented"
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, m.start('text'))}", **m.groupdict(""))
        for m in found
    ]


def assert_shown(shown, real, where, *, numbers=True):
    """What a page shows is what comes: the words, and the numbers to the digits shown."""
    pattern = ""
    for part in re.split(rf"(\.\.\.|{NUMBER})", shown.strip("\n").rstrip()):
        is_number = re.fullmatch(NUMBER, part)
        pattern += ".*" if part == "..." else f"({NUMBER})" if is_number else re.escape(part)
    match = re.fullmatch(pattern, real.strip("\n").rstrip(), re.DOTALL)
    assert match, f"{where} shows\n{shown}\nbut the output is\n{real}"
    for a, b in zip(re.findall(NUMBER, shown), match.groups(), strict=True):
        digits, _, power = a.partition("e")
        unit = 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))
        near = abs(float(a) - float(b)) < 0.501 * unit
        assert near or not numbers, f"{where} shows {a}, but it is {b}, in\n{real}"


class Session:
    """What a reader has who runs the blocks of a page one after another."""

    def __init__(self):
        self.names, self.output = {"__name__": "__main__"}, None

    def run(self, block, following):
        head = re.match(r"# ([\w/]+\.\w+)\n", block.text)
        if block.language == "text":
            assert self.output is not None, f"{block.where}: output of what?"
            assert_shown(block.text, self.output, block.where, numbers=not block.mark)
        elif block.language and head:
            Path(head[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            fails = following and re.match(r"(\w+Error): ", following.text)
            self.output = self.python(block, fails[1] if fails else None)
        elif block.language == "sh":
            for line in shlex_lines(block.text):
                command_line(line)
        else:
            assert not block.language, f"{block.where}: no rule for {block.language}"

    def python(self, block, error):
        """Run a block, and return what it prints; with the name of an error, which it raises."""
        out, lines = io.StringIO(), block.text.splitlines()
        with contextlib.redirect_stdout(out):
            try:
                for node in ast.parse(block.text).body:
                    comment = lines[node.end_lineno - 1].partition("  # -> ")[2]
                    if isinstance(node, ast.Expr):
                        code = compile(ast.Expression(node.value), block.where, "eval")
                        text = repr(eval(code, self.names))  # a notebook shows it
                        if comment:
                            assert_shown(comment, text, block.where)
                    else:
                        code = compile(ast.Module([node], []), block.where, "exec")
                        exec(code, self.names)
            except ck.CarpkError as failure:
                if error != type(failure).__name__:
                    raise
                return f"{error}: {failure}"
        assert not error, f"{block.where}: there is no {error}"
        return out.getvalue()


def shlex_lines(text):
    return filter(None, (shlex.split(line, comments=True) for line in text.splitlines()))


def command_line(words):
    """Run a `carpk` command; of any other, look whether what it names exists."""
    if words[0] == "carpk":
        to = words.index(">") if ">" in words else len(words)
        with (
            pytest.MonkeyPatch.context() as patch,
            io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) as out,
        ):
            patch.setattr(sys, "argv", words[:to])
            with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as end:
                cli.main()
            assert not end.value.code, words
            if words[to:]:
                Path(words[to + 1]).write_bytes(out.buffer.getvalue())
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), words
    else:
        extra = re.fullmatch(r"carpk\[(\w+)\]", words[-1])
        assert words[:2] == ["pip", "install"], words
        assert extra, words
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert extra[1] in project["optional-dependencies"], words


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    jax.config.update("jax_disable_most_optimizations", True)  # pages compile more than they run
    yield Session()
    jax.config.update("jax_disable_most_optimizations", False)
    plt.close("all")


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.name, marks=[pytest.mark.slow] if p.name in SLOW else []) for p in PAGES],
)
def test_a_page_runs_from_top_to_bottom_and_prints_what_it_shows(page, session, monkeypatch):
    if page.name in SMALL:
        small.everywhere(small.PAGES, monkeypatch.setattr)
    blocks = blocks_of(page)
    for block, following in zip(blocks, [*blocks, None][1:], strict=True):
        if block.mark != "not run":
            try:
                session.run(block, following)
            except Exception as trouble:
                trouble.add_note(f"in the block at {block.where}")
                raise


def test_blocks_that_are_not_run_are_listed():
    left = [b for page in PAGES for b in blocks_of(page) if b.mark == "not run"]
    if left:
        pytest.skip("; ".join(f"{b.where}: {b.why}" for b in left))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_within_sentences_are_understood(page):
    commands = typer.main.get_command(cli.app).commands
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for text in re.findall(r"`(carpk [^`]+ [^`]+)`", prose):
        _, name, *words = shlex.split(text.partition(">")[0])
        commands[name].make_context(name, words)


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        ("12.3 days", "12.3 days", True),
        ("12.3 days", "12.34 days", True),
        ("12.3 days", "12.4 days", False),
        ("12.3 days", "12.3 weeks", False),
        ("2e-06 ...", "1.6e-06 SDs away\n  Note: one", True),
        ("2e-06 ...", "1.4e-06 SDs away", False),
        ("a\n...\nb", "a\nmore\nmore\nb", True),
        ("a", "a\nb", False),
    ],
)
def test_numbers_agree_to_the_digits_shown(shown, real, same):
    with contextlib.nullcontext() if same else pytest.raises(AssertionError):
        assert_shown(shown, real, "here")

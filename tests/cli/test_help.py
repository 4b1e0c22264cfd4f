"""Help, suggestions and completion, of every command."""

import contextlib
import dataclasses
import io
import itertools
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import pytest
import tyro

from hybridlm.cli import main as cli
from hybridlm.cli.completion import completion
from hybridlm.cli.examples import EXAMPLES
from hybridlm.cli.help import help_text
from hybridlm.cli.options import Described, describe, wrong_usage
from hybridlm.config import preset_names
from hybridlm.generation import SamplingConfig
from hybridlm.scoring.config import ScoringConfig
from hybridlm.scoring.mixtures import mixture_names, row_mixture_names
from hybridlm.train.config import TrainConfig

SLOW = ("run", "train", "data fetch", "submission pack", "submission check", "submission compare")
"""Their examples train for minutes, download, or need what training leaves."""


def described(name: str) -> Described:
    command = cli.find(name.split())
    assert command is not None
    return command.describe()


def shown(name: str) -> str:
    return help_text(name, described(name))


def tyros_help(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What tyro itself would show, without frames."""
    command = cli.find(name.split())
    assert command is not None
    target = command.load()
    layers = {"default": target.with_defaults([])} if hasattr(target, "with_defaults") else {}
    monkeypatch.setenv("COLUMNS", "100")
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        tyro.cli(
            target,
            args=["--help"],
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
            **layers,
        )
    return out.getvalue()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_options_are_those_that_tyro_parses(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.findall(r"^.{0,2} (-[a-z-].*?)(?:   |$)", tyros_help(name, monkeypatch), re.MULTILINE)
    parsed = {word for line in lines for word in re.findall(r"(?:^|(?<=[ ,]))--?[a-z](?:[\w.-]*\w)?", line)}
    assert parsed - {"-h", "--help"} == set(described(name).by_name)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_teaches(name: str) -> None:
    text = shown(name)
    for leak in ("Raises", "{None}", "None", ">>>", "(default: True)", "(default: False)", "VALUE", "Args:"):
        assert leak not in text, leak
    assert "examples:\n  hybridlm " in text
    assert max(map(len, text.splitlines())) <= 110
    found = described(name)
    assert found.summary.endswith((".", "?"))
    assert [option.written for option in found.options if not option.help] == []
    assert [group for group, text in found.groups.items() if not text] == []


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_same_thing_has_the_same_name_everywhere(name: str) -> None:
    options = {option.names[-1]: option for option in described(name).options if option.names}
    for option in options.values():
        if option.names[-1] in ("--out", "--output"):
            assert option.shown_names == ("-o", "--out")
            assert "--output" in option.names
    if "--json" in options:
        assert options["--json"].value is None
    for shards in ("--val", "--control", "--tokens"):
        # Elsewhere, --tokens is a number of tokens, or their ids.
        assert shards not in options or options[shards].value in ("GLOB", "INT", "INT ...")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_examples_use_options_that_exist(name: str) -> None:
    for line in EXAMPLES[name]:
        words = shlex.split(line.partition(" > ")[0].replace("\\\n", ""))[1:]
        command = cli.find(words)
        assert command is not None and command.name == name
        assert wrong_usage(command.describe(), command.arguments, name) is None


def test_there_are_no_examples_of_other_commands() -> None:
    assert EXAMPLES.keys() == cli.COMMANDS.keys()


@pytest.fixture
def folder(corpus: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_text("\n\n".join(corpus[:30]))
    for name in ("run", "other-run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "train_loss": 6.9}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_examples_work_one_after_the_other(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lines in EXAMPLES.items():
        for line in lines:
            line, _, target = line.partition(" > ")
            if name in SLOW or any(other in line for other in ("--model", "network.npy", "scorer.py")):
                continue
            words = shlex.split(line)[1:]
            # What the shell would do.
            words = [
                str(path)
                for word in words
                for path in (sorted(Path().glob(word)) if "*" in word and f"'{word}'" not in line else [word])
            ]
            capsys.readouterr()
            assert cli.main(words) == 0, (line, capsys.readouterr().err)
            if target and not target.startswith("~"):
                Path(target).write_text(capsys.readouterr().out)


def test_misspelt_options_and_commands_are_recognised(capsys: pytest.CaptureFixture[str]) -> None:
    def error(line: str) -> str:
        assert cli.main(line.split()) == 2
        return capsys.readouterr().err.splitlines()[0]

    assert "`eval` has no option --vall; did you mean --val? `hybridlm eval --help`" in error(
        "eval a --vall b"
    )
    assert "did you mean --model.layers" in error("train --layers 3")
    # By the names that other programs have for it.
    assert "did you mean --optimizer.matrix-lr?" in error("train --learning_rate 0.1")
    assert "did you mean --ttt-options.learning-rates?" in error("eval a --lr 0.1")
    assert "did you mean --batch-tokens?" in error("train --batch-size 8")
    assert "has no option --xyzzy; `hybridlm" in error("doctor --xyzzy")
    assert "`eval` needs --val GLOB and --tokenizer PATH; `hybridlm eval --help`" in error("eval a")
    assert "no command 'evl'; did you mean eval?" in error("evl")
    assert "no command 'oracle built'; did you mean oracle build" in error("oracle built -o x")
    assert "no command 'xyzzy'" in error("xyzzy") and "mean" not in error("xyzzy")


def test_values_are_not_taken_for_options() -> None:
    found = described("generate")
    required = ["--artifact", "a", "--tokenizer", "t"]
    assert wrong_usage(found, [*required, "--prompt", "-x", "--seed=3", "--top_k", "4"], "generate") is None
    assert wrong_usage(found, [*required, "--temperature", "-1"], "generate") is None
    assert wrong_usage(found, [*required, "-x"], "generate") is not None


SETTINGS = (SamplingConfig, ScoringConfig, TrainConfig)
"""They look at their own numbers, and at those of their groups, as these don't only come from command lines:
tests/python/test_hostile_settings.py."""


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_number_has_a_range(name: str) -> None:
    found = described(name)
    theirs = {field.name.replace("_", "-") for cls in SETTINGS for field in dataclasses.fields(cls)}
    for option in found.options:
        if option.value is None or option.value.partition(" ")[0] not in ("INT", "FLOAT"):
            continue
        if option.range is None:
            assert option.group or option.names[-1].removeprefix("--") in theirs, option.names
            continue
        for number in ["-" + "9" * 20, "9" * 20, *(["nan", "-inf"] if "FLOAT" in option.value else [])]:
            if number == "9" * 20 and option.value == "FLOAT" and option.range.high > 1e18:
                continue
            for words in ([option.names[0], number], [f"{option.names[0]}={number}"]):
                problem = wrong_usage(found, words, name)
                assert problem is not None and "must be " in problem and len(problem) < 100


ODD = ("-1", "0", "1", "2147483648", "1" + "0" * 20, "1e300", "nan", "-inf", "", "many", "9" * 5000, "0x10")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_odd_numbers_are_one_line(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong usage, or they can be, and then a file isn't there."""
    monkeypatch.chdir(tmp_path)
    found = described(name)
    required = {
        option.name: [*option.names[-1:], option.choices[0] if option.choices else "missing"]
        for option in found.options
        if option.required
    }
    # The fewest that one takes are two, and the other goes without its own text.
    more = {"oracle tune": ["missing"], "run": ["--text", "missing"]}.get(name, [])
    written = {"N=ROWS": ("3={}", "{}=3"), "GLOB=W": ("x={}",)}
    for option in found.options:
        kind = (option.value or "").partition(" ")[0]
        # `run` hands its groups on to `train`, and `audit` has those of `eval`.
        if kind not in ("INT", "FLOAT", "BYTES", *written) or (name in ("run", "audit") and option.group):
            continue
        # Settings look at their own numbers, all of them in each command.
        odd = ODD if option.range is not None or kind in written else ("-1", ODD[4], "nan")
        for form, number in itertools.product(written.get(kind, ("{}",)), odd):
            others = [word for key, words in required.items() if key != option.name for word in words]
            arguments = [*more, *others, f"{option.name}={form.format(number)}"]
            if (problem := wrong_usage(found, arguments, name)) is None:
                code = cli.main([*name.split(), *arguments])
                out, problem = capsys.readouterr()
                assert (out, problem[:17], problem.count("\n")) == ("", "hybridlm: error: ", 1), arguments
                assert code == (1 if "missing" in problem else 2), (arguments, problem)
            assert len(problem) < 250 and "typing." not in problem, problem
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("oracle build x -o y --max-bytes 0", "--max-bytes must be at least 1, not 0"),
        ("oracle build x -o y --orders 9", "--orders must be at most 8, not 9"),
        ("oracle count x -o y --checkpoint-seconds -1", "--checkpoint-seconds must be at least 0, not -1"),
        ("data shard x --tokenizer t --out y --processes 0", "--processes must be at least 1, not 0"),
        ("data shard x --tokenizer t --out y --val-fraction 1", "--val-fraction must be below 1, not 1"),
        ("data overlap x --val y --lengths 8 0", "--lengths must be at least 1, not 0"),
        ("oracle ngrams x --ids 3 -1", "--ids must be at least 0, not -1"),
        ("run --vocab-size=100", "--vocab-size must be at least 257, not 100"),
        ("train --data x --tokenizer t -o y --processes 5000", "--processes must be at most 4,096, not 5000"),
        ("baseline kn --test x --train y --depth 9", "--depth must be at most 8, not 9"),
        ("audit x --val y --tokenizer t --tolerance nan", "--tolerance must be a number, not nan"),
        ("audit x --val y --tokenizer t --rows 0", "--rows must be at least 1, not 0"),
        ("eval x --val y --tokenizer t --max-tokens 0", "--max-tokens must be at least 1, not 0"),
        ("eval x --val y --tokenizer t --stride 0", "the stride must be at least 1, not 0"),
        ("generate --artifact x --tokenizer t --tokens 0", "--tokens must be at least 1, not 0"),
        (
            "generate --artifact x --tokenizer t --temperature -1",
            "the temperature must be at least 0, not -1",
        ),
    ],
)
def test_a_number_out_of_its_range_is_wrong_usage(
    line: str,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """None of the files is there: it is refused before any is looked for."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"hybridlm: error: {problem}") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("report", "usage: hybridlm report RUN [OTHER] [OPTIONS]"),
        ("oracle score", "usage: hybridlm oracle score ORACLE [PATH ...] --tokenizer PATH [OPTIONS]"),
    ],
)
def test_the_usage_shows_arguments_that_may_be_left_out(
    command: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == usage


@pytest.mark.parametrize("command", ["eval", "audit", "run", "mix"])
def test_options_that_take_names_list_them(command: str) -> None:
    names = mixture_names() if command == "mix" else [*mixture_names(), *row_mixture_names()]
    text = described(command).by_name["--mixer"].help
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []
    if command == "run":
        text = described(command).by_name["--preset"].help
        assert [name for name in preset_names() if not re.search(rf"\b{name}\b", text)] == []


def test_a_switch_that_is_on_says_that_it_switches_off() -> None:
    option = described("train").by_name["--model.no-qk-norm"]
    assert option.value is None and option.help.startswith("Switches off: RMS-normalised")


def test_defaults_in_help_are_those_of_the_preset() -> None:
    command = cli.find(["train", "--preset", "record"])
    assert command is not None
    assert (
        command.describe().by_name["--model.layers"].default
        != described("train").by_name["--model.layers"].default
    )


def test_the_earlier_name_of_out_works_on(folder: Path) -> None:
    assert cli.main(["report", "run", "--output", "page.html"]) == 0
    assert Path("page.html").is_file()


def test_a_docstring_in_many_shapes_is_read() -> None:
    def command(first: int, second: str = "") -> None:
        """Do it.

        At length. Raises InputError for nothing at all.

        >>> 1
        1

        Args:
            first: One
                more line.
            second: Two: with a colon.

        Raises:
            InputError: never
        """

    found = describe(command)
    assert (found.summary, found.details) == ("Do it.", "At length.")
    assert [option.help for option in found.options] == ["One more line.", "Two: with a colon."]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("hybridlm or", ["oracle"]),
        (
            "hybridlm oracle ",
            ["build", "count", "merge", "inspect", "eval", "score", "tune", "ngrams", "export"],
        ),
        ("hybridlm oracle build --estim", ["--estimator"]),
        ("hybridlm oracle build --estimator ", ["dense", "sparse"]),
        ("hybridlm eval a --ttt ", ["sgd", "adamw", "lora", "documents", "off"]),
        ("hybridlm eval a --per-d", ["--per-document"]),
        ("hybridlm report --o", ["--out"]),
    ],
)
def test_bash_completes(
    line: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    completion("bash")
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    script = textwrap.dedent(
        f"""
        source {tmp_path}/completion
        COMP_WORDS=({line}{" ''" if line.endswith(" ") else ""})
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _hybridlm
        printf '%s\\n' "${{COMPREPLY[@]}}"
        """
    )
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.split() == words


def test_other_shells_get_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    completion("zsh")
    assert capsys.readouterr().out.startswith("#compdef hybridlm\n")
    completion("fish")
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("complete -c hybridlm -n ") for line in lines)
    assert any(" -l estimator -x -a 'dense sparse' " in line for line in lines)
    for line in lines:
        shlex.split(line)

"""Finds the command that was asked for, parses its options, and turns mistakes into one line.

A command is a function: its signature and docstring are its command line, parsed by tyro. Where settings
come in layers (a preset, the environment) it is a dataclass instead, with a class method
`with_defaults(arguments)` that makes the instance under the command line, and a method `run`. Its module
is imported only when the command is called, so that `hybridlm oracle …` never waits for torch.

Exit codes: 0 done, 1 failed (the input's or the system's fault, one line on stderr), 2 wrong usage,
130 interrupted. Anything else is a bug of ours and shows its traceback. A command that gives a verdict (an
audit, a check) returns it as a bool: False is exit code 1 as well, without a line on stderr.
"""

import codecs
import contextlib
import errno
import functools
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridlm.cli.options import Described

from hybridlm.signals import as_interrupts

# Each name is at most two words. The order is the order of `hybridlm --help`.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("hybridlm.cli.run", "Run", "the whole pipeline on your text, or on text that is already here"),
    "data tokenizer": ("hybridlm.cli.data", "tokenizer", "train a SentencePiece BPE tokenizer"),
    "data shard": ("hybridlm.cli.data", "shard", "text to token shards"),
    "data fetch": ("hybridlm.cli.data", "fetch", "download a dataset from the Hugging Face hub"),
    "data overlap": ("hybridlm.cli.data", "overlap", "how much of a validation text is in the training text"),
    "data inspect": ("hybridlm.cli.data", "inspect", "what a shard holds"),
    "oracle build": ("hybridlm.cli.oracle", "build", "shards to a frozen n-gram oracle"),
    "oracle count": ("hybridlm.cli.oracle", "count", "shards to a file of partial counts"),
    "oracle merge": ("hybridlm.cli.oracle", "merge", "files of partial counts to one"),
    "oracle inspect": ("hybridlm.cli.oracle", "inspect", "what an oracle holds"),
    "oracle eval": ("hybridlm.cli.oracle", "evaluate", "bits per byte of an oracle alone"),
    "oracle score": ("hybridlm.cli.ngrams", "score", "bits and perplexity of each line or document"),
    "oracle tune": ("hybridlm.cli.tune", "tune", "the best fixed weights of several oracles"),
    "oracle ngrams": ("hybridlm.cli.ngrams", "ngrams", "how often an n-gram occurs, and what follows it"),
    "oracle export": ("hybridlm.cli.ngrams", "export", "a sparse oracle as an ARPA file"),
    "train": ("hybridlm.cli.train", "train", "train a GPT (also under torchrun)"),
    "artifact pack": ("hybridlm.cli.artifact", "pack", "bundle a trained model and an oracle into one file"),
    "artifact inspect": ("hybridlm.cli.artifact", "inspect", "what an artifact holds, against its budget"),
    "eval": ("hybridlm.cli.evaluate", "evaluate", "score an artifact: bits per byte (also under torchrun)"),
    "mix": ("hybridlm.cli.mix", "mix", "your own network's log-probabilities with an oracle and experts"),
    "verify": ("hybridlm.cli.verify", "verify", "a reported score, made again and compared"),
    "compare": ("hybridlm.cli.compare", "compare", "two scores of the same text: which is better?"),
    "audit": ("hybridlm.cli.audit", "audit", "is an artifact's score honest?"),
    "compress": ("hybridlm.cli.codec", "compress", "a file to a smaller one, by an artifact"),
    "decompress": ("hybridlm.cli.codec", "decompress", "and back"),
    "generate": ("hybridlm.cli.generate", "generate", "text from an artifact"),
    "baseline ctw": ("hybridlm.cli.baseline", "ctw", "what context-tree weighting over bytes reaches"),
    "baseline kn": ("hybridlm.cli.baseline", "kn", "what interpolated Kneser-Ney over bytes reaches"),
    "report": ("hybridlm.cli.report", "report", "a run as one HTML page"),
    "submission pack": (
        "hybridlm.cli.submission",
        "pack",
        "runs to a record of the parameter-golf challenge",
    ),
    "submission check": (
        "hybridlm.cli.submission",
        "check",
        "is a record complete, consistent, small enough?",
    ),
    "submission compare": ("hybridlm.cli.submission", "compare", "does a record beat another, by the rules?"),
    "doctor": ("hybridlm.cli.doctor", "doctor", "can this installation do its work?"),
    "completion": ("hybridlm.cli.completion", "completion", "completion of commands and options in a shell"),
}

SITE = "https://github.com/hybridlm/hybridlm/blob/main/docs/start.md"

# Earlier names. They still work, and say what to write instead.
RENAMED = {"baseline ppm": "baseline kn"}


@dataclass(frozen=True)
class Command:
    name: str
    module: str
    function: str
    arguments: list[str]

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.function)

    def describe(self) -> "Described":
        """Its options, with the defaults that the preset among its arguments and the environment give."""
        from hybridlm.cli.options import describe

        target = self.load()
        layered = hasattr(target, "with_defaults")
        return describe(target, target.with_defaults(self.arguments) if layered else None)


def find(argv: Sequence[str]) -> Command | None:
    """The longest command name that ``argv`` starts with, and what follows it."""
    for words in (2, 1):
        name = " ".join(argv[:words])
        name = RENAMED.get(name, name)
        if len(argv) >= words and name in COMMANDS:
            module, function, _ = COMMANDS[name]
            return Command(name, module, function, list(argv[words:]))
    return None


def overview(group: str = "") -> str:
    """The help text that lists all commands, or those of one group such as ``oracle``."""
    names = [name for name in COMMANDS if not group or name.split()[0] == group]
    width = max(len(name) for name in names)
    lines = [f"usage: hybridlm {group + ' ' if group else ''}COMMAND ...", ""]
    lines += [f"  {name:{width}}  {COMMANDS[name][2]}" for name in names]
    lines += [
        "",
        "`hybridlm COMMAND --help` shows a command's options and examples; `hybridlm --version` the version.",
    ]
    if not group:
        lines += [
            "New here? `hybridlm run --out run && hybridlm report run` does everything once; or read",
            SITE,
        ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    # Read when torch is loaded. By default OpenMP's threads spin while they wait for each other, which on
    # cores that anything else uses too makes a training step ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _prepare_streams()
    _log_to_stderr()
    command = find(argv)
    if command is not None and (old := " ".join(argv[: len(command.name.split())])) != command.name:
        print(f"hybridlm: `{old}` is now called `{command.name}`", file=sys.stderr)
    try:
        code = _without_command(argv) if command is None else _call(command)
        # Here rather than when Python exits, so that a reader who left early is met by the handler below.
        _flush()
        return code
    except KeyboardInterrupt as interrupt:
        # torchrun passes a signal on to every rank, and sends one to the others where a rank has died, and
        # says so. A rank speaks only where it has more to say, as one of a training run does.
        is_rank = "TORCHELASTIC_RUN_ID" in os.environ
        speaks = os.environ.get("RANK", "0") == "0" or (command is not None and command.name == "train")
        if speaks and (str(interrupt) or not is_rank):
            _complain(str(interrupt) or "interrupted")
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename is None:
            # The reader had enough (`hybridlm … | head`): a quiet success.
            _abandon_stdout()
            return 0
        _complain_once(_describe_os_error(error))
        return 1
    except MemoryError as error:
        _complain_once(f"there is not enough memory {error}")
        return 1
    except RuntimeError as error:
        # How PyTorch says that it got no memory, on CPUs and on GPUs.
        if "can't allocate memory" not in str(error) and type(error).__name__ != "OutOfMemoryError":
            raise
        _complain_once(f"there is not enough memory: {str(error).splitlines()[0]}")
        return 1
    except OverflowError as error:
        _complain_once(f"a number is beyond what 64 bits hold: {error}")
        return 1
    except ValueError as error:
        if not _is_input_error(error):
            raise
        if command is not None and _is_usage_error(error):
            _refuse_usage(str(error), command)
            return 2
        _complain_once(str(error))
        return 1
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        _complain(f"internal error, a bug in hybridlm: please report it with the lines above ({error})")
        return 1


def _call(command: Command) -> int:
    import tyro

    from hybridlm.cli.options import wrong_usage

    described = command.describe()
    if not {"-h", "--help"}.isdisjoint(command.arguments):
        from hybridlm.cli.help import help_text

        print(help_text(command.name, described))
        return 0
    if problem := wrong_usage(described, command.arguments, command.name):
        _refuse_usage(problem, command)
        return 2
    target = command.load()
    layers = {"default": target.with_defaults(command.arguments)} if hasattr(target, "with_defaults") else {}

    @functools.wraps(target)
    def work(*values: Any, **options: Any) -> Callable[[], Any]:
        return functools.partial(target, *values, **options)

    try:
        # tyro frames what is wrong, with the option's help. Here it is one line, of one rank under torchrun.
        with contextlib.redirect_stderr(io.StringIO()) as framed:
            parsed = tyro.cli(
                target if layers else work,
                prog=f"hybridlm {command.name}",
                args=command.arguments,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
                **layers,
            )
    except SystemExit as stop:
        _refuse_usage(_what_led_to(stop) or _within_frame(framed.getvalue()), command)
        return 2
    except ValueError as error:  # of settings that can't be
        if not _is_input_error(error):
            raise
        _refuse_usage(str(error), command)
        return 2
    try:
        # From here on there may be something to clean up.
        with as_interrupts():
            verdict = parsed.run() if layers else parsed()
    except SystemExit as stop:  # with the exit code of what the command has started
        return stop.code if isinstance(stop.code, int) else 1
    return 1 if verdict is False else 0


def _what_led_to(stop: BaseException) -> str | None:
    """What settings said of themselves, if they were why tyro gave up."""
    error: BaseException | None = stop
    while error is not None:
        if isinstance(error, ValueError) and _is_input_error(error):
            return str(error)
        error = error.__context__
    return None


def _within_frame(framed: str) -> str:
    """What tyro says is wrong, without its title, the frame around it and the help below it."""
    sections = re.split(r"^[│ ]*[─-]{3,}[│ ]*$", framed, flags=re.MULTILINE)
    has_frame = framed.lstrip().startswith("╭")
    said = sections[0].partition("\n")[2] if has_frame or len(sections) == 1 else sections[1]
    return " ".join(said.replace("│", " ").split()).rstrip(".")


def _without_command(argv: Sequence[str]) -> int:
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    group = argv[0] if argv and argv[0] in groups else ""
    rest = argv[1:] if group else argv
    if rest and rest[0] in ("-h", "--help"):
        print(overview(group))
        return 0
    if rest and rest[0] in ("-V", "--version") and not group:
        from hybridlm import __version__

        print(f"hybridlm {__version__}")
        return 0
    if rest:
        from hybridlm.cli.options import suggestion

        given = " ".join(argv[: 2 if group else 1])
        print(f"hybridlm: there is no command {given!r}{suggestion(given, COMMANDS)}\n", file=sys.stderr)
    print(overview(group), file=sys.stderr)
    return 2


def _is_input_error(error: ValueError) -> bool:
    # Imported late: the usage answers work even where the extension can't be loaded.
    from hybridlm.errors import InputError

    return isinstance(error, InputError)


def _is_usage_error(error: ValueError) -> bool:
    from hybridlm.errors import UsageError

    return isinstance(error, UsageError)


def _refuse_usage(problem: str, command: Command) -> None:
    # Under torchrun, one rank says so.
    if os.environ.get("RANK", "0") == "0":
        joint = "" if problem.endswith("?") else ";"
        _complain(f"{problem}{joint} `hybridlm {command.name} --help` shows examples and all options")


def _complain(message: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be a full disk or a pipe that nobody reads
        print(f"hybridlm: error: {' '.join(message.split())}", file=sys.stderr, flush=True)


def _complain_once(message: str) -> None:
    """Of the ranks of a group, the first to fail tells why."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        try:
            from hybridlm.distributed import is_first_to_fail
        except ImportError:  # without torch there is no group
            pass
        else:
            if not is_first_to_fail():
                return
    _complain(message)


def _describe_os_error(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    reason = error.strerror[0].lower() + error.strerror[1:]
    name = error.filename
    if name is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        # Writes to files name them (hybridlm.files), so this was a print.
        name = _STDOUT
    if name == _STDOUT:
        _abandon_stdout()
    return f"{name}: {reason}" if name is not None else reason


_STDOUT = "standard output"


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        name = None if isinstance(error, BrokenPipeError) else _STDOUT
        raise OSError(error.errno, error.strerror, name) from None


def _abandon_stdout() -> None:
    """Python would try once more, and complain, when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _prepare_streams() -> None:
    """Opens what was closed (`>&-`), which a file would take the place of, and lets any text be printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115, PTH123
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        codecs.register_error("hybridlm", _printable)
        sys.stdout.reconfigure(errors="hybridlm")


def _printable(error: UnicodeError) -> tuple[bytes, int]:
    """Bytes of a file name that aren't text as they are, and ? for what the encoding lacks."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    kept = (os.fsencode(char) if "\udc80" <= char <= "\udcff" else b"?" for char in text)
    return b"".join(kept), error.end


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("hybridlm")
    logger.handlers[:] = [handler]
    # Under torchrun only rank 0 tells what all ranks are doing.
    logger.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.ERROR)
    logger.propagate = False

"""`hybridlm completion`: what makes a shell complete hybridlm's commands and options."""

import shlex
from typing import Literal

import tyro

from hybridlm.cli.options import Described

Shell = Literal["bash", "zsh", "fish"]


def completion(shell: tyro.conf.Positional[Shell]) -> None:
    """Print what makes a shell complete hybridlm's commands, options and their values.

    The examples say where each shell looks for it. It is the same for all versions with the same options.

    Args:
        shell: The shell that it is for.
    """
    from hybridlm.cli.main import COMMANDS, find

    described: dict[str, Described] = {}
    for name in COMMANDS:
        command = find(name.split())
        assert command is not None
        described[name] = command.describe()
    print(_fish(described) if shell == "fish" else _bash(described, zsh=shell == "zsh"), end="")


def _first_words(commands: dict[str, Described]) -> list[str]:
    return list(dict.fromkeys(name.split()[0] for name in commands))


def _options(described: Described) -> list[str]:
    return [name for option in described.options for name in option.shown_names] + ["--help"]


def _bash(commands: dict[str, Described], *, zsh: bool) -> str:
    """For bash, and for zsh by its bashcompinit."""
    lines = ["#compdef hybridlm", "autoload -U +X bashcompinit && bashcompinit"] if zsh else []
    lines += [
        "_hybridlm() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}"',
        '    local command="${COMP_WORDS[1]}" words=""',
        '    case "$command ${COMP_WORDS[2]}" in',
    ]
    for name, described in commands.items():
        lines.append(f"    {shlex.quote(name + ' ') if ' ' not in name else shlex.quote(name)}*)")
        valued = [option for option in described.options if option.choices and option.names]
        if valued:
            lines.append('        case "$previous" in')
            for option in valued:
                names = "|".join(option.names)
                lines.append(f"        {names}) words={shlex.quote(' '.join(option.choices))} ;;")
            lines.append(f"        *) words={shlex.quote(' '.join(_options(described)))} ;;")
            lines.append("        esac ;;")
        else:
            placed = [choice for option in described.options if not option.names for choice in option.choices]
            lines.append(f"        words={shlex.quote(' '.join([*placed, *_options(described)]))} ;;")
    lines.append("    esac")
    lines.append('    if [ "$COMP_CWORD" -eq 1 ]; then')
    lines.append(f"        words={shlex.quote(' '.join(_first_words(commands)) + ' --help --version')}")
    lines.append('    elif [ "$COMP_CWORD" -eq 2 ]; then')
    lines.append('        case "$command" in')
    for group in _first_words(commands):
        seconds = [name.split()[1] for name in commands if name.startswith(group + " ")]
        if seconds:
            lines.append(f"        {group}) words={shlex.quote(' '.join(seconds))} ;;")
    lines += [
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
        "}",
        # Where nothing of ours fits, file names do.
        "complete -o default -F _hybridlm hybridlm",
        "",
    ]
    return "\n".join(lines)


def _fish(commands: dict[str, Described]) -> str:
    from hybridlm.cli.main import COMMANDS

    lines = []
    for word in _first_words(commands):
        text = COMMANDS[word][2] if word in COMMANDS else f"commands about {word}"
        lines.append(f"complete -c hybridlm -n __fish_use_subcommand -f -a {word} -d {shlex.quote(text)}")
    for name, described in commands.items():
        group, _, second = name.partition(" ")
        within = f"__fish_seen_subcommand_from {group}"
        if second:
            seconds = " ".join(other.split()[1] for other in commands if other.startswith(group + " "))
            alone = shlex.quote(f"{within}; and not __fish_seen_subcommand_from {seconds}")
            lines.append(
                f"complete -c hybridlm -n {alone} -f -a {second} -d {shlex.quote(COMMANDS[name][2])}"
            )
            within += f"; and __fish_seen_subcommand_from {second}"
        for option in described.options:
            parts = [f"complete -c hybridlm -n {shlex.quote(within)}"]
            for shown in option.shown_names:
                parts.append(f"-l {shown[2:]}" if shown.startswith("--") else f"-s {shown[1:]}")
            if option.choices:
                parts.append(f"-x -a {shlex.quote(' '.join(option.choices))}")
            elif option.value is not None and option.names:
                parts.append("-r")
            if option.names or option.choices:
                lines.append(" ".join([*parts, f"-d {shlex.quote(option.help[:80])}"]))
    return "\n".join(lines) + "\n"

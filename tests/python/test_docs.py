"""README.md and docs/: their Python runs, their links lead somewhere, and the commands they show exist."""

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

import hybridlm
from hybridlm.cli import main as cli
from hybridlm.scoring.experts import interface as experts
from hybridlm.scoring.mixtures import interface as mixtures

ROOT = Path(__file__).parents[2]
REPOSITORY = "https://github.com/hybridlm/hybridlm"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if blocks(text, "python")])
def test_the_python_of_a_page_runs_from_top_to_bottom(
    name: str, example_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example_folder)
    # What a page registers is gone after the test.
    monkeypatch.setattr(experts, "_ONLINE", list(experts._ONLINE))
    monkeypatch.setattr(mixtures, "_MIXTURES", dict(mixtures._MIXTURES))
    names: dict[str, object] = {}
    for block in blocks(TEXTS[name], "python"):
        exec(compile(block, name, "exec"), names)
    if name == "docs/python.md":
        assert 0 < names["bits_per_byte"] < 8  # type: ignore[operator]


def links(text: str) -> list[str]:
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"\]\((?!<)([^()\s]+)\)", text) + re.findall(r"^\[[^\]]+\]: (\S+)$", text, re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "CHANGELOG.md"])
def test_files_that_a_page_names_exist(name: str) -> None:
    named = re.findall(r"`((?:benches|examples|fuzz|python|rust|scripts|tests)/[\w./-]*)", TEXTS[name])
    # Where an sdist is tried by its tests, the package is the one that was installed.
    package = Path(hybridlm.__file__).parent
    inside = "python/hybridlm/"
    places = {
        path: package / path.removeprefix(inside) if path.startswith(inside) else ROOT / path
        for path in named
    }
    assert [path for path, place in places.items() if not place.exists()] == []


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_to_files_and_headings_that_exist(name: str) -> None:
    for link in links(TEXTS[name]):
        target, _, anchor = link.partition("#")
        if target.startswith(REPOSITORY):
            found = re.fullmatch(rf"{REPOSITORY}/(?:blob|tree)/main/(.+)", target)
            path = None if found is None else ROOT / found[1]
        else:
            path = None if "://" in target else (ROOT / name).parent / target if target else ROOT / name
        if path is not None:
            assert path.exists(), link
            if anchor:
                assert anchor in anchors(path.read_text(encoding="utf-8")), link


def test_the_readme_has_no_relative_links() -> None:
    """A package index shows it, where they would lead nowhere."""
    assert [link for link in links(TEXTS["README.md"]) if "://" not in link] == []


def test_every_link_of_the_readme_by_name_is_defined_and_used() -> None:
    text = re.sub(r"```.*?```", "", TEXTS["README.md"], flags=re.DOTALL)
    defined = {label.lower() for label in re.findall(r"^\[([^\]]+)\]: ", text, re.MULTILINE)}
    used = re.findall(r"\[([^\][]+)\](?![:(\[])|\[[^\][]+\]\[([^\][]+)\]", text)
    assert {" ".join((short or named).lower().split()) for short, named in used} == defined


@cache
def help_of(name: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli.main([*name.split(), "--help"]) == 0
    return out.getvalue()


def shown_commands() -> Iterator[tuple[str, list[str]]]:
    """Pages and the words of each `hybridlm` line in their blocks of shell."""
    for name, text in TEXTS.items():
        indented = re.findall(r"^    (.*\n)", text, re.MULTILINE)
        shell = "".join([*blocks(text, "sh"), *indented])
        for line in shell.replace("\\\n", " ").splitlines():
            if line.startswith("hybridlm "):
                yield name, shlex.split(line, comments=True)[1:]


def test_shown_commands_and_their_options_exist() -> None:
    shown = list(shown_commands())
    assert len(shown) > 15
    for page, words in shown:
        command = cli.find(words)
        assert command is not None, (page, words)
        for word in words:
            if word.startswith("-"):
                option = re.escape(word.partition("=")[0])
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(command.name)), (page, words, word)


def test_the_sites_contents_list_every_page_once() -> None:
    def pages(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]  # type: ignore[attr-defined]

    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    listed = pages(nav)
    assert sorted(listed) == sorted(page.name for page in (ROOT / "docs").glob("*.md"))


def test_the_api_page_has_every_public_name() -> None:
    shown = re.findall(r"^::: hybridlm\.(\w+)$", TEXTS["docs/api.md"], re.MULTILINE)
    assert sorted(shown) == sorted(set(hybridlm.__all__) - {"__version__"})

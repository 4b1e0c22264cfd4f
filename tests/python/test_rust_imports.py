"""The files of the Rust crate import each other in one direction only."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SOURCES = Path(__file__).parents[2] / "rust" / "src"


def module_of(file: Path) -> tuple[str, ...]:
    """The path of the module that a file is: ("oracle", "sparse", "trie")."""
    parts = file.relative_to(SOURCES).with_suffix("").parts
    return parts[:-1] if parts[-1] in ("mod", "lib") else parts


def leaves(text: str) -> list[str]:
    """The paths in ``a::{b, c::{d, self}}``."""
    head, brace, rest = text.partition("{")
    if not brace:
        return [text.strip()]
    depth, items, item = 0, [], ""
    for character in rest:
        if character == "," and depth == 0:
            items.append(item)
            item = ""
            continue
        if character == "}" and depth == 0:
            break
        depth += {"{": 1, "}": -1}.get(character, 0)
        item += character
    return [head.strip() + leaf for part in [*items, item] if part.strip() for leaf in leaves(part.strip())]


def paths(source: str) -> list[str]:
    """Every path in a file's code that starts at crate, super or self."""
    code = re.sub(r"//[^\n]*", "", source.split("#[cfg(test)]")[0])
    found: list[str] = []
    end = 0
    for match in re.finditer(r"\b(?:crate|super|self)::", code):
        if match.start() < end:
            continue  # within a path that has been read
        end = match.end()
        while re.match(r"[\w:]", code[end : end + 1]):
            end += 1
        depth = 0
        while code[end : end + 1] == "{" or depth:
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        found += leaves(code[match.start() : end])
    return found


def resolve(path: str, here: tuple[str, ...], modules: set[tuple[str, ...]]) -> tuple[str, ...]:
    """The module that a path names, or that it names something of."""
    parts = path.split("::")
    where: tuple[str, ...]
    if parts[0] == "crate":
        where, parts = (), parts[1:]
    else:
        where = here
        while parts and parts[0] in ("self", "super"):
            where = where[:-1] if parts[0] == "super" else where
            parts = parts[1:]
    for part in parts:
        if (*where, part) not in modules:
            break
        where = (*where, part)
    return where


def children(source: str) -> list[str]:
    """The modules that a file declares and takes something of, as in ``mod a; pub use a::B;``."""
    code = re.sub(r"//[^\n]*", "", source)
    declared = re.findall(r"\bmod (\w+);", code)
    return [name for name in declared if re.search(rf"(?<![\w:]){name}::", code)]


def imports() -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    files = {module_of(file): file for file in SOURCES.rglob("*.rs")}
    graph = {}
    for module, file in files.items():
        used = {resolve(path, module, set(files)) for path in paths(file.read_text())}
        used |= {(*module, name) for name in children(file.read_text())}
        # `crate::Error` and `crate::Result`, which lib.rs passes on from error.rs.
        graph[module] = {("error",) if other == () else other for other in used} - {module}
    return graph


def test_no_file_imports_itself_through_others() -> None:
    graph = imports()
    assert len(graph) > 60 and graph["oracle", "sparse", "build"] >= {("oracle", "sparse", "prune")}
    assert graph["codec",] >= {("codec", "segment"), ("parallel",)}
    del graph[()]  # the root is nobody's import: see above
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " -> ".join("::".join(module) for module in error.args[1])
        raise AssertionError(f"a circle of imports: {circle}") from None


def test_the_walk_sees_every_way_to_write_a_path() -> None:
    source = """
    use crate::{a::{self, B}, c::d};
    use super::e; // use crate::not_this;
    fn f() -> crate::g::H { super::super::i::j() }
    """
    assert paths(source) == [
        "crate::a::self",
        "crate::a::B",
        "crate::c::d",
        "super::e",
        "crate::g::H",
        "super::super::i::j",
    ]

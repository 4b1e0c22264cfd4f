"""Data flows one way: no module of the package imports, even late or for its types, what imports it."""

import ast
import graphlib
from pathlib import Path

import pytest

import hybridlm

PACKAGE = Path(hybridlm.__file__).parent


def module_name(path: Path) -> str:
    parts = ["hybridlm", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """All of the package's modules that ``path`` imports, anywhere in its text.

    ``from package import name`` is an import of the module ``package.name`` if there is one. A package is
    imported by importing what is in it, which is no dependency on it.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}: a relative import"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & modules
            if names - modules:
                found.add(node.module)
    return found & modules


def test_there_is_no_circle_of_imports() -> None:
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: imports_of(path, set(files)) for name, path in files.items()}
    # The package itself hands out what is in it by name, lazily, and says its version.
    graph["hybridlm"] = set()
    assert len(graph) > 60 and graph["hybridlm.cli.evaluate"], "this test looks at something"
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"these import each other: {' <- '.join(error.args[1])}")


def test_no_clock_that_can_be_set_is_asked() -> None:
    """Durations are measured by clocks that only go forward: whoever sets the date ends no run by it."""
    package = Path(hybridlm.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = f"{node.value.id}.{node.attr}"
                if name in {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "date.today"}:
                    found.append(f"{path.relative_to(package)}:{node.lineno}: {name}")
    rust = package.parents[1] / "rust" / "src"
    found += [str(path) for path in rust.rglob("*.rs") if "SystemTime" in path.read_text()]
    assert not found


NETWORK = {
    "aiohttp",
    "ftplib",
    "http",
    "httpx",
    "huggingface_hub",
    "ray",
    "requests",
    "smtplib",
    "socket",
    "ssl",
    "urllib",
}
ASKED = {
    "data/hub.py": "data fetch",
    "oracle/ray_cluster.py": "--engine ray",
    "distributed.py": "torchrun's processes among themselves",
    "train/launch.py": "train --processes N",
    "doctor.py": "whether the above would work, without connecting",
}
"""What uses a network, and what a user says for it."""


def test_no_network_is_used_but_where_it_was_asked_for() -> None:
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] in NETWORK or name.startswith("torch.distributed") for name in names):
                found.add(path.relative_to(PACKAGE).as_posix())
    assert found == ASKED.keys()
    rust = PACKAGE.parents[1] / "rust" / "src"
    assert not [path for path in rust.rglob("*.rs") if "std::net" in path.read_text()]

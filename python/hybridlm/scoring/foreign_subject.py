"""The audit's view of somebody else's scorer: a Python object with a few methods, named ``module:factory``.

The factory is called as ``factory(vocab_size, first)``, as often as the audit needs a scorer that has seen
nothing but the stream's first token, and returns an object with these methods:

``score(tokens) -> [n]``
    The nats that each of the next n tokens (uint16 [n]) of the stream costs, given all tokens before it. The
    scorer learns from them whatever it learns.
``row() -> [V]``
    ln p of each possible next token. It must leave nothing behind.
``fingerprint() -> Mapping[str, bytes]`` (may be left out)
    By component, a hash of all that later scores depend on.
``evaluate(tokens) -> [N − 1]`` (may be left out)
    The whole evaluation as it is reported, of the whole stream (uint16 [N], its first token ``first``), by a
    scorer that has done nothing else. With it, what an evaluation does with text that it has in its hands, a
    warm-up or a second pass, is audited, too. Without it the audit calls ``score`` piece by piece.

docs/audit.md has an example.
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hybridlm.arrays import as_numpy
from hybridlm.errors import InputError
from hybridlm.scoring.audit import Tokens

Factory = Callable[[int, int], Any]
T = TypeVar("T")


class ForeignSubject:
    """What ``factory`` makes; ``name`` stands for it in errors."""

    def __init__(self, name: str, factory: Factory, vocab_size: int) -> None:
        self.name = name
        self.vocab_size = vocab_size
        self._factory = factory
        self.has_evaluate = hasattr(self.start(0), "evaluate")

    def start(self, first: int) -> Any:
        made = self.call(self._factory, self.vocab_size, first)
        if missing := [name for name in ("score", "row") if not callable(getattr(made, name, None))]:
            raise InputError(
                f"{self.name}: what it returns, {type(made).__name__}, has no method "
                f"{' and no '.join(missing)}"
            )
        return made

    def scorer(self) -> "ForeignScorer":
        return ForeignScorer(self)

    def run(self, stream: Tokens, chunk: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
        if self.has_evaluate:
            # Copies, so that nobody's array is written to.
            found = self.call(self.start(int(stream[0])).evaluate, stream.copy())
            yield 1, self.checked(found, "evaluate", len(stream) - 1)
            return
        scorer = self.scorer()
        for start in range(1, len(stream), chunk):
            yield start, scorer.score(stream[: start + chunk], start)

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """Calls foreign code. Raises InputError, in one line, for whatever it raises."""
        try:
            return function(*arguments)
        except Exception as error:
            *_, last = traceback.extract_tb(error.__traceback__)
            raise InputError(
                f"{self.name}: {type(error).__name__}: {error} "
                f"({last.filename}:{last.lineno}, in {last.name})"
            ) from error

    def checked(self, values: Any, method: str, length: int) -> NDArray[np.float64]:
        found = as_numpy(values)
        if found.shape != (length,) or not np.issubdtype(found.dtype, np.floating):
            raise InputError(
                f"{self.name}: {method} must return {length} floating-point numbers, not {found.dtype} of "
                f"shape {found.shape}"
            )
        return np.array(found, np.float64)


class ForeignScorer:
    """One scorer of a `ForeignSubject`, made when the stream's first token is known."""

    def __init__(self, subject: ForeignSubject) -> None:
        self._subject = subject
        self._scorer: Any = None

    def score(self, stream: Tokens, start: int) -> NDArray[np.float64]:
        if self._scorer is None:
            self._scorer = self._subject.start(int(stream[0]))
        if start == len(stream):
            return np.empty(0)
        found = self._subject.call(self._scorer.score, stream[start:].copy())
        return self._subject.checked(found, "score", len(stream) - start)

    def row(self, stream: Tokens) -> NDArray[np.float64]:
        return self._subject.checked(self._subject.call(self._scorer.row), "row", self._subject.vocab_size)

    def learn(self, stream: Tokens, start: int) -> None:
        """A foreign scorer learns when it scores."""

    def fingerprint(self) -> Mapping[str, bytes]:
        if not hasattr(self._scorer, "fingerprint"):
            return {}
        found: Mapping[str, bytes] = self._subject.call(self._scorer.fingerprint)
        if not isinstance(found, Mapping):
            raise InputError(f"{self._subject.name}: fingerprint must return bytes by component")
        return dict(found)


def load_subject(name: str, vocab_size: int) -> ForeignSubject:
    """The subject that ``module:factory`` or ``file.py:factory`` names; modules are found from the current
    folder as well. Runs what it imports. Raises InputError."""
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name or not attribute:
        raise InputError(f"{name}: a subject is named module:factory or file.py:factory")
    try:
        module = _file(Path(module_name)) if module_name.endswith(".py") else _module(module_name)
    except Exception as error:
        raise InputError(f"{name}: can't be imported: {type(error).__name__}: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise InputError(f"{name}: {module_name} has no function or class {attribute}")
    return ForeignSubject(name, factory, vocab_size)


def _module(name: str) -> ModuleType:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # As when it is imported by name: dataclasses look their module up here.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module

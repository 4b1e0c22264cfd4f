"""The names that `import hybridlm` offers: there, documented, lazy, and their examples true."""

import doctest
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hybridlm
from hybridlm.data.tokenizer import Tokenizer

OBJECTS = [name for name in hybridlm.__all__ if not inspect.ismodule(getattr(hybridlm, name))]
OBJECTS.remove("__version__")


@pytest.mark.parametrize("name", OBJECTS)
def test_examples_say_what_happens(name: str, example_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(example_folder)
    shown = getattr(hybridlm, name)
    names = {"hybridlm": hybridlm, "np": np, "Path": Path}
    (test,) = doctest.DocTestFinder(recurse=False).find(shown, name, globs=names)
    assert test.examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_public_names_are_there_and_no_others_are_shown() -> None:
    assert dir(hybridlm) == sorted(hybridlm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        hybridlm.nothing  # noqa: B018


def test_a_path_or_a_tokenizer_in_an_object_s_place_is_told_how_to_get_one(
    example_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(example_folder)
    tokenizer = hybridlm.Tokenizer.load("tok.model")
    oracle = hybridlm.Oracle.from_file("oracle.ngsp")
    artifact = hybridlm.bundle(None, oracle.to_bytes(), tokenizer)
    shards: Any = ["data/text_val_000000.bin"]
    wrong: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], str]] = [
        (hybridlm.open_stream, (shards, tokenizer), {}, "Vocabulary, not Tokenizer: a tokenizer's .vocab"),
        (hybridlm.OracleBuilder, (tokenizer,), {}, "Vocabulary, not Tokenizer"),
        (hybridlm.Oracle.from_arpa, ("oracle.arpa", tokenizer), {}, "Vocabulary, not Tokenizer"),
        (hybridlm.Scorer, (512,), {"oracle": "oracle.ngsp"}, r"Oracle, not str: Oracle\.from_file"),
        (hybridlm.evaluate, ("artifact.pgar", shards, tokenizer), {}, r"Artifact, not str: Artifact\.from"),
        (hybridlm.evaluate, (artifact, shards, "tok.model"), {}, r"Tokenizer, not str: Tokenizer\.load"),
        (hybridlm.Codec, ("artifact.pgar", tokenizer), {}, "Artifact, not str"),
        (hybridlm.Codec, (artifact, Path("tok.model")), {}, "Tokenizer, not PosixPath"),
        (hybridlm.Generator, (oracle, tokenizer), {}, "Artifact, not Oracle"),
        (hybridlm.generate, (artifact, "tok.model"), {}, "Tokenizer, not str"),
        (
            hybridlm.bundle,
            (None, oracle, tokenizer),
            {},
            r"bytes, as Oracle\.to_bytes\(\) gives them, not Oracle",
        ),
        (hybridlm.bundle, (None, oracle.to_bytes(), "tok.model"), {}, "Tokenizer, not str"),
    ]
    for function, arguments, options, message in wrong:
        with pytest.raises(TypeError, match=message):
            function(*arguments, **options)
    with pytest.raises(FileNotFoundError) as missing:
        hybridlm.Tokenizer.load(Path("none.model"))
    assert str(missing.value).endswith(": 'none.model'")


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    """No torch until a neural thing is touched; no NumPy for the package itself."""
    program = """
import sys, hybridlm
assert "numpy" not in sys.modules and "hybridlm._core" not in sys.modules
for name in hybridlm.__all__:
    getattr(hybridlm, name)
assert "torch" not in sys.modules and "ray" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_builder_takes_the_same_array_twice_and_says_nothing_of_sidecars(
    tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    document = np.append(np.uint16(tokenizer.bos_id), tokenizer.encode("a document that is there twice"))
    other = np.append(np.uint16(tokenizer.bos_id), tokenizer.encode("and another"))
    oracles = []
    for arrays in ([document, other, document], [np.concatenate([document, document]), other]):
        builder = hybridlm.OracleBuilder(tokenizer.vocabulary, order=3)
        for array in arrays:
            builder.add(array)
        oracles.append(builder.build(max_bytes=3000).to_bytes())
    assert oracles[0] == oracles[1]
    assert not caplog.records

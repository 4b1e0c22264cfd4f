import ast
import inspect
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from hybridlm.data import installed_text
from hybridlm.data.documents import Document, _shingles, split
from hybridlm.data.installed_text import documentation_strings, installed_documents, is_prose, prose

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(installed_documents())


def test_there_is_enough_english_to_train_on(documents: list[Document]) -> None:
    """The language reference alone gives 0.3 MB, the standard library and NumPy over a megabyte more."""
    sources = {document.source for document in documents}
    assert sum(len(document.text) for document in documents) > 2_000_000
    assert len(documents) > 500
    assert any(source.startswith("help:") for source in sources)
    assert {"json/__init__.py", "numpy/__init__.py", "torch/_torch_docs.py"} <= sources
    assert not any("/tests/" in source for source in sources)
    assert all(document.text.strip() for document in documents)


def test_nothing_of_the_validation_text_is_in_the_training_text(documents: list[Document]) -> None:
    train, val = (
        [paragraph for document in side for paragraph in document.text.split("\n\n")]
        for side in split(documents, 0.05)
    )
    shingles, owner = _shingles([*train, *val])
    of_val = owner >= len(train)
    copied = np.isin(shingles[of_val], shingles[~of_val]).mean()
    assert copied < 0.05, "eight words in a row that training has seen"


def test_the_same_documents_in_any_process_and_nothing_is_imported() -> None:
    script = (
        "import hashlib, sys\n"
        "from hybridlm.data import installed_text\n"
        "installed_text._dependencies = lambda name: []\n"
        "digest = hashlib.sha256()\n"
        "for document in installed_text.installed_documents():\n"
        "    digest.update(repr(document).encode())\n"
        "assert not {'antigravity', 'this', 'torch', 'tkinter'} & set(sys.modules)\n"
        "print(digest.hexdigest())\n"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_dependencies_are_found_through_their_names() -> None:
    found = [
        distribution.metadata["Name"].lower() for distribution in installed_text._dependencies("hybridlm")
    ]
    assert {"numpy", "torch", "sentencepiece", "rich"} <= set(found)
    assert "hybridlm" not in found
    assert "pytest" not in found, "only what an extra asks for"
    assert found == sorted(found)


@pytest.mark.parametrize("package", ["json", "email", "asyncio", "unittest", "logging"])
def test_every_docstring_is_found(package: str) -> None:
    """Against Python's own parser, on the standard library."""
    folder = Path(sysconfig.get_path("stdlib")) / package
    seen = 0
    for path in folder.glob("*.py"):
        source = path.read_text(encoding="utf-8")
        lines = source.split("\n")
        found = {inspect.cleandoc(string) for string in documentation_strings(source)}
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            documentation = ast.get_docstring(node)
            if documentation and lines[node.body[0].lineno - 1].lstrip(" rRuU").startswith(('"""', "'''")):
                assert documentation in found
                seen += 1
    assert seen > 5


def test_only_text_literals_count() -> None:
    source = '''
"""module"""
x = "not # a comment"  # nor """this""" a string
def f():
    r"""raw \\n stays"""
    y = f"""formatted {x}"""
    z = b"""bytes"""
    w = 'a """ b'
    add(f, """handed
over""")
    return"""closely"""
\'\'\'single \\'quoted\\' and
""" within\'\'\'
""" unterminated
'''
    assert documentation_strings(source) == [
        "module",
        "raw \\n stays",
        "handed\nover",
        "closely",
        'single \'quoted\' and\n""" within',
    ]


def test_prose_is_kept_and_the_rest_is_not() -> None:
    text = """add(a, b, *, out=None) -> Tensor

    Adds :attr:`other`, scaled by ``alpha``, to the *input* and returns a **new**
    tensor; see :func:`~torch.mul` and `the book <https://example.org>`_.

    .. math::
        out_i = input_i + alpha * other_i for all of the i in it that there are

    .. note:: The shapes of the two must be such that one
        can be broadcast to the other.

    Parameters
    ----------
    a : the first of the two numbers to be added

    The next lines are an example of how it is used::

        this is code although it reads as if it were a sentence of the language

    >>> add(1, 2) # the sum of the two is what is shown
    3

    ==== ====
    a    b
    ==== ====

    That was all there is to say about it.
    """
    assert prose(text) == [
        "Adds other, scaled by alpha, to the input and returns a new tensor; see torch.mul and the book.",
        "The shapes of the two must be such that one can be broadcast to the other.",
        "Parameters a : the first of the two numbers to be added",
        "The next lines are an example of how it is used:",
        "That was all there is to say about it.",
    ]


@pytest.mark.parametrize(
    "paragraph",
    [
        "for i in range(10): x[i] = y[i] + z[i] if x else 0",
        "Short words only",
        "Tensor Tensor Tensor float int Optional bool str None",
        "0.1 0.2 0.3 of 0.4 the 0.5 a 0.6 and 0.7 to 0.8",
        "",
    ],
)
def test_what_is_not_prose(paragraph: str) -> None:
    assert not is_prose(paragraph)

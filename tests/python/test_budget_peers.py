"""benches/python/budget_peers.py: what other programs make of a training text within a budget of bytes."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hybridlm.data.shards import read_stream
from hybridlm.data.tokenizer import BOS, Tokenizer

BENCHES = Path(__file__).parents[2] / "benches" / "python"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="runs programs without an .exe")

# An order-0 model that counts as it reads, each byte once beforehand: as many bytes as its code is long.
COUNTS_BYTES = """
import math, sys
counts, total, bits = [1] * 256, 256, 0.0
for byte in open(sys.argv[1], "rb").read():
    bits -= math.log2(counts[byte] / total)
    counts[byte] += 1
    total += 1
open(sys.argv[2], "wb").write(bytes(round(bits / 8)))
"""

# Unigrams by their shares, and as many blank lines before them as n-grams would take that are not pruned.
LMPLZ = """
import collections, math, sys
lines = sys.stdin.read().splitlines()
counts = collections.Counter(word for line in lines for word in [*line.split(), "</s>"])
print("\\n" * {"": 9000, "0 0 1": 4000, "0 0 2": 2000}[" ".join(sys.argv[8:])])
print(f"\\\\data\\\\\\nngram 1={len(counts) + 2}\\nngram 2=1\\n\\n\\\\1-grams:")
print("-9\\t<unk>\\t0\\n-99\\t<s>\\t0")
for word, count in counts.items():
    print(f"{math.log10(count / sum(counts.values())):.7f}\\t{word}\\t0")
print("\\n\\\\2-grams:\\n-9\\t<s> <unk>\\n\\n\\\\end\\\\")
"""

COPY_LAST = "import shutil, sys\nshutil.copy(sys.argv[-2], sys.argv[-1])"

# Prints what a text takes after another, by compressing both and by going on in forks.
FORKS = """
import json, sys, zlib
from budget_peers import Text, anew, forked, primed

class Deflate:
    def __init__(self):
        self.made = zlib.compressobj(9)
        self.encode, self.flush = self.made.compress, self.made.flush

class Fails(Deflate):
    def __init__(self):
        super().__init__()
        self.flush = None

training, texts = Text("t", sys.argv[1:-2]), [Text("v", sys.argv[-2:]), Text("w", sys.argv[1:2])]
ways = {"anew": anew(lambda data: zlib.compress(data, 9)), "forked": forked(Deflate)}
try:
    from pyppmd import Ppmd8Encoder, compress
except ImportError:
    pass
else:
    ways["PPMd anew"] = anew(lambda data: compress(data, max_order=16, mem_size=10_000_000))
    ways["PPMd forked"] = forked(lambda: Ppmd8Encoder(16, 10_000_000))
for budget in (1000, 100_000):
    for name, begin in ways.items():
        row = primed(begin, training, budget, texts)
        print(json.dumps([row[key] for key in ("bytes_shipped", "settings")]
            + [text["bits_per_byte"] for text in row["texts"].values()]))
primed(forked(Fails), training, 1000, texts)
"""


def documents(file: Path, texts: list[str]) -> Path:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return file


def program(file: Path, source: str) -> Path:
    file.write_text(f"#!{sys.executable}\n{source}")
    file.chmod(0o755)
    return file


def run(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    found = subprocess.run(
        [sys.executable, BENCHES / "budget_peers.py", *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == code, found.stdout + found.stderr
    return found


def rows(file: Path) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in json.loads(file.read_text())["rows"]}


def test_a_text_costs_what_it_adds_to_the_training_text(tmp_path: Path) -> None:
    """By a compressor whose code can be worked out, and the bytes of joints are not a text's."""
    train = documents(tmp_path / "train.jsonl", ["abab" * 20, "bbbé" * 20])
    val = documents(tmp_path / "val.jsonl", ["abba" * 30, "é" * 50])
    counts_bytes = program(tmp_path / "counts", COUNTS_BYTES)
    arguments = [train, "--text", f"a text={val}", "--json", tmp_path / "out.json", "--ppmd-orders", 6]
    peers = ["--peer", "counts", f"{counts_bytes} INPUT OUTPUT", "--peer", "copy", "cp INPUT OUTPUT"]
    blind = ["--unprimed", "blind", "cp INPUT OUTPUT", "--unprimed-bytes", 100]
    table = run(*arguments, *peers, *blind, "--only", "counts", "copy", "blind").stdout
    found = rows(tmp_path / "out.json")

    before = ("abab" * 20 + "\n\n" + "bbbé" * 20 + "\n\n").encode()
    counts, total, bits = Counter(before), 256 + len(before), 0.0
    for byte in ("abba" * 30 + "\n\n" + "é" * 50 + "\n\n").encode():
        bits -= math.log2((counts[byte] + 1) / total)
        counts[byte] += 1
        total += 1
    size = 120 + 100
    # Rounded to bytes twice.
    assert found["counts"]["texts"]["a text"]["bits_per_byte"] == pytest.approx(bits / size, abs=8 / size)
    assert found["copy"]["texts"]["a text"]["bits_per_byte"] == pytest.approx(8 * (size + 4) / size, abs=1e-6)
    assert found["copy"]["bytes_shipped"] == len(before)
    assert found["copy"]["settings"] == {"training_share": 1}
    assert found["blind"]["texts"]["a text"]["bytes"] == 100 and found["blind"]["bytes_shipped"] == 0
    assert f"| copy | {len(before)} | 0 | {8 * (size + 4) / size:.4f} |" in table


def test_of_a_training_text_above_the_budget_the_last_documents_are_shipped(tmp_path: Path) -> None:
    train = documents(tmp_path / "train.jsonl", [f"document {at} has so many bytes" for at in range(90)])
    val = documents(tmp_path / "val.jsonl", ["nothing of it"])
    peers = ["--peer", "copy", "cp INPUT OUTPUT"]
    arguments = [train, "--text", f"v={val}", "--json", tmp_path / "out.json", "--ppmd-orders", 6, *peers]
    run(*arguments, "--budget", 100, "--only", "copy")
    shipped = rows(tmp_path / "out.json")["copy"]["bytes_shipped"]
    assert shipped == 3 * len("document 88 has so many bytes\n\n")
    run(*arguments, "--budget", 100, "--only", "copy", "--peer-training", 95)
    assert rows(tmp_path / "out.json")["copy"]["bytes_shipped"] == shipped
    table = run(*arguments, "--budget", 100, "--only", "copy", "--peer-training", 70).stdout
    assert rows(tmp_path / "out.json")["copy"]["bytes_shipped"] == shipped * 2 / 3
    assert "| copy | 62 (2% of the text) |" in table
    # Rows of other texts or budgets don't stand together.
    assert "name another file" in run(*arguments, "--budget", 101, "--only", "copy", code=2).stderr
    (tmp_path / "out.json").unlink()
    run(*arguments, "--budget", 10, "--only", "copy")
    assert rows(tmp_path / "out.json")["copy"]["bytes_shipped"] == 0


def test_compressors_know_what_they_were_primed_with(tmp_path: Path, corpus: list[str]) -> None:
    """What is in the training text costs next to nothing; rows are kept from one call to the next."""
    train = documents(tmp_path / "train.jsonl", corpus)
    seen = documents(tmp_path / "seen.jsonl", corpus[5:25])
    unseen = documents(
        tmp_path / "unseen.jsonl", ["Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich"]
    )
    texts = ["--text", f"seen={seen}", f"unseen={unseen}", "--tune", unseen, "--ppmd-memory", 100_000_000]
    arguments = [train, *texts, "--json", tmp_path / "out.json", "--budget", 1_000_000]
    run(*arguments, "--only", "xz -9e")
    said = run(*arguments).stderr
    found = rows(tmp_path / "out.json")
    left_out = json.loads((tmp_path / "out.json").read_text())["left_out"]
    assert "KenLM, trie" in left_out and "KenLM, trie is left out" in said
    assert {*found, *left_out} == {
        "PPMd", "KenLM, trie", "KenLM, estimated there", "zstd -22, dictionary", "zstd -22", "xz -9e"
    }  # fmt: skip
    assert "xz -9e" in found
    for row in found.values():
        assert 0 < row["bytes_shipped"] <= 1_000_000
        bits = {name: text["bits_per_byte"] for name, text in row["texts"].items()}
        assert bits["seen"] < 1 < bits["unseen"]


def test_an_encoder_that_goes_on_in_forks_makes_what_it_makes_of_both(corpus: list[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-c", FORKS, *(text[:3000] for text in corpus[:12])],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(BENCHES)},
    )  # fmt: skip
    lines = found.stdout.splitlines()
    assert len(lines) in (4, 8), found.stderr
    assert lines[::2] == lines[1::2]
    shares = [json.loads(line)[1]["training_share"] for line in lines]
    assert 0 < shares[0] < 0.5 and shares[-1] == 1
    # A fork that fails has no size.
    assert found.returncode == 1 and "ended without a result" in found.stderr


def test_kenlm_ships_the_mildest_pruning_that_fits(
    tmp_path: Path, shards: list[str], tokenizer_path: Path, tokenizer: Tokenizer, corpus: list[str]
) -> None:
    """By stand-ins for lmplz and build_binary whose model is one of shares of tokens."""
    pytest.importorskip("kenlm")
    val = documents(tmp_path / "val.jsonl", corpus[:7])
    lmplz = program(tmp_path / "lmplz", LMPLZ)
    build_binary = program(tmp_path / "build_binary", COPY_LAST)
    programs = ["--lmplz", lmplz, "--build-binary", build_binary, "--prune", "", "0 0 1", "0 0 2"]
    arguments = [
        documents(tmp_path / "train.jsonl", corpus), "--text", f"v={val}", "--ppmd-orders", 6,
        "--shards", *shards, "--tokenizer", tokenizer_path, *programs, "--json", tmp_path / "out.json",
        "--budget", 10_000, "--only",
    ]  # fmt: skip
    run(*arguments, "KenLM, trie")
    found = rows(tmp_path / "out.json")["KenLM, trie"]
    assert found["settings"]["prune"] == "0 0 1" and 4000 < found["bytes_shipped"] < 9000

    # A beginning here is the end of the document before; the first one follows none.
    counts = Counter(np.concatenate([read_stream([Path(path)], 512) for path in shards]).tolist())
    scored = [token for text in corpus[:7] for token in [*tokenizer.encode(text).tolist(), BOS]]
    bits = -sum(math.log2(counts[token] / counts.total()) for token in scored)
    assert found["texts"]["v"]["bits_per_byte"] == pytest.approx(
        bits / sum(len(text.encode()) for text in corpus[:7]), rel=1e-5
    )
    assert found["texts"]["v"]["unknown"] == 0

    # What is estimated where the text is shipped takes the bytes that PPMd packs the text into.
    assert "has not been packed" in run(*arguments, "KenLM, estimated there").stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert "KenLM, estimated there" in result["left_out"]
    packed = {"settings": {"training_share": 1.0}, "bytes_shipped": 9999, "make_seconds": 100.0}
    result["rows"].append({**found, "method": "PPMd", **packed})
    (tmp_path / "out.json").write_text(json.dumps(result))
    run(*arguments, "KenLM, estimated there")
    there = rows(tmp_path / "out.json")["KenLM, estimated there"]
    assert there["texts"]["v"]["bits_per_byte"] == found["texts"]["v"]["bits_per_byte"]
    assert there["bytes_shipped"] == 9999 and there["make_seconds"] > 100
    assert not json.loads((tmp_path / "out.json").read_text())["left_out"]


def test_kenlm_is_left_out_where_nothing_fits(
    tmp_path: Path, shards: list[str], tokenizer_path: Path, corpus: list[str]
) -> None:
    pytest.importorskip("kenlm")
    val = documents(tmp_path / "val.jsonl", corpus[:2])
    lmplz = program(tmp_path / "lmplz", LMPLZ)
    build_binary = program(tmp_path / "build_binary", COPY_LAST)
    found = run(
        val, "--text", f"v={val}", "--ppmd-orders", 6, "--shards", *shards, "--tokenizer", tokenizer_path,
        "--lmplz", lmplz, "--build-binary", build_binary, "--prune", "", "0 0 2", "--budget", 1000,
        "--only", "KenLM, trie",
    )  # fmt: skip
    assert "no trie fits the budget" in found.stderr
    # A program that fails is named, with what it says.
    program(lmplz, 'import sys\nsys.exit("no room")')
    found = run(
        val, "--text", f"v={val}", "--ppmd-orders", 6, "--shards", *shards, "--tokenizer", tokenizer_path,
        "--lmplz", lmplz, "--build-binary", build_binary, "--only", "KenLM, trie", code=1,
    )  # fmt: skip
    assert "lmplz ended with 1: no room" in found.stderr and "Traceback" not in found.stderr


def test_no_benchmark_hides_a_module_of_python() -> None:
    """A program's own folder comes first where it looks for modules."""
    names = {path.stem for path in BENCHES.glob("*.py")}
    # Python 3.14 has `compression`, which its lzma and shutil import.
    assert not names & ({*sys.stdlib_module_names} | {"compression"})

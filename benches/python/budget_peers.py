"""What other programs make of the same training text, if no more than a budget of bytes is shipped.

    python benches/python/budget_peers.py TRAIN.jsonl --text documentation=DOCS.jsonl 'web text=WEB.jsonl' \\
        --tune TUNE.jsonl --shards 'train/*.bin' --tokenizer tok.model [--budget 16000000] [--json OUT] \\
        [--peer 'lpaq1 9' './lpaq1 9 INPUT OUTPUT'] [--unprimed 'paq8px -8' './paq8px -8 INPUT OUTPUT']

Bits per byte of each text, where a byte is one of its documents' UTF-8. Programs and tokenizers are not
counted among the bytes shipped.

A compressor reads documents that end in a blank line each, whose two bytes are not counted as text: so it
pays for the end of a document, as a predictor of tokens does. It is *primed*: what is shipped is the training
text, compressed by the same program, or the last part of it that the budget has room for. Who has that
decompresses it first and goes on from there, so a text takes size(compress(training + text)) -
size(compress(training)). With `zstd -22, dictionary`, the last bytes of the training text, as many as the
budget has, are shipped as they are, for a raw dictionary. PPMd's order is the best of --ppmd-orders on
--tune, a text that is not reported; that its memory is never full is tried by giving it more. Any other
program is a --peer: a name and a command in which INPUT and OUTPUT stand for files. Slow ones can be given
the last --peer-training bytes of the training text alone, or be --unprimed: on each text's first
--unprimed-bytes, knowing nothing.

KenLM estimates modified Kneser-Ney of the tokens of --shards, as words, and is scored on the same events as
our predictors: the tokens of every document of the texts, and its end. `KenLM, trie` ships the quantised trie
(-q 8 -b 8 -a 22) of the first of --prune, from mild to hard, that fits. `KenLM, estimated there` ships the
training text as PPMd packs it, and who has that estimates the model without pruning. The source of lmplz and
build_binary is in the package index's `kenlm` (docs/sparse.md says how to build it); `pip install kenlm
pyppmd zstandard` installs the rest.

Times are processor time (user and system, of this process and the programs it runs). To make: compressing
what is shipped (nothing for a dictionary, which is cut off), or lmplz and build_binary for the model that was
taken, not for others that were tried. To score, for each text: all that is done before its last bit is known,
reading the training text or loading the model included; for `KenLM, estimated there` without lmplz, which is
counted once, in what it takes to make. Making words of tokens, tokenizing and choosing are not counted.

Prints a Markdown table; what is left out is said on stderr. --json writes OUT after each method; rows of
an OUT that has the same budget, training text and texts are kept, so that methods can be measured one by one
(--only). Its members:

    budget            bytes
    training          {"bytes", "documents", "sha256"} of the text; bytes without the blank lines
    texts             the same by name
    rows              a list of
        method        its name
        bytes_shipped
        settings      what was chosen: PPMd's order and memory, the pruning, how much of the training text
        make_seconds  see above
        load_average  of the machine, when the row was finished, over one minute
        texts         by name: {"bits_per_byte", "score_seconds"}; "bytes", where not all of it was read;
                      "unknown", the tokens that KenLM has never seen
    left_out          why, by method
"""

import argparse
import hashlib
import importlib
import json
import lzma
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from kenlm_models import KenLM, Tokens, kenlm_bits
from programs import Program, processor_time

from hybridlm.data import documents
from hybridlm.data.shards import expand, read_stream
from hybridlm.data.tokenizer import BOS, Tokenizer
from hybridlm.files import atomic_write_text

# Counts up to which n-grams are left out, by order; the last one holds for the orders after it.
PRUNINGS = (
    "", "0 0 0 0 0 1", "0 0 0 0 1", "0 0 0 1", "0 0 1", "0 1", "0 1 1 1 2", "0 0 1 2", "0 1 1 1 3", "0 0 1 3",
    "0 1 1 2", "0 1 1 2 3", "0 1 2", "0 1 2 3", "0 1 2 4", "0 1 3 6", "0 1 4 8", "0 2 8 16", "0 4 16 32",
)  # fmt: skip
JOINT = b"\n\n"
LONGEST_WINDOW = 31
"""Of zstd, in bits."""
PPMD_MOST_MEMORY = (1 << 32) - 1 - 36

Compress = Callable[[bytes], bytes]
Row = dict[str, Any]
T = TypeVar("T")


class LeftOut(Exception):
    """Why a method is."""


@dataclass(frozen=True)
class Text:
    """Documents."""

    name: str
    documents: list[str]

    @cached_property
    def content(self) -> bytes:
        """With JOINT after each document."""
        return b"".join(document.encode() + JOINT for document in self.documents)

    @classmethod
    def read(cls, file: str, name: str = "") -> "Text":
        return cls(name, [document.text for document in documents.read([file])])

    @property
    def size(self) -> int:
        """Without joints."""
        return len(self.content) - len(JOINT) * len(self.documents)

    def facts(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.content).hexdigest()
        return {"bytes": self.size, "documents": len(self.documents), "sha256": digest}

    def last(self, most: int) -> bytes:
        """The last whole documents of at most so many bytes, joints included."""
        if most >= len(self.content):
            return self.content
        at = self.content.find(JOINT, max(0, len(self.content) - most - len(JOINT)))
        return self.content[at + len(JOINT) :]

    def stream(self, tokenizer: Tokenizer) -> Tokens:
        """A BOS before each document and after the last."""
        bos = np.array([BOS], np.uint16)
        parts = [part for tokens in tokenizer.encode_batch(self.documents, 1) for part in (bos, tokens)]
        return np.concatenate([*parts, bos])


def timed(function: Callable[[bytes], T], data: bytes) -> tuple[T, float]:
    started = processor_time()
    return function(data), processor_time() - started


Goes = Callable[[bytes], int]
"""The compressed bytes of what a compressor began with and of what it goes on with, together."""


def anew(compress: Compress) -> Callable[[bytes], Goes]:
    """Compresses both each time."""
    return lambda part: lambda more: len(compress(part + more))


def forked(encoder_of: Callable[[], Any]) -> Callable[[bytes], Goes]:
    """Of an encoder that codes byte after byte: reads what it begins with once, and goes on in forks."""

    def begin(part: bytes) -> Goes:
        encoder = encoder_of()
        begun = len(encoder.encode(part))

        def goes(more: bytes) -> int:
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                try:
                    size = begun + len(encoder.encode(more)) + len(encoder.flush())
                    os.write(writer, str(size).encode())
                finally:
                    os._exit(0)
            os.close(writer)
            with os.fdopen(reader) as pipe:
                said = pipe.read()
            os.waitpid(child, 0)
            if not said:
                raise SystemExit("a fork that compresses has ended without a result")
            return int(said)

        return goes

    return begin


def primed(
    begin: Callable[[bytes], Goes], training: Text, budget: int, texts: list[Text], most: int | None = None
) -> Row:
    """With the last part of the training text, of at most ``most`` bytes, that fits the budget compressed."""
    part = training.content if most is None else training.last(most)
    while True:
        goes, priming = timed(begin, part)
        size, ending = timed(goes, b"")
        if size <= budget or not part:
            break
        part = training.last(int(len(part) * budget / size * 0.995))
    found = {}
    for text in texts:
        both, seconds = timed(goes, text.content)
        bits = 8 * (both - size)
        found[text.name] = {"bits_per_byte": bits / text.size, "score_seconds": priming + seconds}
    return {
        "bytes_shipped": size if part else 0,
        "settings": {"training_share": len(part) / len(training.content)},
        "make_seconds": priming + ending,
        "texts": found,
    }


def unprimed(compress: Compress, most: int, texts: list[Text]) -> Row:
    found = {}
    for text in texts:
        content = text.content[:most]
        joints = content.count(JOINT)
        packed, seconds = timed(compress, content)
        read = len(content) - len(JOINT) * joints
        found[text.name] = {"bits_per_byte": 8 * len(packed) / read, "score_seconds": seconds, "bytes": read}
    return {"bytes_shipped": 0, "settings": {}, "make_seconds": 0.0, "texts": found}


class Peers:
    """The methods, each a function that gives its row or raises LeftOut."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        self.training = Text("training", [d for file in options.train for d in Text.read(file).documents])
        self.texts = [Text.read(file, name) for name, file in options.text]
        self.ppmd_row: Row | None = None
        self._kenlm: KenLM | None = None
        self._streams: dict[str, Tokens] = {}
        names = [name for name, _ in options.peer + options.unprimed]
        self.methods: dict[str, Callable[[], Row]] = {
            "PPMd": self.ppmd,
            "KenLM, trie": self.kenlm_trie,
            "KenLM, estimated there": self.kenlm_estimated,
            "zstd -22, dictionary": self.zstd_dictionary,
            "zstd -22": self.zstd,
            "xz -9e": self.xz,
        }
        if len({*self.methods, *names}) < len(self.methods) + len(names):
            raise SystemExit("two methods have the same name")
        for name, command in options.peer:
            self.methods[name] = partial(self._primed, Program(command), options.peer_training)
        for name, command in options.unprimed:
            self.methods[name] = partial(unprimed, Program(command), options.unprimed_bytes, self.texts)

    def _primed(self, compress: Compress, most: int | None = None) -> Row:
        return primed(anew(compress), self.training, self._options.budget, self.texts, most)

    def ppmd(self) -> Row:
        pyppmd = needed("pyppmd")
        memory, orders = self._options.ppmd_memory, self._options.ppmd_orders
        # Read last, under a name that no text has, and taken out before the row is reported.
        tune = [Text.read(self._options.tune)] if len(orders) > 1 else []

        def of(order: int, memory: int) -> Row:
            begin = forked(lambda: pyppmd.Ppmd8Encoder(order, memory))
            return primed(begin, self.training, self._options.budget, [*self.texts, *tune])

        rows = {order: of(order, memory) for order in orders}
        # A model that has no more room begins anew, which shows in the sizes. High orders take the most room.
        highest = max(orders)
        if sizes(rows[highest]) != sizes(of(highest, min(2 * memory, PPMD_MOST_MEMORY))):
            raise LeftOut(f"{memory} bytes are too few for order {highest}: give --ppmd-memory more")
        settings: dict[str, Any] = {"memory": memory}
        best = orders[0]
        if tune:
            tuned = {order: row["texts"].pop(tune[0].name)["bits_per_byte"] for order, row in rows.items()}
            best = min(tuned, key=lambda order: tuned[order])
            settings["tuned"] = {str(order): bits for order, bits in tuned.items()}
        rows[best]["settings"] |= {"order": best} | settings
        return rows[best]

    def kenlm_trie(self) -> Row:
        kenlm = self.kenlm()
        for pruning in self._options.prune:
            started = processor_time()
            kenlm.estimate(pruning)
            trie = kenlm.trie()
            seconds = processor_time() - started
            if trie.stat().st_size <= self._options.budget:
                return self._scored(trie, trie.stat().st_size, seconds, {"prune": pruning})
        raise LeftOut("no trie fits the budget: give --prune higher counts")

    def kenlm_estimated(self) -> Row:
        kenlm = self.kenlm()
        if self.ppmd_row is None or self.ppmd_row["settings"]["training_share"] < 1:
            raise LeftOut("the training text has not been packed by PPMd into the budget as a whole")
        started = processor_time()
        kenlm.estimate()
        seconds = processor_time() - started + self.ppmd_row["make_seconds"]
        return self._scored(kenlm.arpa, self.ppmd_row["bytes_shipped"], seconds, {})

    def kenlm(self) -> KenLM:
        options = self._options
        needed("kenlm")
        if not options.lmplz or not options.build_binary:
            raise LeftOut("lmplz and build_binary are not on PATH")
        if not options.shards or not options.tokenizer:
            raise LeftOut("it needs --shards and --tokenizer")
        if self._kenlm is None:
            tokenizer = Tokenizer.load(options.tokenizer)
            files = [path for shards in options.shards for path in expand(shards)]
            train = np.concatenate([read_stream([path], tokenizer.vocab_size) for path in files])
            if train[0] != BOS:
                raise SystemExit("the shards must begin with a document")
            self._streams = {text.name: text.stream(tokenizer) for text in self.texts}
            self._kenlm = KenLM(self._folder, train, options.order, options.lmplz, options.build_binary)
        return self._kenlm

    def _scored(self, model: Path, size: int, make: float, settings: dict[str, Any]) -> Row:
        started = processor_time()
        loaded = needed("kenlm").Model(str(model))
        loading = processor_time() - started
        found = {}
        for text in self.texts:
            started = processor_time()
            bits, unknown = kenlm_bits(loaded, self._streams[text.name])
            seconds = loading + processor_time() - started
            found[text.name] = {
                "bits_per_byte": bits / text.size,
                "score_seconds": seconds,
                "unknown": unknown,
            }
        settings = {"order": self._options.order} | settings
        return {"bytes_shipped": size, "settings": settings, "make_seconds": make, "texts": found}

    def zstd_dictionary(self) -> Row:
        zstandard = needed("zstandard")
        content = self.training.content[-self._options.budget :]
        dictionary = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        found = {}
        for text in self.texts:
            compress = zstd_22(zstandard, len(content) + len(text.content), dictionary)
            packed, seconds = timed(compress, text.content)
            found[text.name] = {"bits_per_byte": 8 * len(packed) / text.size, "score_seconds": seconds}
        share = len(content) / len(self.training.content)
        return {
            "bytes_shipped": len(content),
            "settings": {"training_share": share},
            "make_seconds": 0.0,
            "texts": found,
        }

    def zstd(self) -> Row:
        zstandard = needed("zstandard")
        longest = len(self.training.content) + max(len(text.content) for text in self.texts)
        return self._primed(zstd_22(zstandard, longest))

    def xz(self) -> Row:
        longest = len(self.training.content) + max(len(text.content) for text in self.texts)
        window = {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": max(1 << 20, longest),
        }
        return self._primed(lambda data: lzma.compress(data, lzma.FORMAT_RAW, filters=[window]))


def zstd_22(zstandard: Any, reach: int, dictionary: Any = None) -> Compress:
    """At level 22, with a window of ``reach`` bytes and long-distance matching."""
    window = min(max(reach - 1, 1 << 20).bit_length(), LONGEST_WINDOW)
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=window, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    return lambda data: compressor.compress(data)


def sizes(row: Row) -> tuple[int, list[float]]:
    """What a row says that doesn't depend on the clock."""
    return row["bytes_shipped"], [text["bits_per_byte"] for text in row["texts"].values()]


def needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise LeftOut(f"pip install {name}") from None


def table(rows: list[Row], names: list[str]) -> Iterator[str]:
    yield f"| | bytes shipped | seconds to make | {' | '.join(f'{name} | seconds' for name in names)} |"
    yield "|---" * (3 + 2 * len(names)) + "|"
    for row in rows:
        share = row["settings"].get("training_share", 1)
        shipped = f"{row['bytes_shipped']:,}" + (f" ({share:.0%} of the text)" if share < 1 else "")
        cells = [row["method"], shipped, f"{row['make_seconds']:.0f}"]
        for name in names:
            found = row["texts"][name]
            of = f" (first {found['bytes']:,} bytes)" if "bytes" in found else ""
            cells += [f"{found['bits_per_byte']:.4f}{of}", f"{found['score_seconds']:.1f}"]
        yield f"| {' | '.join(cells)} |"


def named(text: str) -> tuple[str, str]:
    name, equals, file = text.partition("=")
    if not name or not equals or not file:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, file


def earlier(file: Path | None, facts: dict[str, Any]) -> dict[str, Any]:
    """What FILE says of the same texts; SystemExit if it is of others."""
    if file is None or not file.exists():
        return {**facts, "rows": [], "left_out": {}}
    found: dict[str, Any] = json.loads(file.read_text())
    if {key: found.get(key) for key in facts} != facts:
        print(f"{file} is of other texts or another budget: name another file", file=sys.stderr)
        raise SystemExit(2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", nargs="+", help="as `hybridlm data shard` reads text")
    parser.add_argument("--text", nargs="+", type=named, required=True, metavar="NAME=FILE")
    parser.add_argument("--tune", help="a text to choose PPMd's order by")
    parser.add_argument("--shards", nargs="+", default=[], help="globs; the tokens of the training text")
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--budget", type=int, default=16_000_000)
    parser.add_argument("--peer", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"))
    parser.add_argument("--peer-training", type=int, metavar="BYTES", help="default: all that fits")
    parser.add_argument("--unprimed", nargs=2, action="append", default=[], metavar=("NAME", "COMMAND"))
    parser.add_argument("--unprimed-bytes", type=int, default=300_000)
    parser.add_argument("--ppmd-orders", nargs="+", type=int, default=[8, 16, 24, 32])
    parser.add_argument("--ppmd-memory", type=int, default=1 << 31, help="in bytes")
    parser.add_argument("--order", type=int, default=6, help="KenLM's")
    parser.add_argument("--prune", nargs="+", default=PRUNINGS, help="as lmplz takes it, each in quotes")
    parser.add_argument("--lmplz", default=shutil.which("lmplz"))
    parser.add_argument("--build-binary", default=shutil.which("build_binary"))
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="by name; default: all")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    if len(options.ppmd_orders) > 1 and not options.tune:
        parser.error("choosing among --ppmd-orders takes a text for --tune")
    with tempfile.TemporaryDirectory() as folder:
        peers = Peers(options, Path(folder))
        if unknown := set(options.only or []) - set(peers.methods):
            parser.error(f"--only {min(unknown)}: the methods are {', '.join(peers.methods)}")
        facts = {
            "budget": options.budget,
            "training": peers.training.facts(),
            "texts": {text.name: text.facts() for text in peers.texts},
        }
        result = earlier(options.json, facts)
        rows = {row["method"]: row for row in result["rows"]}
        left_out: dict[str, str] = result["left_out"]
        for name in options.only or list(peers.methods):
            peers.ppmd_row = rows.get("PPMd")
            try:
                row = peers.methods[name]()
            except LeftOut as reason:
                print(f"{name} is left out: {reason}", file=sys.stderr)
                left_out[name] = str(reason)
                rows.pop(name, None)
            else:
                rows[name] = {"method": name, **rounded(row), "load_average": round(os.getloadavg()[0], 1)}
                left_out.pop(name, None)
            if options.json:
                result["rows"] = list(rows.values())
                atomic_write_text(options.json, json.dumps(result, indent=1) + "\n")
    print("\n".join(table(list(rows.values()), [text.name for text in peers.texts])))


def rounded(value: Any) -> Any:
    """Bits to six decimals, seconds to two."""
    if not isinstance(value, dict):
        return round(value, 6) if isinstance(value, float) else value
    found = {key: rounded(member) for key, member in value.items()}
    return {key: round(found[key], 2) if key.endswith("_seconds") else found[key] for key in found}


if __name__ == "__main__":
    main()

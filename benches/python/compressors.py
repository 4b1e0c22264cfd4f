"""Size and speed of `hybridlm compress` beside general compressors, on text that the artifact has not seen.

    python benches/python/compressors.py ARTIFACT TEXT --tokenizer MODEL [--max-bytes 1000000] \\
        [--peer 'lpaq1 9' ./lpaq1 './lpaq1 9 INPUT OUTPUT' './lpaq1 d INPUT OUTPUT']

The artifact and the tokenizer are shared by both sides and not counted in a compressed size; the first line
says how large they are. Peers have no such thing and begin from nothing. ``total_bytes`` counts them, and the
program: for hybridlm its Python files and its native library (without Python and the packages that it needs),
for a peer the library that does the work, each compressed by xz. ``break_even_bytes`` is from how much text
of this kind on hybridlm's total would be the smaller one, if both went on as on this text; null: never.
Every method runs on one thread; its speed is content bytes per second of processor time, the best of
`--repeat` rounds through all methods.
xz is Python's own; zstd is what is built in here, at level 22. brotli and PPMd (order 8) take
`pip install brotli pyppmd`, and are left out, by name, where those are missing. Any other program is a
``--peer``: its name, its file, and the commands that compress and decompress, in which INPUT and OUTPUT stand
for files; ``peak_mb`` is the larger of their two resident memories.
"""

import argparse
import ctypes.util
import importlib
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

from programs import Program, processor_time

from hybridlm import _core
from hybridlm.artifact import Artifact
from hybridlm.codec import Codec
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.submission.code_bytes import library_bytes

PPMD_ORDER = 8
LIBRARY_FOLDERS = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
)
PPMD_MEMORY = 256 << 20

Method = tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]


def methods(codec: Codec) -> dict[str, Method]:
    """Compress and decompress, by name; ours first."""
    found: dict[str, Method] = {
        "hybridlm": (lambda data: codec.compress(data).data, codec.decompress),
        "xz -9e": (lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress),
        "zstd -22 --ultra": (_core.compress, lambda data: _core.decompress(data, 1 << 31, "zstd")),
    }
    if brotli := optional("brotli"):
        found["brotli -11"] = (lambda data: brotli.compress(data, quality=11, lgwin=24), brotli.decompress)
    if pyppmd := optional("pyppmd"):
        options = {"max_order": PPMD_ORDER, "mem_size": PPMD_MEMORY}
        found[f"PPMd order {PPMD_ORDER}"] = (
            lambda data: pyppmd.compress(data, **options),
            lambda data: pyppmd.decompress(data, **options),
        )
    return found


def optional(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(json.dumps({"missing": name, "install": f"pip install {name}"}))
        return None


def program_bytes(name: str, programs: dict[str, Path]) -> int:
    """Of the program that compresses and decompresses, itself compressed by xz."""
    if name in programs:
        return len(lzma.compress(programs[name].read_bytes(), preset=9))
    if name == "hybridlm":
        return library_bytes()
    library = {"xz -9e": "liblzma", "zstd -22 --ultra": "libzstd"}.get(name)
    if library is not None:
        found = ctypes.util.find_library(library.removeprefix("lib"))
        paths = [path for folder in LIBRARY_FOLDERS for path in Path(folder).glob(found or "none")]
    else:
        module = importlib.import_module("_brotli" if name.startswith("brotli") else "pyppmd.c._ppmd")
        paths = [Path(str(module.__file__))]
    if not paths:
        raise SystemExit(f"{name}: its library was not found, so its bytes can't be counted")
    return len(lzma.compress(paths[0].read_bytes(), preset=9))


def timed(function: Callable[[bytes], bytes], data: bytes) -> tuple[bytes, float]:
    started = processor_time()
    result = function(data)
    return result, processor_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--max-bytes", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument(
        "--peer", nargs=4, action="append", default=[], metavar=("NAME", "PROGRAM", "COMPRESS", "DECOMPRESS")
    )
    options = parser.parse_args()
    artifact = Artifact.from_file(options.artifact)
    codec = Codec(artifact, Tokenizer.load(options.tokenizer))
    with options.text.open("rb") as file:
        data = file.read(options.max_bytes)
    shared = {"artifact_bytes": artifact.total_bytes, "tokenizer_bytes": options.tokenizer.stat().st_size}
    print(
        json.dumps(
            {"text": options.text.name, "bytes": len(data), "neural_bytes": artifact.neural_bytes, **shared}
        )
    )

    compressors = methods(codec)
    files = {name: Path(program) for name, program, _, _ in options.peer}
    for name, _, compress, decompress in options.peer:
        compressors[name] = (Program(compress), Program(decompress))
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in compressors}
    sizes: dict[str, int] = {}
    for _ in range(options.repeat):
        for name, (compress, decompress) in compressors.items():
            compressed, there = timed(compress, data)
            content, back = timed(decompress, compressed)
            if content != data:
                raise SystemExit(f"{name}: what comes out is not what went in")
            sizes[name] = len(compressed)
            seconds[name].append((there, back))
    ours = sizes["hybridlm"]
    programs = {name: program_bytes(name, files) for name in sizes}
    fixed = sum(shared.values()) + programs["hybridlm"]
    for name, size in sizes.items():
        there, back = (min(rounds) for rounds in zip(*seconds[name], strict=True))
        row = {
            "method": name,
            "compressed_bytes": size,
            "bits_per_byte": round(8 * size / len(data), 4),
            "ours_to_this": round(ours / size, 4),
            "program_bytes": programs[name],
            "total_bytes": ours + fixed if name == "hybridlm" else size + programs[name],
            "break_even_bytes": round((fixed - programs[name]) * len(data) / (size - ours))
            if size > ours
            else None,
            "compress_kb_per_s": round(len(data) / there / 1e3, 1),
            "decompress_kb_per_s": round(len(data) / back / 1e3, 1),
        }
        if name in files:
            row["peak_mb"] = max(one.peak_mb for one in compressors[name] if isinstance(one, Program))
        print(json.dumps(row))


if __name__ == "__main__":
    main()

"""`hybridlm compress` and `hybridlm decompress`."""

import time
from pathlib import Path

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Out
from hybridlm.cli.output import print_json
from hybridlm.files import atomic_write_bytes
from hybridlm.progress import Progress


def compress(
    file: tyro.conf.Positional[Path],
    *,
    artifact: Path,
    tokenizer: ChosenTokenizer,
    out: Out,
    json: bool = False,
) -> None:
    """Compress a file, text or any bytes, with an artifact.

    The same artifact and tokenizer decompress it; they are not counted in the result's size. With a neural
    model it takes a step of the model per token, and is decompressed by the same version of PyTorch on the
    same kind of processor.

    Args:
        file: What to compress.
        artifact: The artifact's file.
        out: Where the compressed file goes.
        json: Print one JSON object.
    """
    from hybridlm.artifact import Artifact
    from hybridlm.codec import Codec

    codec = Codec(Artifact.from_file(artifact), tokenizer.load())
    content = file.read_bytes()
    started = time.perf_counter()
    with Progress("compress", len(content), "bytes") as progress:
        compressed = codec.compress(content, progress.update)
    seconds = time.perf_counter() - started
    atomic_write_bytes(out, compressed.data)
    size = len(compressed.data)
    if json:
        result = {
            "bytes": len(content),
            "compressed_bytes": size,
            "claimed_bits": compressed.claimed_bits,
            "tokens": compressed.tokens,
            "bits_per_byte": 8 * size / max(1, len(content)),
            "seconds": seconds,
        }
        print_json(result)
        return
    print(f"{len(content):,} bytes to {size:,}: {8 * size / max(1, len(content)):.3f} bits per byte")
    print(f"the model claims {compressed.claimed_bits / 8:,.0f} bytes for its {compressed.tokens:,} tokens")


def decompress(
    file: tyro.conf.Positional[Path], *, artifact: Path, tokenizer: ChosenTokenizer, out: Out
) -> None:
    """Decompress what `hybridlm compress` made. A damaged file, or another artifact's, is refused.

    Args:
        file: The compressed file.
        artifact: The artifact that it was compressed with.
        out: Where the content goes.
    """
    from hybridlm.artifact import Artifact
    from hybridlm.codec import Codec, content_length

    codec = Codec(Artifact.from_file(artifact), tokenizer.load())
    data = file.read_bytes()
    with Progress("decompress", content_length(data), "bytes") as progress:
        content = codec.decompress(data, str(file), progress.update)
    atomic_write_bytes(out, content)

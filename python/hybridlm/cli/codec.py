"""`hybridlm compress` and `hybridlm decompress`."""

import time
from pathlib import Path

import tyro

from hybridlm.cli.arguments import ChosenTokenizer, Out
from hybridlm.cli.output import check_output, is_standard, print_json, read_input, write_output
from hybridlm.errors import UsageError
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
        file: What to compress; - is standard input.
        artifact: The artifact's file.
        out: Where the compressed file goes; - is standard output, where nothing else is printed then.
        json: Print one JSON object.
    """
    from hybridlm.artifact import Artifact
    from hybridlm.codec import Codec

    if json and is_standard(out):
        raise UsageError("--json and the compressed file can't both go to standard output")
    check_output(out)
    codec = Codec(Artifact.from_file(artifact), tokenizer.load())
    content, _ = read_input(file)
    started = time.perf_counter()
    with Progress("compress", len(content), "bytes") as progress:
        compressed = codec.compress(content, progress.update)
    seconds = time.perf_counter() - started
    write_output(out, compressed.data)
    if is_standard(out):
        return
    size = len(compressed.data)
    if json:
        result = {
            "bytes": len(content),
            "compressed_bytes": size,
            "claimed_bits": compressed.claimed_bits,
            "tokens": compressed.tokens,
            "stored_bytes": compressed.stored,
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
        file: The compressed file; - is standard input.
        artifact: The artifact that it was compressed with.
        out: Where the content goes; - is standard output.
    """
    from hybridlm.artifact import Artifact
    from hybridlm.codec import Codec, content_length

    check_output(out)
    codec = Codec(Artifact.from_file(artifact), tokenizer.load())
    data, name = read_input(file)
    with Progress("decompress", content_length(data), "bytes") as progress:
        content = codec.decompress(data, name, progress.update)
    write_output(out, content)

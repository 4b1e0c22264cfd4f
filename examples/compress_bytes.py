"""Compress bytes with an oracle, and get the same bytes back.

    python examples/compress_bytes.py

The oracle is counted from text that Python's `help()` shows. Decompressing takes the same artifact and the
same tokenizer. Any bytes can be compressed; text that is like the oracle's becomes smallest.
"""

import lzma
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

from hybridlm.artifact import bundle
from hybridlm.codec import Codec
from hybridlm.data.documents import Document
from hybridlm.data.shard_writer import write_shards
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle.build import build_sparse


def main() -> None:
    documents = [Document(name, text) for name, text in topics.items() if name != "formatstrings"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = Tokenizer.train(
            (document.text for document in documents), folder / "tokenizer.model", vocab_size=512
        )
        shards = write_shards(documents, [], tokenizer, folder / "data")
        oracle = build_sparse([shard.path for shard in shards], tokenizer.vocab_size, max_bytes=60_000)
    codec = Codec(bundle(None, oracle, tokenizer), tokenizer)

    content = topics["formatstrings"].encode()
    compressed = codec.compress(content)
    assert codec.decompress(compressed.data) == content
    print(
        f"{len(content):,} bytes to {len(compressed.data):,}, where xz needs {len(lzma.compress(content)):,}"
    )

    anything = bytes(range(256)) * 4
    assert codec.decompress(codec.compress(anything).data) == anything


if __name__ == "__main__":
    main()

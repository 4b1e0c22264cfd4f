"""Compress bytes with an oracle, and get the same bytes back.

    python examples/compress_bytes.py

The oracle is counted from text that Python's `help()` shows. Decompressing takes the same artifact and the
same tokenizer. Any bytes can be compressed; text that is like the oracle's becomes smallest.
"""

import lzma
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import hybridlm
from hybridlm.data.documents import Document, deduplicate


def main() -> None:
    content = topics["formatstrings"].encode()
    documents = deduplicate(Document(name, text) for name, text in topics.items() if name != "formatstrings")
    with tempfile.TemporaryDirectory() as folder:
        texts = [document.text for document in documents]
        tokenizer = hybridlm.Tokenizer.train(texts, Path(folder) / "tok.model", vocab_size=512)
    builder = hybridlm.OracleBuilder(tokenizer.vocabulary)
    for text in texts:
        builder.add(np.append(np.uint16(tokenizer.bos_id), tokenizer.encode(text)))
    oracle = builder.build(max_bytes=40_000)
    codec = hybridlm.Codec(hybridlm.bundle(None, oracle.to_bytes(), tokenizer), tokenizer)

    compressed = codec.compress(content).data
    assert codec.decompress(compressed) == content
    print(f"{len(content):,} bytes to {len(compressed):,}; xz makes {len(lzma.compress(content)):,} of them")

    anything = bytes(range(256)) * 4
    assert codec.decompress(codec.compress(anything).data) == anything


if __name__ == "__main__":
    main()

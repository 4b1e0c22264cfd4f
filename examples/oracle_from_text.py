"""From text in memory to bits per byte: a tokenizer, a sparse oracle, and its score on held-out text.

    python examples/oracle_from_text.py

The text is what Python's `help()` shows, so that there is something to run on; put your own in its place.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import hybridlm
from hybridlm.data.documents import Document, deduplicate, split


def main() -> None:
    # Without near-copies, held-out text was not counted in another document either.
    documents = deduplicate(Document(name, text) for name, text in topics.items())
    train, held_out = split(documents, val_fraction=0.1)
    with tempfile.TemporaryDirectory() as folder:
        texts = [document.text for document in train]
        tokenizer = hybridlm.Tokenizer.train(texts, Path(folder) / "tok.model", vocab_size=512)

    def tokens(document: Document) -> np.ndarray:
        """uint16 [N]: a document's tokens, which the document token begins."""
        return np.append(np.uint16(tokenizer.bos_id), tokenizer.encode(document.text))

    builder = hybridlm.OracleBuilder(tokenizer.vocabulary)
    for document in train:
        builder.add(tokens(document))
    oracle = builder.build(max_bytes=40_000)

    stream = np.concatenate([tokens(document) for document in held_out])
    nats = -oracle.target_log_probs(stream, start=1).sum(axis=1, dtype=np.float64)
    size = tokenizer.byte_table.lengths(stream, start=1).sum()
    for order, bits in zip(oracle.orders, nats / np.log(2), strict=True):
        print(f"order {order}: {bits / size:.3f} bits per byte")
    print(f"{oracle.nbytes:,} bytes of oracle, {size:,} bytes of held-out text")


if __name__ == "__main__":
    main()

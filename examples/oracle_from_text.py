"""From text in memory to bits per byte: a tokenizer, shards, a sparse oracle, and its score on held-out text.

    python examples/oracle_from_text.py

The text is what Python's `help()` shows, so that there is something to run on; put your own in its place.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

from hybridlm.data.documents import Document, split
from hybridlm.data.shard_writer import write_shards
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle import Oracle
from hybridlm.oracle.build import build_sparse
from hybridlm.oracle.evaluate import evaluate


def main() -> None:
    # Which documents are held out depends on their text alone, so it is the same every time.
    train, held_out = split([Document(name, text) for name, text in topics.items()], val_fraction=0.1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = Tokenizer.train(
            (document.text for document in train), folder / "tokenizer.model", vocab_size=512
        )
        write_shards(train, held_out, tokenizer, folder / "data")
        train_shards, val_shards = data_folder(folder / "data")
        oracle = Oracle.from_bytes(build_sparse(train_shards, tokenizer.vocab_size, max_bytes=60_000))
        score = evaluate(oracle, read_stream(val_shards), tokenizer.byte_table)
    for order, rate in score.orders.items():
        print(f"order {order}: {rate.bpb:.3f} bits per byte")
    print(f"{oracle.nbytes:,} bytes of oracle give {score.bpb:.3f} on {score.bytes:,} bytes of held-out text")


if __name__ == "__main__":
    main()

"""Score an artifact with two mixtures over the same experts, and compare.

    python examples/compare_mixtures.py

The artifact holds an oracle alone, so nothing here needs PyTorch. docs/mixing.md says what the mixtures do.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

from hybridlm.artifact import bundle
from hybridlm.data.documents import Document, split
from hybridlm.data.shard_writer import write_shards
from hybridlm.data.shards import data_folder, read_stream
from hybridlm.data.tokenizer import Tokenizer
from hybridlm.oracle.build import build_sparse
from hybridlm.scoring.evaluate import evaluate
from hybridlm.scoring.mixing import MixtureSpec
from hybridlm.scoring.settings import ScoringSettings


def main() -> None:
    train, held_out = split([Document(name, text) for name, text in topics.items()], val_fraction=0.1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = Tokenizer.train(
            (document.text for document in train), folder / "tokenizer.model", vocab_size=512
        )
        write_shards(train, held_out, tokenizer, folder / "data")
        train_shards, val_shards = data_folder(folder / "data")
        oracle = build_sparse(train_shards, tokenizer.vocab_size, max_bytes=60_000)
        stream = read_stream(val_shards)

    # Both see the same log-probabilities of the same experts, in one pass over the text.
    result = evaluate(
        bundle(None, oracle, tokenizer),
        stream,
        tokenizer.byte_table,
        ScoringSettings(mixer="stacked"),
        mixtures={"hedge": MixtureSpec("hedge")},
    )
    for name, rate in result.experts.items():
        print(f"{name:10} {rate.bpb:.3f} bits per byte")
    stacked, hedge = result.bpb, result.mixtures["hedge"].bpb
    print(f"stacked    {stacked:.3f}, {hedge - stacked:.3f} less than hedge's {hedge:.3f}")


if __name__ == "__main__":
    main()

"""Score an artifact with two mixtures over the same experts, and compare.

    python examples/compare_mixtures.py

The artifact holds an oracle alone, so nothing here needs PyTorch. docs/mixing.md says what the mixtures do.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import hybridlm
from hybridlm.data.documents import Document, deduplicate, split
from hybridlm.scoring.mixing import MixtureSpec


def main() -> None:
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
    artifact = hybridlm.bundle(None, builder.build(max_bytes=40_000).to_bytes(), tokenizer)

    # Both mix the same log-probabilities of the same experts, in one pass over the text.
    stream = np.concatenate([tokens(document) for document in held_out])
    settings = hybridlm.ScoringConfig(mixer="stacked")
    result = hybridlm.evaluate(
        artifact, stream, tokenizer, settings, mixtures={"hedge": MixtureSpec("hedge")}
    )
    for name, rate in result.experts.items():
        print(f"{name:10} {rate.bpb:.3f} bits per byte")
    hedge = result.mixtures["hedge"].bpb
    print(f"mixtures:  stacked {result.bpb:.3f}, hedge {hedge:.3f}")


if __name__ == "__main__":
    main()

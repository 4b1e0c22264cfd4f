"""A plain PyTorch evaluation loop, and the same loop as a hybrid one: ten lines more.

    python examples/hybrid_evaluation.py        # needs the extra train

The network is a small GRU that is trained for a few seconds on the text that Python's `help()` shows; put
your own in its place. All that the loop needs of it is what it has anyway: ln p of each target.
"""

import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import nn

import hybridlm
from hybridlm.data.documents import Document, deduplicate, split

WINDOW = 64


class Network(nn.Module):
    """Stands for yours: token ids [B, T] to logits [B, T, V] of each next token."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, 64)
        self.gru = nn.GRU(64, 96, batch_first=True)
        self.head = nn.Linear(96, vocab_size)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(self.embedding(tokens))[0])


def train(network: Network, stream: torch.Tensor, steps: int = 60) -> None:
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(steps):
        starts = torch.randint(len(stream) - WINDOW - 1, (16,))
        batch = torch.stack([stream[start : start + WINDOW + 1] for start in starts])
        loss = nn.functional.cross_entropy(network(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def evaluate(network: Network, stream: torch.Tensor) -> float:
    """A plain loop: the nats of all targets, window by window."""
    nats = 0.0
    for start in range(0, len(stream) - 1, WINDOW):
        context, targets = stream[start : start + WINDOW], stream[start + 1 : start + WINDOW + 1]
        rows = network(context[None, : len(targets)])[0].log_softmax(-1)
        nats -= rows[torch.arange(len(targets)), targets].sum().item()
    return nats


@torch.no_grad()
def evaluate_hybrid(network: Network, stream: torch.Tensor, scorer: hybridlm.Scorer) -> float:
    """The same loop. The scorer takes the rows (or the targets' values alone) where they are."""
    nats = 0.0
    for start in range(0, len(stream) - 1, WINDOW):
        context, targets = stream[start : start + WINDOW], stream[start + 1 : start + WINDOW + 1]
        rows = network(context[None, : len(targets)])[0].log_softmax(-1)
        nats += scorer.score(targets, rows).nll.sum()
    return nats


def main() -> None:
    torch.manual_seed(1)
    torch.set_num_threads(1)  # with matrices this small, more threads only wait for each other
    documents = deduplicate(Document(name, text) for name, text in topics.items())
    train_text, held_out = split(documents, val_fraction=0.1)
    with tempfile.TemporaryDirectory() as folder:
        texts = [document.text for document in train_text]
        tokenizer = hybridlm.Tokenizer.train(texts, Path(folder) / "tok.model", vocab_size=512)

    def tokens(documents: list[Document]) -> np.ndarray:
        """uint16 [N]: each document's tokens, which the document token begins."""
        found = [np.append(tokenizer.bos_id, tokenizer.encode(document.text)) for document in documents]
        return np.concatenate(found).astype(np.uint16)

    training, stream = tokens(train_text), torch.from_numpy(tokens(held_out).astype(np.int64))
    network = Network(tokenizer.vocab_size)
    train(network, torch.from_numpy(training.astype(np.int64)))
    bits = evaluate(network, stream) / np.log(2)

    # What makes it a hybrid: an oracle of the training tokens, and a scorer for the stream.
    builder = hybridlm.OracleBuilder(tokenizer.vocabulary)
    builder.add(training)
    oracle = builder.build(max_bytes=40_000)
    scorer = hybridlm.Scorer(tokenizer.vocab_size, first=int(stream[0]), oracle=oracle)
    hybrid_bits = evaluate_hybrid(network, stream, scorer) / np.log(2)

    size = tokenizer.byte_table.lengths(stream.numpy().astype(np.uint16)).sum()
    print(f"network alone: {bits / size:.3f} bits per byte")
    print(f"hybrid:        {hybrid_bits / size:.3f} bits per byte")


if __name__ == "__main__":
    main()

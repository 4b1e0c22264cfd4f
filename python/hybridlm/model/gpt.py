"""The decoder-only GPT: every feature of it can be switched off in its :class:`ModelConfig`.

Shapes: B sequences, T positions, D = ``width``, H query heads, G key/value heads, C = D / H channels a
head, V = ``vocab_size``. Weights are float32; under autocast the matrix products run in its dtype.

Attention is causal and, unless ``document_attention`` is set, looks at the whole window, across document
boundaries: a window that starts in the middle of a document can't see where it began anyway, and what a
finished document says about words and style helps with the next one. The smear gates, which blend
neighbouring embeddings, stop at the token that starts a document.

Depth recurrence, parallel lanes, the sparse gate, the token smear gate and the asymmetric cap are those of
the parameter-golf records (PRs 1394, 1530, 1736, 1787, 1855 and 2135).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridlm.errors import InputError
from hybridlm.model.config import ModelConfig
from hybridlm.model.rounding import fake_quantise, is_quantised

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

AttentionMask: TypeAlias = "Tensor | BlockMask | RollingMask | None"

SPARSE_GATE_SCALE = 0.5
_LANE_KEPT = 1.1  # what a lane is multiplied with at first, where the branches' outputs are added


@dataclass(frozen=True)
class Rolling:
    """Attention whose reach moves along a long sequence in steps of ``block`` positions.

    A block sees the ``window`` tokens that end where it does, so a position sees at least window − block + 1
    tokens and at most ``window`` (fewer where the sequence begins), as in windows that are ``block`` apart.
    But those are computed afresh, while here a layer reads what the layer below made of each position, once,
    with that one's own reach: the keys and values of Transformer-XL (Dai et al., 2019). A sequence therefore
    costs one forward pass, where windows take window / block of them.
    """

    window: int
    block: int

    def __post_init__(self) -> None:
        if not 1 <= self.block <= self.window:
            raise InputError(
                f"blocks of {self.block} tokens must be at least 1 and at most the window, {self.window}"
            )


@dataclass(frozen=True)
class RollingMask:
    """`Rolling` for one batch; document: int64 [B, T], which document a position is of, where attention ends
    at documents."""

    rolling: Rolling
    document: Tensor | None


class Cache:
    """Keys and values of the tokens that a forward pass goes on from, and of those that it is given.

    A layer that is run several times has a place for each run. Keys are as normalised and before rotation,
    since positions are counted from the beginning of what a pass sees.
    """

    def __init__(self, past: Tensor | None = None, valid: Tensor | None = None) -> None:
        """past: [runs, 2, B, G, M, C], keys and values of M tokens before; valid: bool [B, N], which of the
        first N tokens may be seen by others, M or more of them."""
        self.past, self.valid = past, valid
        self._found: list[tuple[Tensor, Tensor]] = []

    @property
    def positions(self) -> int:
        """M"""
        return 0 if self.past is None else self.past.shape[4]

    def keep(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor] | None:
        """Takes the next layer's keys and values [B, G, T, C]; those of the tokens before, [B, G, M, C]."""
        run = len(self._found)
        self._found.append((key, value))
        if self.past is None:
            return None
        past_key, past_value = self.past[run].to(key.dtype)
        return past_key, past_value

    def found(self) -> Tensor:
        """[runs, 2, B, G, T, C], float32 and detached: those of the tokens that the pass was given."""
        return torch.stack([torch.stack(pair) for pair in self._found]).detach().float()

    def mask(self, tokens: Tensor, bos_id: int | None) -> Tensor:
        """float32 [B, 1, T, M + T], to be added to attention's logits: 0 where the last T of tokens
        [B, M + T] may see, else −∞; ``bos_id``: where attention ends at documents."""
        before, length = self.positions, tokens.shape[1]
        columns = torch.arange(length, device=tokens.device)
        may_see = (columns <= columns[before:, None]).expand(len(tokens), -1, -1)
        if self.valid is not None:
            valid = F.pad(self.valid, (0, length - self.valid.shape[1]), value=True)
            # Whoever sees nothing else sees itself, since a softmax over nothing isn't a number.
            may_see = may_see & (valid[:, None] | (columns == columns[before:, None]))
        if bos_id is not None:
            document = (tokens == bos_id).cumsum(dim=1)
            may_see = may_see & (document[:, before:, None] == document[:, None])
        # Of bools, every layer would make these numbers anew.
        return torch.zeros_like(may_see, dtype=torch.float32).masked_fill_(~may_see, -math.inf)[:, None]


class Linear(nn.Linear):
    """y = x Wᵀ with W [out, in]; while ``fake_quantise`` is set, W is seen as the artifact would hold it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.fake_quantise = False

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, seen_weight(self))


class Embedding(nn.Embedding):
    """Rows [rows, width]; while ``fake_quantise`` is set, they are seen as the artifact would hold them."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)
        self.fake_quantise = False

    def reset_parameters(self) -> None:
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, rows: Tensor) -> Tensor:
        return F.embedding(rows, seen_weight(self))


def seen_weight(layer: Linear | Embedding) -> Tensor:
    """The layer's weight as forward uses it: rounded during quantisation-aware training."""
    weight = layer.weight
    return fake_quantise(weight) if layer.fake_quantise and is_quantised(weight) else weight


def rms_norm(x: Tensor) -> Tensor:
    """x over the root mean square of its last dimension; no learned gain."""
    return F.rms_norm(x, (x.shape[-1],))


def add_scaled(x: Tensor, added: Tensor, scale: Tensor | None) -> Tensor:
    """x + scale · added, in the stream's own dtype."""
    added = added.to(x.dtype)
    return x + added if scale is None else torch.addcmul(x, added, scale)


def rotary_angles(positions: int, dims: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each float32 [T, dims/2], of position × base^(−2i/dims)."""
    frequencies = base ** (-torch.arange(0, dims, 2, device=device, dtype=torch.float32) / dims)
    angles = torch.outer(torch.arange(positions, device=device, dtype=torch.float32), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns the first 2·cos.shape[-1] channels of x [..., T, C]; channel i pairs with i + dims/2."""
    half = cos.shape[-1]
    first, second = x[..., :half], x[..., half : 2 * half]
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, first * sin + second * cos, x[..., 2 * half :]), dim=-1)


def exclude_own_value(y: Tensor, value: Tensor) -> Tensor:
    """y [B, H, T, C] without its component along the same position's value [B, G, T, C].

    y − (y·v̂) v̂: what a position could tell about itself the residual stream holds already.
    """
    unit = F.normalize(value, dim=-1).unsqueeze(2)
    batch, groups, positions, channels = value.shape
    grouped = y.reshape(batch, groups, -1, positions, channels)
    return (grouped - (grouped * unit).sum(-1, keepdim=True) * unit).view(y.shape)


def document_mask(tokens: Tensor, bos_id: int) -> AttentionMask:
    """Who may see whom when attention is causal and ends at the start of the document. tokens: [B, T].

    A bool tensor [B, 1, T, T], true where row t may see column s; in a compiled graph for CUDA, what
    FlexAttention skips whole blocks by.
    """
    document = (tokens == bos_id).cumsum(dim=1)
    if tokens.device.type == "cuda" and torch.compiler.is_compiling():
        return document_block_mask(document)
    same = document.unsqueeze(2) == document.unsqueeze(1)
    return same.tril().unsqueeze(1)


def document_block_mask(document: Tensor) -> "BlockMask":
    """The mask of documents numbered ``document``, int64 [B, T], in FlexAttention's form."""
    from torch.nn.attention.flex_attention import create_block_mask

    def may_see(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return (row >= column) & (document[batch, row] == document[batch, column])

    batch, positions = document.shape
    return create_block_mask(may_see, batch, None, positions, positions, device=document.device)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
    """Softmax attention of query [B, H, T, C] over key and value [B, G, T, C]; causal where mask is None."""
    if isinstance(mask, RollingMask):
        return attend_rolling(query, key, value, mask)
    grouped = query.shape[1] != key.shape[1]
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        )
    from torch.nn.attention.flex_attention import flex_attention

    # Autocast, which makes this conversion for the other form, doesn't know this one.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return flex_attention(query, key, value, block_mask=mask, enable_gqa=grouped)


def attend_rolling(query: Tensor, key: Tensor, value: Tensor, mask: RollingMask) -> Tensor:
    """`attend` where each block sees what `Rolling` says. It takes window / block times the memory of keys
    and values, and no [T, T] of anything."""
    window, block = mask.rolling.window, mask.rolling.block
    batch, heads, positions, _ = query.shape
    before = window - block
    blocks = -(-positions // block)
    padding = blocks * block - positions

    def per_block(x: Tensor) -> Tensor:
        """[B, G, T, C] → [B · blocks, G, window, C]: what each block may see."""
        seen = F.pad(x, (0, 0, before, padding)).unfold(2, window, block)
        return seen.permute(0, 2, 1, 4, 3).flatten(0, 1)

    queries = F.pad(query, (0, 0, 0, padding)).view(batch, heads, blocks, block, -1)
    rows = torch.arange(block, device=query.device)[:, None]
    columns = torch.arange(window, device=query.device)
    # Columns of before the sequence begins are padding.
    beginning = before - block * torch.arange(blocks, device=query.device)
    may_see = (columns <= rows + before) & (columns >= beginning[:, None, None])
    may_see = may_see.expand(batch, blocks, block, window).flatten(0, 1)
    if mask.document is not None:
        own = F.pad(mask.document, (0, padding)).view(-1, block)
        seen = F.pad(mask.document, (before, padding)).unfold(1, window, block).flatten(0, 1)
        may_see = may_see & (own[:, :, None] == seen[:, None, :])
    y = F.scaled_dot_product_attention(
        queries.transpose(1, 2).flatten(0, 1),
        per_block(key),
        per_block(value),
        attn_mask=may_see[:, None],
        enable_gqa=heads != key.shape[1],
    )
    y = y.view(batch, blocks, heads, block, -1).transpose(1, 2).flatten(2, 3)
    return y[:, :, :positions]


class Attention(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.qk_norm = config.qk_norm
        self.excludes_own_value = layer >= config.layers - config.xsa_layers
        self.query = Linear(config.width, config.width)
        self.key = Linear(config.width, config.kv_heads * config.head_width)
        self.value = Linear(config.width, config.kv_heads * config.head_width)
        self.output = Linear(config.width, config.width)
        self.query_gain = (
            nn.Parameter(torch.full((config.heads,), config.query_gain_start)) if config.query_gain else None
        )
        self.value_mix = (
            nn.Parameter(torch.tensor([0.5, 0.5] if layer else [0.0, 1.0])) if config.value_residual else None
        )
        if config.gated_attention:
            self.gate_weight = nn.Parameter(torch.zeros(config.heads, config.width))
            self.gate_bias = nn.Parameter(torch.full((config.heads,), 4.0))
        self.gated = config.gated_attention
        self.sparse_gate = (
            nn.Parameter(torch.zeros(config.heads, config.sparse_gate_channels))
            if config.sparse_gate_channels
            else None
        )

    def forward(
        self,
        x: Tensor,
        first_value: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        mask: AttentionMask = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x [B, T, D] → what attention adds [B, T, D], and this layer's unmixed values [B, G, T, C]."""
        batch, positions, width = x.shape
        query = self.query(x).view(batch, positions, self.heads, self.head_width).transpose(1, 2)
        key = self.key(x).view(batch, positions, self.kv_heads, self.head_width).transpose(1, 2)
        own_value = self.value(x).view(batch, positions, self.kv_heads, self.head_width).transpose(1, 2)

        if self.qk_norm:
            query, key = rms_norm(query), rms_norm(key)
        value = own_value
        if self.value_mix is not None:
            mix = self.value_mix.to(value.dtype)
            value = mix[0] * (own_value if first_value is None else first_value) + mix[1] * own_value

        past = None if cache is None else cache.keep(key, value)
        if rotation is not None:
            cos, sin = (angles[-positions:] for angles in rotation)
            query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        keys, values = key, value
        if past is not None:
            past_key, past_value = past
            if rotation is not None:
                cos, sin = (angles[:-positions] for angles in rotation)
                past_key = rotate(past_key, cos, sin)
            keys, values = torch.cat((past_key, key), dim=2), torch.cat((past_value, value), dim=2)
        if self.query_gain is not None:
            query = query * self.query_gain.to(query.dtype)[:, None, None]
        y = attend(query, keys, values, mask)
        if self.excludes_own_value:
            y = exclude_own_value(y, value)
        y = y.transpose(1, 2)
        if self.gated:
            y = y * torch.sigmoid(F.linear(x, self.gate_weight) + self.gate_bias).to(y.dtype)[..., None]
        if self.sparse_gate is not None:
            gate = F.linear(x[..., : self.sparse_gate.shape[1]], self.sparse_gate)
            y = y * torch.sigmoid(SPARSE_GATE_SCALE * gate).to(y.dtype)[..., None]
        return self.output(y.reshape(batch, positions, width)), own_value


class MLP(nn.Module):
    """x → W_down(scale · LeakyReLU(W_up x)² + bias)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.slope = config.leaky_relu_slope
        self.up = Linear(config.width, config.mlp_hidden)
        self.down = Linear(config.mlp_hidden, config.width)
        self.hidden_scale = nn.Parameter(torch.ones(config.mlp_hidden)) if config.mlp_affine else None
        self.hidden_bias = nn.Parameter(torch.zeros(config.mlp_hidden)) if config.mlp_affine else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.up(x), self.slope).square()
        if self.hidden_scale is not None and self.hidden_bias is not None:
            hidden = torch.addcmul(
                self.hidden_bias.to(hidden.dtype), hidden, self.hidden_scale.to(hidden.dtype)
            )
        return cast(Tensor, self.down(hidden))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.mlp = MLP(config)
        self.norm_scale = 1 / math.sqrt(layer + 1) if config.depth_scaled_norm else 1.0
        # Rows: how much of the stream, how much of the embedding output.
        self.residual_mix = (
            nn.Parameter(torch.tensor([[1.0] * config.width, [0.0] * config.width]))
            if config.residual_mix
            else None
        )
        self.attention_scale = nn.Parameter(torch.ones(config.width)) if config.branch_scales else None
        self.mlp_scale = nn.Parameter(torch.ones(config.width)) if config.branch_scales else None

        # A row per lane: how much of itself, of attention's output and of the MLP's it goes on with.
        self.lane_mix = (
            nn.Parameter(torch.tensor([[_LANE_KEPT, 1.0, 1.0]] * 2))
            if layer >= config.first_lane_layer
            else None
        )

    def forward(
        self,
        x: Tensor,
        lane: Tensor | None,
        x0: Tensor,
        first_value: Tensor | None,
        rotation: tuple[Tensor, Tensor] | None,
        mask: AttentionMask = None,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Stream x, the second lane where the block has two, and embedding output x0, all [B, T, D] → the
        stream and the second lane after the block, and its unmixed values [B, G, T, C].

        With one lane, the MLP reads what attention has written. With two (parameter-golf PR 1530), attention
        reads x and the MLP the other lane, at the same time.
        """
        read = x
        if self.residual_mix is not None:
            read = torch.addcmul(self.residual_mix[1] * x0, self.residual_mix[0], x)
        attended, value = self.attention(rms_norm(read) * self.norm_scale, first_value, rotation, mask, cache)
        if lane is None or self.lane_mix is None:
            x = add_scaled(read, attended, self.attention_scale)
            return add_scaled(x, self.mlp(rms_norm(x) * self.norm_scale), self.mlp_scale), None, value
        computed = self.mlp(rms_norm(lane) * self.norm_scale)
        if self.attention_scale is not None and self.mlp_scale is not None:
            attended, computed = self.attention_scale * attended, self.mlp_scale * computed
        attended, computed = attended.to(x.dtype), computed.to(x.dtype)
        mix = self.lane_mix.to(x.dtype)
        return (
            mix[0, 0] * x + mix[0, 1] * attended + mix[0, 2] * computed,
            mix[1, 0] * lane + mix[1, 1] * attended + mix[1, 2] * computed,
            value,
        )


class BigramHash(nn.Module):
    """An embedding of the last two tokens, hashed together, projected to the stream's width."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.table = Embedding(config.bigram_rows, config.bigram_width)
        self.projection = Linear(config.bigram_width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [B, T] → [B, T, D]; the token before the window counts as 0."""
        previous = F.pad(tokens[:, :-1], (1, 0))
        return cast(
            Tensor, self.projection(self.table((1009 * previous + tokens) % self.table.num_embeddings))
        )


class SmearGate(nn.Module):
    """x_t ← (1 − σ(g)) x_t + σ(g) x_{t−1} per channel, but not where a document or the window starts."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.bos_id = config.bos_id
        self.gate = nn.Parameter(torch.zeros(config.width))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        previous = torch.cat((x[:, :1], x[:, :-1]), dim=1)
        gate = torch.sigmoid(self.gate) * (tokens != self.bos_id).unsqueeze(-1)
        return torch.lerp(x, previous, gate.to(x.dtype))


class TokenSmearGate(nn.Module):
    """x_t ← x_t + λ σ(w · x_t[: channels]) x_{t−1}, but not where a document or the window starts.

    λ = 0 and w = 0 at first. A gate that lets the first token of a document see the end of the one before
    leaks what attention may be forbidden to see (parameter-golf PR 1855).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.bos_id = config.bos_id
        self.strength = nn.Parameter(torch.zeros(1))
        self.gate = nn.Parameter(torch.zeros(config.smear_channels))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        previous = F.pad(x[:, :-1], (0, 0, 1, 0))
        gate = torch.sigmoid(x[..., : self.gate.shape[0]] @ self.gate.to(x.dtype))
        share = self.strength * gate * (tokens != self.bos_id)
        return torch.addcmul(x, share.to(x.dtype).unsqueeze(-1), previous)


class GPT(nn.Module):
    """Next-token model over windows of a token stream. Raises InputError for a config without vocabulary."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.vocab_size < 1:
            raise InputError(f"model.vocab_size must be at least 1 to build a model, not {config.vocab_size}")
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.bigram_hash = BigramHash(config) if config.bigram_rows else None
        self.smear_gate: SmearGate | TokenSmearGate | None = None
        if config.smear_gate or config.smear_channels:
            self.smear_gate = TokenSmearGate(config) if config.smear_channels else SmearGate(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        if config.skips:
            # Row i belongs to the skip that position i of the decoder takes up.
            self.skip_weight = nn.Parameter(torch.ones(config.skips, config.width))
            self.skip_gate = nn.Parameter(torch.zeros(config.skips, config.width))
        self.head = None if config.tied_embeddings else Linear(config.width, config.vocab_size)
        # The caps of logits from zero up and of those below.
        self.softcap = (
            nn.Parameter(torch.full((2,), config.logit_softcap)) if config.asymmetric_softcap else None
        )
        # What an adapter makes of the head's input and the logits, since a tied head is no module that a hook
        # could hang on.
        self.head_adapter: Callable[[Tensor, Tensor], Tensor] | None = None
        self.recurrent = True
        self._initialise()

    def _initialise(self) -> None:
        config = self.config
        # Without memory there is nothing to draw, and drawing it has PyTorch import its compiler: seconds, in
        # every command that reads a model.
        if self.token_embedding.weight.is_meta:
            return
        for module in self.modules():
            if isinstance(module, Linear):
                nn.init.orthogonal_(module.weight)
        nn.init.normal_(self.token_embedding.weight, std=config.embedding_std)
        if self.bigram_hash is not None:
            nn.init.normal_(self.bigram_hash.table.weight, std=config.embedding_std)
            nn.init.zeros_(self.bigram_hash.projection.weight)
        if self.head is not None:
            nn.init.zeros_(self.head.weight)
        if config.zero_init_projections:
            for block in self.blocks:
                nn.init.zeros_(cast(Block, block).attention.output.weight)
                nn.init.zeros_(cast(Block, block).mlp.down.weight)

    def forward(self, tokens: Tensor, rolling: Rolling | None = None, cache: Cache | None = None) -> Tensor:
        """int64 [B, T] → logits float32 [B, T, V]; row t predicts the token at t + 1 from tokens[: t + 1].

        With ``rolling``, attention reaches no further back than that says, however long the sequences are.
        A ``cache`` takes the pass's keys and values; where it holds those of the first M tokens, only the
        rest, [B, T − M, V], is computed, and sees these as they were.
        """
        return self._logits(self.hidden(tokens, rolling, cache))

    def hidden(self, tokens: Tensor, rolling: Rolling | None = None, cache: Cache | None = None) -> Tensor:
        """What `forward` makes the logits of, [B, T, D]."""
        config = self.config
        rotation = (
            rotary_angles(tokens.shape[1], config.rope_dims, config.rope_base, tokens.device)
            if config.rope_dims
            else None
        )
        x = self.token_embedding(tokens)
        if self.bigram_hash is not None:
            x = x + self.bigram_hash(tokens)
        x = rms_norm(x)
        if self.smear_gate is not None:
            x = self.smear_gate(x, tokens)

        mask: AttentionMask = None
        if cache is not None and (cache.past is not None or cache.valid is not None):
            x = x[:, cache.positions :]
            mask = cache.mask(tokens, config.bos_id if config.document_attention else None)
        elif rolling is not None:
            document = (tokens == config.bos_id).cumsum(dim=1) if config.document_attention else None
            mask = RollingMask(rolling, document)
        elif config.document_attention:
            mask = document_mask(tokens, config.bos_id)

        order = config.layer_order(self.recurrent)
        encoder = len(order) // 2 if config.unet_skips else 0
        x0, lane = x, None
        first_value: Tensor | None = None
        skips: list[Tensor] = []
        for position, layer in enumerate(order):
            if layer == config.first_lane_layer:
                lane = x
            if position >= encoder and skips:
                gate = torch.sigmoid(self.skip_gate[position - encoder])
                x = torch.addcmul((1 - gate) * self.skip_weight[position - encoder] * skips.pop(), gate, x)
            x, lane, value = self.blocks[layer](x, lane, x0, first_value, rotation, mask, cache)
            first_value = value if first_value is None else first_value
            if position < encoder:
                skips.append(x)

        return rms_norm(x if lane is None else (x + lane) / 2)

    def _logits(self, x: Tensor) -> Tensor:
        head = self.token_embedding if self.head is None else self.head
        cap = self.config.logit_softcap
        if self.softcap is None and cap:
            # Divided here and not after the product, because the logits are the largest tensor there is.
            x = x / cap
        logits = F.linear(x, seen_weight(head))
        if self.head_adapter is not None:
            logits = self.head_adapter(x, logits)
        logits = logits.float()
        if self.softcap is not None:
            caps = torch.where(logits < 0, self.softcap[1], self.softcap[0])
            return caps * torch.tanh(logits / caps)
        return cap * torch.tanh(logits) if cap else logits

    def loss(self, tokens: Tensor, weights: Tensor, total_weight: Tensor) -> tuple[Tensor, Tensor]:
        """This batch's part of the objective Σ w·nll / Σ w, and its plain Σ nll, in nats.

        tokens int64 [B, T + 1], weights float32 [B, T], one for each target tokens[:, 1:]; total_weight, a
        scalar tensor, is Σ w over the whole step: all micro-batches of all ranks. So the parts of a step
        add up to the same objective however it is cut.
        """
        nats = F.cross_entropy(self(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        return (weights.flatten() * nats).sum() / total_weight, nats.detach().sum()

    def set_fake_quantisation(self, enabled: bool) -> None:
        """Switches quantisation-aware training: forward sees the matrices rounded to int6."""
        for module in self.modules():
            if isinstance(module, Linear | Embedding):
                module.fake_quantise = enabled

    def set_recurrence(self, enabled: bool) -> None:
        """Switches depth recurrence, which is on in a new model, where the configuration has any."""
        self.recurrent = enabled

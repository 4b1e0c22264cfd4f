"""The GPT one token at a time: the same windows as in scoring, with keys and values kept.

`GPT.forward` is the definition. Here each token's keys and values are computed once per window and kept,
and weights that only scale others' outputs are multiplied into them beforehand, so that a step is few and
small operations. The two agree up to the rounding of float32.

Shapes: n tokens at once (one, but where a window begins), D = ``width``, H query heads, G key/value heads,
R = H / G, C = D / H channels a head, V = ``vocab_size``.
"""

import copy
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridlm.errors import InputError
from hybridlm.model.config import ModelConfig
from hybridlm.model.gpt import GPT, SPARSE_GATE_SCALE, Block, TokenSmearGate, rotary_angles, seen_weight

_EPSILON = torch.finfo(torch.float32).eps  # what F.rms_norm adds


def _rms_norm(x: Tensor) -> Tensor:
    """F.rms_norm over the last dimension in a third of its operations."""
    return x * x.square().mean(-1, keepdim=True).add_(_EPSILON).rsqrt_()


class _KVCache:
    """Keys and values of the current window, [G, window, C] each, where the forward pass runs a layer."""

    def __init__(self, config: ModelConfig, window: int) -> None:
        self.keys = torch.zeros(config.kv_heads, window, config.head_width)
        self.values = torch.zeros(config.kv_heads, window, config.head_width)


class _Layer:
    """A block's weights, multiplied out."""

    def __init__(self, block: Block, gpt: GPT, layer: int) -> None:
        config = gpt.config
        attention, mlp = block.attention, block.mlp
        self.heads, self.groups, self.channels = config.heads, config.kv_heads, config.head_width
        self.first = layer == 0
        self.qk_norm = config.qk_norm
        self.excludes_own_value = attention.excludes_own_value
        self.slope = config.leaky_relu_slope
        self.residual_mix = block.residual_mix

        # Queries, keys, values and gates in one product.
        value = seen_weight(attention.value)
        self.from_first, self.from_own = 0.0, 1.0
        if attention.value_mix is not None:
            self.from_first, self.from_own = attention.value_mix.tolist()
            if not self.first:
                # Later layers need the first layer's values unmixed, but not those of this one.
                value, self.from_own = value * self.from_own, 1.0
        parts = [seen_weight(attention.query), seen_weight(attention.key), value]
        self.gate_bias = None
        if attention.gated:
            parts.append(attention.gate_weight)
            self.gate_bias = attention.gate_bias[:, None]
        elif attention.sparse_gate is not None:
            gate = attention.sparse_gate
            parts.append(SPARSE_GATE_SCALE * F.pad(gate, (0, config.width - gate.shape[1])))
            self.gate_bias = torch.zeros(self.heads, 1)
        self.inputs = torch.cat(parts) * block.norm_scale
        self.splits = [part.shape[0] for part in (torch.cat(parts[:2]), *parts[2:])]
        gain = torch.ones(self.heads) if attention.query_gain is None else attention.query_gain
        self.query_gain = (gain / math.sqrt(self.channels))[:, None]

        def scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
            return weight if scale is None else weight * scale[:, None]

        self.output = scaled(seen_weight(attention.output), block.attention_scale)
        self.up = seen_weight(mlp.up) * block.norm_scale
        down = scaled(seen_weight(mlp.down), block.mlp_scale)
        self.bias = None if mlp.hidden_bias is None else down @ mlp.hidden_bias
        self.down = down if mlp.hidden_scale is None else down * mlp.hidden_scale
        self.lane_mix = None if block.lane_mix is None else block.lane_mix.tolist()

    def run(
        self,
        x: Tensor,
        lane: Tensor | None,
        x0: Tensor,
        first_value: Tensor | None,
        rotation: "_Rotation | None",
        cache: _KVCache,
        span: "_Span",
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Stream x, second lane and embedding output x0, all [n, D], of the positions in ``span`` → stream
        and second lane after the block, and its unmixed values [G, n, C]."""
        read = x
        if self.residual_mix is not None:
            read = torch.addcmul(self.residual_mix[1] * x0, self.residual_mix[0], x)
        attended, value = self._attend(_rms_norm(read), first_value, rotation, cache, span)
        if lane is None or self.lane_mix is None:
            x = read + attended
            return x + self._compute(x), None, value
        computed = self._compute(lane)
        (keep, attention, mlp), (lane_keep, lane_attention, lane_mlp) = self.lane_mix
        return (
            keep * x + attention * attended + mlp * computed,
            lane_keep * lane + lane_attention * attended + lane_mlp * computed,
            value,
        )

    def _compute(self, x: Tensor) -> Tensor:
        """What the MLP makes of x [n, D]."""
        hidden = F.leaky_relu(F.linear(_rms_norm(x), self.up), self.slope)
        return F.linear(hidden.square_(), self.down, self.bias)

    def _attend(
        self,
        x: Tensor,
        first_value: Tensor | None,
        rotation: "_Rotation | None",
        cache: _KVCache,
        span: "_Span",
    ) -> tuple[Tensor, Tensor]:
        at, start = span.at, span.start
        n, end = x.shape[0], at + x.shape[0]
        both, own, *gates = torch.split(F.linear(x, self.inputs), self.splits, dim=1)
        both = both.view(n, -1, self.channels).transpose(0, 1)  # [H + G, n, C]
        own = own.view(n, self.groups, self.channels).transpose(0, 1)
        if self.qk_norm:
            both = _rms_norm(both)
        if rotation is not None:
            both = rotation.apply(both, at)
        query = both[: self.heads] * self.query_gain[:, :, None]
        if first_value is None:
            value = own * (self.from_first + self.from_own)
        else:
            value = own if self.from_own == 1 else own * self.from_own
            value = torch.add(value, first_value, alpha=self.from_first) if self.from_first else value
        cache.keys[:, at:end] = both[self.heads :]
        cache.values[:, at:end] = value

        # Query heads of a group side by side: [G, R·n, C].
        query = query.reshape(self.groups, -1, self.channels)
        scores = torch.bmm(query, cache.keys[:, start:end].transpose(1, 2))
        if span.hidden is not None:
            scores.view(self.groups, -1, n, end - start).masked_fill_(span.hidden, -math.inf)
        y = torch.bmm(scores.softmax(dim=-1), cache.values[:, start:end])
        if self.excludes_own_value:
            y = self._without_own_value(y, value)
        y = y.view(self.heads, n, self.channels)
        if self.gate_bias is not None:
            y = y * torch.sigmoid(gates[0].t() + self.gate_bias)[:, :, None]
        return F.linear(y.transpose(0, 1).reshape(n, -1), self.output), own

    def _without_own_value(self, y: Tensor, value: Tensor) -> Tensor:
        """y − (y·v) v / (v·v) for y [G, R·n, C] and values v [G, n, C]."""
        v = value.unsqueeze(1)
        y = y.view(self.groups, -1, value.shape[1], self.channels)
        share = (y * v).sum(-1, keepdim=True) / (v * v).sum(-1, keepdim=True).clamp_(min=1e-24)
        return torch.addcmul(y, share, v, value=-1.0)


class _Rotation:
    """Rotary embedding of the first channels: x · cos + swapped(x) · sin, all positions computed once."""

    def __init__(self, window: int, channels: int, dims: int, base: float) -> None:
        cos, sin = rotary_angles(window, dims, base, torch.device("cpu"))
        half, rest = dims // 2, channels - dims
        self.cos = torch.cat((cos, cos, torch.ones(window, rest)), dim=1)
        self.sin = torch.cat((-sin, sin, torch.zeros(window, rest)), dim=1)
        order = [*range(half, dims), *range(half), *range(dims, channels)]
        self.swapped = torch.tensor(order)

    def apply(self, x: Tensor, at: int) -> Tensor:
        """x [heads, n, C] of positions from ``at`` on."""
        end = at + x.shape[1]
        return torch.addcmul(x * self.cos[at:end], x.index_select(2, self.swapped), self.sin[at:end])


class _Span:
    """Positions from ``at`` to the end of ``tokens``, a window's so far, and what each of them may see.

    start: the first position that any of them may see. hidden: bool [n, end − start], true where a row may
    not see a column, or None where each may see all.
    """

    def __init__(self, tokens: Tensor, at: int, config: ModelConfig) -> None:
        self.at, self.start = at, 0
        self.hidden: Tensor | None = None
        n, end = len(tokens) - at, len(tokens)
        document = (tokens == config.bos_id).cumsum(0) if config.document_attention else None
        if document is not None:
            self.start = int(torch.searchsorted(document, document[at]))
        if n > 1:
            self.hidden = torch.ones(n, end - self.start, dtype=torch.bool).triu_(at - self.start + 1)
            if document is not None:
                self.hidden |= document[at:, None] != document[self.start :]


class IncrementalGPT:
    """ln p of each next token, step by step, over the windows of scoring.

    Windows are those of `hybridlm.scoring.windows.WindowGrid`: of ``window`` tokens each, ``stride`` apart.
    When one is full, the next begins with its last window − stride tokens. Weights are copied: what becomes
    of the model later is not seen. Everything is float32 on the CPU. The same tokens give the same bits, with
    the same version of PyTorch, number of threads (one is best) and kind of processor.

    Raises InputError unless 1 ≤ stride ≤ window.
    """

    @torch.inference_mode()
    def __init__(self, model: GPT, window: int, stride: int) -> None:
        if not 1 <= stride <= window:
            raise InputError(f"the stride {stride} must be between 1 and the window, {window}")
        model = copy.deepcopy(model)
        config = model.config
        self._config = config
        self._window, self._stride = window, stride
        self._embedding = seen_weight(model.token_embedding)
        self._bigrams = None
        if model.bigram_hash is not None:
            table = seen_weight(model.bigram_hash.table)
            self._bigrams = F.linear(table, seen_weight(model.bigram_hash.projection))
        self._smear: tuple[Tensor, Tensor] | Tensor | None = None
        if isinstance(model.smear_gate, TokenSmearGate):
            self._smear = (model.smear_gate.strength, model.smear_gate.gate)
        elif model.smear_gate is not None:
            self._smear = torch.sigmoid(model.smear_gate.gate)
        self._rotation = (
            _Rotation(window, config.head_width, config.rope_dims, config.rope_base)
            if config.rope_dims
            else None
        )
        layers = [_Layer(cast(Block, block), model, layer) for layer, block in enumerate(model.blocks)]
        # In the order of the forward pass, in which a recurrent layer comes several times.
        self._order = [
            (layer, layers[layer], _KVCache(config, window)) for layer in config.layer_order(model.recurrent)
        ]
        self._encoder = len(self._order) // 2 if config.unet_skips else 0
        if self._encoder:
            gate = torch.sigmoid(model.skip_gate)
            self._of_skip, self._of_stream = (1 - gate) * model.skip_weight, gate
        head = seen_weight(model.token_embedding if model.head is None else model.head)
        cap = config.logit_softcap
        self._softcap = model.softcap
        self._head = head / cap if cap and self._softcap is None else head
        self._tokens = torch.zeros(window, dtype=torch.int64)
        self._filled = 0
        self._last: Tensor | None = None  # the latest embedding, as the smear gate needs it

    @torch.inference_mode()
    def step(self, token: int) -> Tensor:
        """Shown the token that came, the ln p of each possible next one, float32 [V]."""
        if not 0 <= token < self._config.vocab_size:
            raise InputError(f"token {token} is outside the vocabulary of {self._config.vocab_size}")
        start = self._filled
        if start == self._window:
            kept = self._window - self._stride
            self._tokens[:kept] = self._tokens[self._stride :].clone()
            self._tokens[kept] = token
            start, self._filled = 0, kept + 1
        else:
            self._tokens[start] = token
            self._filled = start + 1
        return F.log_softmax(self._logits(start), dim=0)

    def _logits(self, at: int) -> Tensor:
        """Runs the window's tokens from position ``at`` on; what the last of them makes of the next, [V]."""
        x = self._embed(at)
        span = _Span(self._tokens[: self._filled], at, self._config)
        x0, lane, first_value = x, None, None
        skips: list[Tensor] = []
        for position, (index, layer, cache) in enumerate(self._order):
            if index == self._config.first_lane_layer:
                lane = x
            if position >= self._encoder and skips:
                row = position - self._encoder
                x = torch.addcmul(self._of_skip[row] * skips.pop(), self._of_stream[row], x)
            x, lane, value = layer.run(x, lane, x0, first_value, self._rotation, cache, span)
            first_value = value if first_value is None else first_value
            if position < self._encoder:
                skips.append(x)
        logits = torch.mv(self._head, _rms_norm(x[-1] if lane is None else (x[-1] + lane[-1]) / 2))
        if self._softcap is not None:
            caps = torch.where(logits < 0, self._softcap[1], self._softcap[0])
            return torch.tanh_(logits.div_(caps)).mul_(caps)
        return torch.tanh_(logits).mul_(cap) if (cap := self._config.logit_softcap) else logits

    def _embed(self, at: int) -> Tensor:
        tokens = self._tokens[at : self._filled]
        x = self._embedding.index_select(0, tokens)
        if self._bigrams is not None:
            previous = self._tokens[at - 1 : self._filled - 1] if at else F.pad(tokens[:-1], (1, 0))
            x += self._bigrams.index_select(0, (1009 * previous + tokens) % len(self._bigrams))
        x = _rms_norm(x)
        if self._smear is None:
            return x
        inside = (tokens != self._config.bos_id).unsqueeze(-1)
        if isinstance(self._smear, Tensor):
            before = x[:1] if at == 0 or self._last is None else self._last
            self._last, previous = x[-1:], torch.cat((before, x[:-1]))
            return torch.lerp(x, previous, self._smear * inside)
        before = torch.zeros_like(x[:1]) if at == 0 or self._last is None else self._last
        self._last, previous = x[-1:], torch.cat((before, x[:-1]))
        strength, weight = self._smear
        gate = torch.sigmoid(x[:, : len(weight)] @ weight).unsqueeze(-1)
        return torch.addcmul(x, strength * gate * inside, previous)

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridlm.errors import FormatError, InputError
from hybridlm.model import GPT, ModelConfig
from hybridlm.model.gpt import (
    Attention,
    Block,
    SmearGate,
    TokenSmearGate,
    attend,
    document_block_mask,
    document_mask,
    exclude_own_value,
    rotary_angles,
)
from hybridlm.model.rounding import fake_quantise, is_quantised

BOS = 1
SMALL = ModelConfig(
    vocab_size=64,
    layers=5,
    width=32,
    heads=4,
    kv_heads=2,
    mlp_hidden=48,
    rope_dims=4,
    bigram_rows=96,
    bigram_width=8,
)


def randomised(config: ModelConfig, seed: int = 0) -> GPT:
    """A model none of whose parts is inactive, as the zero-initialised ones are at first."""
    torch.manual_seed(seed)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def some_tokens(*shape: int) -> Tensor:
    tokens = torch.randint(2, SMALL.vocab_size, shape, generator=torch.Generator().manual_seed(1))
    tokens[..., ::7] = BOS
    return tokens


@pytest.mark.parametrize("changed", [0, 1, 6, 7, 8, 18])
def test_a_later_token_changes_no_earlier_logit(changed: int) -> None:
    model = randomised(SMALL)
    tokens = some_tokens(2, 19)
    other = tokens.clone()
    other[:, changed:] = (other[:, changed:] + 5) % SMALL.vocab_size
    with torch.no_grad():
        before, after = model(tokens), model(other)
    assert torch.equal(before[:, :changed], after[:, :changed])
    assert not torch.allclose(before[:, changed], after[:, changed])


def test_logits_do_not_depend_on_the_batch_or_on_what_follows() -> None:
    model = randomised(SMALL)
    tokens = some_tokens(3, 16)
    with torch.no_grad():
        together = model(tokens)
        alone = model(tokens[1:2, :9])
    assert together.shape == (3, 16, SMALL.vocab_size)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together[1:2, :9], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("switch", "parameters"),
    [
        ({"unet_skips": False}, {"skip_weight", "skip_gate"}),
        ({"residual_mix": False}, {"residual_mix"}),
        ({"branch_scales": False}, {"attention_scale", "mlp_scale"}),
        ({"query_gain": False}, {"query_gain"}),
        ({"value_residual": False}, {"value_mix"}),
        ({"gated_attention": False}, {"gate_weight", "gate_bias"}),
        ({"mlp_affine": False}, {"hidden_scale", "hidden_bias"}),
        ({"smear_gate": False}, {"smear_gate.gate"}),
        ({"bigram_rows": 0}, {"bigram_hash.table.weight", "bigram_hash.projection.weight"}),
        ({"tied_embeddings": False}, {"head.weight"}),
        ({"qk_norm": False}, set()),
        ({"rope_dims": 0}, set()),
        ({"rope_base": 100.0}, set()),
        ({"xsa_layers": 0}, set()),
        ({"xsa_layers": 1}, set()),
        ({"depth_scaled_norm": False}, set()),
        ({"logit_softcap": 0.0}, set()),
        ({"leaky_relu_slope": 0.75}, set()),
        ({"lane_layers": 2}, {"lane_mix"}),
        ({"sparse_gate_channels": 12, "gated_attention": False}, {"sparse_gate", "gate_weight", "gate_bias"}),
        ({"smear_channels": 12, "smear_gate": False}, {"smear_gate.strength"}),
        ({"asymmetric_softcap": True}, {"softcap"}),
        ({"document_attention": True}, set()),
        ({"unet_skips": False, "recurrences": 3}, {"skip_weight", "skip_gate"}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_switch_changes_the_result_and_its_own_parameters_alone(
    switch: dict[str, Any], parameters: set[str]
) -> None:
    full, other = randomised(SMALL), randomised(dataclasses.replace(SMALL, **switch), seed=1)
    state = full.state_dict()
    if other.softcap is not None:
        torch.nn.init.constant_(other.softcap, 3.0)
    differing = state.keys() ^ other.state_dict().keys()
    endings = {next((end for end in parameters if name.endswith(end)), name) for name in differing}
    assert endings == parameters

    mine = {name: value.shape for name, value in other.state_dict().items()}
    other.load_state_dict(
        {name: value for name, value in state.items() if mine.get(name) == value.shape}, False
    )
    tokens = some_tokens(2, 12)
    with torch.no_grad():
        assert not torch.allclose(full(tokens), other(tokens), atol=1e-3)
    other.loss(tokens, torch.ones(2, 11), torch.tensor(22.0))[0].backward()
    assert all(parameter.grad is not None for parameter in other.parameters())


def slow_attention(
    module: Attention, config: ModelConfig, x: Tensor, first_value: Tensor | None, starts: list[int]
) -> Tensor:
    """One head and one position at a time, with complex numbers for the rotations. x: float64 [T, D].

    starts: the first position that each may see.
    """
    weights = {name: value.double() for name, value in module.state_dict().items()}
    width, shared = config.head_width, config.heads // config.kv_heads
    query = x @ weights["query.weight"].T
    key = x @ weights["key.weight"].T
    value = x @ weights["value.weight"].T
    mix = weights["value_mix"]
    value = mix[0] * (value if first_value is None else first_value) + mix[1] * value

    def turned(vector: Tensor, position: int) -> Tensor:
        vector = vector / (vector.square().mean() + torch.finfo(torch.float32).eps).sqrt()
        half = config.rope_dims // 2
        pairs = [complex(vector[i], vector[i + half]) for i in range(half)]
        pairs = [
            pair * complex(math.cos(angle), math.sin(angle))
            for i, pair in enumerate(pairs)
            for angle in [position * config.rope_base ** (-2 * i / config.rope_dims)]
        ]
        start = [pair.real for pair in pairs] + [pair.imag for pair in pairs]
        return torch.cat((torch.tensor(start, dtype=torch.float64), vector[config.rope_dims :]))

    rows = []
    for position in range(len(x)):
        heads = []
        for head in range(config.heads):
            group = slice(head // shared * width, (head // shared + 1) * width)
            q = turned(query[position, head * width : (head + 1) * width], position)
            q = q * weights["query_gain"][head]
            start = starts[position]
            scores = torch.stack([q @ turned(key[p, group], p) for p in range(start, position + 1)])
            y = torch.softmax(scores / math.sqrt(width), 0) @ value[start : position + 1, group]
            if module.excludes_own_value:
                own = value[position, group]
                y = y - (y @ own) / (own @ own) * own
            if config.sparse_gate_channels:
                gate = torch.sigmoid(0.5 * (weights["sparse_gate"][head] @ x[position, :12]))
            else:
                gate = torch.sigmoid(weights["gate_weight"][head] @ x[position] + weights["gate_bias"][head])
            heads.append(gate * y)
        rows.append(torch.cat(heads) @ weights["output.weight"].T)
    return torch.stack(rows)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("sparse", [False, True])
def test_attention_equals_a_slow_reference(layer: int, sparse: bool) -> None:
    """Sparse: with the sparse gate, and for a text of three documents that don't see each other."""
    config = dataclasses.replace(SMALL, sparse_gate_channels=12, gated_attention=False) if sparse else SMALL
    model = randomised(config)
    module = cast(Block, model.blocks[layer]).attention
    assert module.excludes_own_value == (layer == 1)
    tokens = torch.tensor([[5, 5, BOS, 5, 5, 5, BOS, BOS, 5]])
    mask = document_mask(tokens, BOS) if sparse else None
    starts = [0, 0, 2, 2, 2, 2, 6, 7, 7] if sparse else [0] * 9
    x = torch.randn(9, SMALL.width)
    first_value = torch.randn(9, SMALL.kv_heads * SMALL.head_width) if layer else None
    split = None if first_value is None else first_value.view(1, 9, SMALL.kv_heads, -1).transpose(1, 2)
    angles = rotary_angles(9, SMALL.rope_dims, SMALL.rope_base, x.device)
    with torch.no_grad():
        got, value = module(x[None], split, angles, mask)
        wanted = slow_attention(
            module, config, x.double(), None if first_value is None else first_value.double(), starts
        )
    torch.testing.assert_close(got[0].double(), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(value.transpose(1, 2).reshape(9, -1), x @ module.value.weight.T)


def test_what_xsa_leaves_is_orthogonal_to_the_own_value() -> None:
    y, value = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 5, 8)
    rest = exclude_own_value(y, value)
    values = value.repeat_interleave(2, dim=1)
    assert (rest * values).sum(-1).abs().max() < 1e-5
    # What was taken away lies along the value.
    along = F.cosine_similarity(y - rest, values, dim=-1).abs()
    torch.testing.assert_close(along, torch.ones_like(along))
    torch.testing.assert_close(exclude_own_value(rest, value), rest)


def test_smear_gate_blends_neighbours_but_not_across_the_start_of_a_document() -> None:
    gate = SmearGate(SMALL)
    torch.nn.init.normal_(gate.gate)
    tokens = some_tokens(2, 16)
    x = torch.randn(2, 16, SMALL.width)
    share = torch.sigmoid(gate.gate)
    with torch.no_grad():
        got = gate(x, tokens)
        for row in range(2):
            for t in range(16):
                blended = (1 - share) * x[row, t] + share * x[row, t - 1]
                wanted = x[row, t] if t == 0 or tokens[row, t] == BOS else blended
                torch.testing.assert_close(got[row, t], wanted)


def test_token_smear_gate_adds_the_previous_embedding_within_a_document(recipe: ModelConfig) -> None:
    gate = TokenSmearGate(recipe)
    tokens, x = some_tokens(2, 16), torch.randn(2, 16, recipe.width)
    assert torch.equal(gate(x, tokens), x), "at first, λ = 0 leaves everything as it is"
    torch.nn.init.constant_(gate.strength, 0.7)
    torch.nn.init.normal_(gate.gate)
    with torch.no_grad():
        got = gate(x, tokens)
        for row in range(2):
            for t in range(16):
                added = 0.7 * torch.sigmoid(gate.gate @ x[row, t, :12]) * x[row, t - 1]
                wanted = x[row, t] if t == 0 or tokens[row, t] == BOS else x[row, t] + added
                torch.testing.assert_close(got[row, t], wanted)


def test_bigram_rows_are_those_of_the_last_two_tokens() -> None:
    model = randomised(SMALL)
    assert model.bigram_hash is not None
    tokens = some_tokens(1, 10)
    with torch.no_grad():
        got = model.bigram_hash(tokens)[0]
        previous = 0
        for t, token in enumerate(tokens[0].tolist()):
            row = model.bigram_hash.table.weight[(1009 * previous + token) % SMALL.bigram_rows]
            torch.testing.assert_close(got[t], model.bigram_hash.projection.weight @ row)
            previous = token


def test_a_fresh_model_is_its_embedding_alone() -> None:
    """Zero-initialised projections: all blocks are the identity, whatever they would add later."""
    config = dataclasses.replace(SMALL, unet_skips=False, smear_gate=False)
    model = GPT(config)
    tokens = some_tokens(2, 8)
    x = F.rms_norm(model.token_embedding.weight[tokens], (config.width,))
    x = F.rms_norm(x, (config.width,))  # once at the bottom, once at the top
    wanted = 30 * torch.tanh(x @ model.token_embedding.weight.T / 30)
    torch.testing.assert_close(model(tokens), wanted)
    deviation = model.token_embedding.weight.std().item()
    assert deviation == pytest.approx(config.embedding_std, rel=0.1)


def test_skips_are_taken_up_last_out_first_in() -> None:
    """Blocks that only scale channels make the stream a product that can be followed by hand."""
    config = dataclasses.replace(SMALL, layers=5, bigram_rows=0, smear_gate=False)
    model = randomised(config)
    scales = []
    for block in model.blocks:
        block = cast(Block, block)
        assert block.residual_mix is not None
        torch.nn.init.zeros_(cast(Tensor, block.attention_scale))
        torch.nn.init.zeros_(cast(Tensor, block.mlp_scale))
        torch.nn.init.zeros_(block.residual_mix[1])
        scales.append(block.residual_mix[0])
    tokens = some_tokens(1, 6)
    gate = torch.sigmoid(model.skip_gate)
    with torch.no_grad():
        x = F.rms_norm(model.token_embedding.weight[tokens], (config.width,))
        first = scales[0] * x
        second = scales[1] * first
        x = gate[0] * second + (1 - gate[0]) * model.skip_weight[0] * second
        x = scales[2] * x
        x = gate[1] * x + (1 - gate[1]) * model.skip_weight[1] * first
        x = scales[4] * (scales[3] * x)
        logits = F.rms_norm(x, (config.width,)) @ model.token_embedding.weight.T
        torch.testing.assert_close(model(tokens), 30 * torch.tanh(logits / 30), rtol=1e-4, atol=1e-4)


def slow_stack(model: GPT, tokens: Tensor, order: list[int], lanes_from: int) -> Tensor:
    """Logits of tokens [T], by the layers in the given order; lanes are a list, skips are looked up."""
    config = model.config
    x = F.rms_norm(model.token_embedding.weight[tokens], (config.width,))
    assert model.smear_gate is not None
    x0 = model.smear_gate(x[None], tokens[None])[0]
    rotation = rotary_angles(len(tokens), config.rope_dims, config.rope_base, x.device)
    mask = document_mask(tokens[None], BOS)
    half = len(order) // 2
    lanes, outputs, first_value = [x0, x0], [], None
    for position, layer in enumerate(order):
        block = cast(Block, model.blocks[layer])
        two = layer >= lanes_from
        if position >= half and position - half < half:
            share = torch.sigmoid(model.skip_gate[position - half])
            weight = model.skip_weight[position - half]
            lanes[0] = share * lanes[0] + (1 - share) * weight * outputs[2 * half - 1 - position]
            if not two:
                lanes[1] = lanes[0]
        mix, attention_scale, mlp_scale = block.residual_mix, block.attention_scale, block.mlp_scale
        assert mix is not None and attention_scale is not None and mlp_scale is not None
        read = mix[0] * lanes[0] + mix[1] * x0

        def normed(x: Tensor, layer: int = layer) -> Tensor:
            return (F.rms_norm(x, (config.width,)) / math.sqrt(layer + 1))[None]

        attended, value = block.attention(normed(read), first_value, rotation, mask)
        first_value = value if first_value is None else first_value
        attended = attention_scale * attended[0]
        if two:
            assert block.lane_mix is not None
            computed = mlp_scale * block.mlp(normed(lanes[1]))[0]
            lanes = [
                r * lane + a * attended + m * computed
                for lane, (r, a, m) in zip(lanes, block.lane_mix, strict=True)
            ]
        else:
            x = read + attended
            x = x + mlp_scale * block.mlp(normed(x))[0]
            lanes = [x, x]
        outputs.append(lanes[0])
    z = F.rms_norm((lanes[0] + lanes[1]) / 2, (config.width,)) @ model.token_embedding.weight.T
    assert model.softcap is not None
    return torch.stack(
        [torch.stack([c * torch.tanh(v / c) for v in row for c in [model.softcap[int(v < 0)]]]) for row in z]
    )


@torch.no_grad()
def test_recurrence_lanes_skips_and_caps_equal_a_slow_reference(recipe: ModelConfig) -> None:
    model = randomised(recipe)
    assert model.softcap is not None and model.skip_weight.shape == (3, recipe.width)
    model.softcap.copy_(torch.tensor([3.0, 5.0]))
    tokens = some_tokens(12)
    for recurrent, order in ((True, [0, 1, 2, 1, 2, 3, 4]), (False, [0, 1, 2, 3, 4])):
        model.set_recurrence(recurrent)
        assert recipe.layer_order(recurrent) == order
        wanted = slow_stack(model, tokens, order, lanes_from=3)
        torch.testing.assert_close(model(tokens[None])[0], wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_recurrence_of_once_is_the_plain_model_and_off_leaves_one_pass() -> None:
    plain = randomised(SMALL)
    for switches in ({"recurrence_last": 3}, {"recurrences": 3, "recurrence_last": 2, "recurrence_first": 1}):
        config = dataclasses.replace(SMALL, **switches)  # type: ignore[arg-type]
        model = randomised(config)
        state = {name: value for name, value in plain.state_dict().items() if "skip" not in name}
        model.load_state_dict(state, strict=False)
        rows = len(plain.skip_weight)
        model.skip_weight[:rows], model.skip_gate[:rows] = plain.skip_weight, plain.skip_gate
        model.set_recurrence(False)
        tokens = some_tokens(2, 9)
        assert torch.equal(model(tokens), plain(tokens))


def test_a_fresh_model_of_the_whole_recipe_is_its_embedding_alone(recipe: ModelConfig) -> None:
    """Lanes only scale the stream alike at first, the smear gate adds nothing, both caps are one."""
    model = GPT(dataclasses.replace(recipe, unet_skips=False))
    tokens = some_tokens(2, 8)
    x = F.rms_norm(model.token_embedding.weight[tokens], (recipe.width,))
    wanted = 30 * torch.tanh(F.rms_norm(x, (recipe.width,)) @ model.token_embedding.weight.T / 30)
    torch.testing.assert_close(model(tokens), wanted)
    block = cast(Block, model.blocks[4])
    assert block.lane_mix is not None and block.attention.query_gain is not None
    assert block.lane_mix.tolist() == [pytest.approx([1.1, 1, 1])] * 2
    assert block.attention.query_gain.tolist() == [5.0] * 4
    # σ(0): every head is heard at half its strength.
    y = torch.randn(1, 3, recipe.width)
    torch.nn.init.eye_(block.attention.output.weight)
    half = block.attention(y, None, None)[0]
    block.attention.sparse_gate = None
    torch.testing.assert_close(2 * half, block.attention(y, None, None)[0])


@torch.no_grad()
def test_documents_are_read_as_if_each_were_alone(recipe: ModelConfig) -> None:
    """With attention limited to documents, neither it nor the smear gate carries anything across."""
    model = randomised(recipe)
    tokens = some_tokens(1, 20)
    tokens[0, 3] = BOS
    together = model(tokens)[0]
    starts = [t for t in range(20) if tokens[0, t] == BOS]
    for start, end in zip(starts, [*starts[1:], 20], strict=True):
        alone = model(tokens[:, start:end])[0]
        torch.testing.assert_close(together[start:end], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_blockwise_mask_of_cuda_sees_what_the_plain_one_sees() -> None:
    """Within a compiled graph, as there; and with the dtypes that normalisation under autocast leaves."""
    tokens = some_tokens(2, 40)
    tokens[1, 5:9] = BOS
    query, key, value = torch.randn(2, 4, 40, 8), torch.randn(2, 2, 40, 8), torch.randn(2, 2, 40, 8)

    def blockwise(value: Tensor) -> Tensor:
        return attend(query, key, value, document_block_mask((tokens == BOS).cumsum(1)))

    traced = torch.compile(blockwise, fullgraph=True, backend="eager")
    wanted = attend(query, key, value, document_mask(tokens, BOS))
    torch.testing.assert_close(traced(value), wanted)
    torch.testing.assert_close(traced(value.bfloat16()).float(), wanted, rtol=0.05, atol=0.05)


def test_logits_stay_below_the_cap() -> None:
    model = randomised(dataclasses.replace(SMALL, logit_softcap=3.0))
    torch.nn.init.normal_(model.token_embedding.weight, std=50.0)
    assert model(some_tokens(1, 9)).abs().max() <= 3.0


def test_loss_weighs_each_target() -> None:
    model = randomised(SMALL)
    tokens = some_tokens(3, 10)
    weights = torch.rand(3, 9)
    log_probs = torch.log_softmax(model(tokens[:, :-1]), -1)
    nats = [[-log_probs[b, t, tokens[b, t + 1]].item() for t in range(9)] for b in range(3)]
    loss, total = model.loss(tokens, weights, weights.sum())
    weighted = sum(weights[b, t].item() * nats[b][t] for b in range(3) for t in range(9))
    assert loss.item() == pytest.approx(weighted / weights.sum().item(), rel=1e-5)
    assert total.item() == pytest.approx(sum(map(sum, nats)), rel=1e-5)
    # Scaling the mean loss by the mean weight would be another objective.
    scaled = weights.mean().item() * total.item() / 27
    assert loss.item() != pytest.approx(scaled, rel=1e-3)


def test_quantisation_aware_training_sees_int6_and_moves_what_it_rounds() -> None:
    config = dataclasses.replace(SMALL, width=64, mlp_hidden=64, bigram_width=32)
    aware, rounded = randomised(config), randomised(config)
    aware.set_fake_quantisation(True)
    with torch.no_grad():
        for parameter in rounded.parameters():
            if is_quantised(parameter):
                parameter.copy_(fake_quantise(parameter))
    tokens, weights, total = some_tokens(2, 10), torch.ones(2, 9), torch.tensor(18.0)
    for model in (aware, rounded):
        model.loss(tokens, weights, total)[0].backward()
    # Straight through: the gradient at the rounded weights is the gradient of the weights themselves.
    for (name, mine), theirs in zip(aware.named_parameters(), rounded.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    aware.set_fake_quantisation(False)
    with torch.no_grad():
        assert not torch.equal(aware(tokens), rounded(tokens))


def test_each_phase_of_training_is_one_graph_that_is_compiled_once(recipe: ModelConfig) -> None:
    """So that neither depth recurrence nor rounding brings compilation into the middle of a run."""
    model = randomised(recipe)
    tokens = some_tokens(2, 10)
    weights, total = torch.rand(2, 9), torch.tensor(7.0)
    compiled = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        compiled.append(module)
        return module.forward

    traced = torch.compile(model.loss, fullgraph=True, dynamic=False, backend=backend)
    phases = [(False, False), (True, False), (True, True)]
    for recurrent, quantised in [*phases, *phases]:
        model.set_recurrence(recurrent)
        model.set_fake_quantisation(quantised)
        torch.testing.assert_close(traced(tokens, weights, total), model.loss(tokens, weights, total))
    assert len(compiled) == len(phases)


def test_the_configuration_survives_json() -> None:
    config = dataclasses.replace(SMALL, rope_base=500.0, smear_gate=False)
    assert ModelConfig.from_json(config.to_json(), "x") == config


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"depth": 3}', "unknown entries: depth"),
        ('{"layers": "3"}', "layers is '3'"),
        ('{"layers": true}', "layers is True"),
        ('{"layers": 0}', "at least 1"),
        ('{"width": 30, "heads": 4}', "not a multiple"),
    ],
)
def test_a_foreign_configuration_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(FormatError, match=rf"some\.file: .*{complaint}"):
        ModelConfig.from_json(text, "some.file")


@pytest.mark.parametrize(
    "sizes",
    [
        {"heads": 3},
        {"kv_heads": 3},
        {"rope_dims": 3},
        {"rope_dims": 10},
        {"mlp_hidden": 0},
        {"bigram_width": 0},
        {"layers": 1 << 31},
        {"rope_base": math.inf},
        {"rope_base": 0.5},
        {"logit_softcap": math.nan},
        {"bos_id": -1},
        {"recurrences": 0},
        {"recurrence_last": 5},
        {"recurrence_first": 2, "recurrence_last": 1},
        {"recurrence_first": -1},
        {"recurrences": 1 << 23},
        {"lane_layers": 6},
        {"lane_layers": 2, "recurrences": 2, "recurrence_last": 3},
        {"sparse_gate_channels": 12},
        {"sparse_gate_channels": 33, "gated_attention": False},
        {"smear_channels": 12},
        {"asymmetric_softcap": True, "logit_softcap": 0.0},
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"model\.{next(iter(sizes))}"):
        dataclasses.replace(SMALL, **sizes)


def test_a_model_needs_a_vocabulary() -> None:
    with pytest.raises(InputError, match="vocab_size"):
        GPT(dataclasses.replace(SMALL, vocab_size=0))


def test_configurations_come_without_torch() -> None:
    code = (
        "import sys, json, hybridlm.model.config, hybridlm.train.config, hybridlm.cli.train;"
        "print(json.dumps('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) is False


def test_a_model_that_is_read_has_pytorch_import_no_compiler(recipe: ModelConfig) -> None:
    """Seconds of every command that has a network. Shapes alone are made, on the device without memory."""
    code = (
        "import sys, torch; from hybridlm.model import GPT, ModelConfig\n"
        "for text in sys.argv[1:]:\n"
        "    with torch.device('meta'): model = GPT(ModelConfig.from_json(text, 'given'))\n"
        "    assert all(weight.is_meta for weight in model.parameters())\n"
        "print('torch._dynamo' in sys.modules)"
    )
    configs = [config.to_json() for config in (SMALL, recipe)]
    done = subprocess.run([sys.executable, "-c", code, *configs], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

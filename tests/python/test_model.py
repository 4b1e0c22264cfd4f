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
from hybridlm.model.gpt import Attention, Block, SmearGate, exclude_own_value
from hybridlm.model.quantise import fake_quantise_int6, is_quantised

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
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_each_switch_changes_the_result_and_its_own_parameters_alone(
    switch: dict[str, Any], parameters: set[str]
) -> None:
    full, other = randomised(SMALL), GPT(dataclasses.replace(SMALL, **switch))
    state = full.state_dict()
    differing = state.keys() ^ other.state_dict().keys()
    endings = {next((end for end in parameters if name.endswith(end)), name) for name in differing}
    assert endings == parameters

    other.load_state_dict({name: value for name, value in state.items() if name in other.state_dict()}, False)
    if other.head is not None:
        torch.nn.init.normal_(other.head.weight)
    tokens = some_tokens(2, 12)
    with torch.no_grad():
        assert not torch.allclose(full(tokens), other(tokens), atol=1e-3)
    other.loss(tokens, torch.ones(2, 11), torch.tensor(22.0))[0].backward()
    assert all(parameter.grad is not None for parameter in other.parameters())


def slow_attention(module: Attention, config: ModelConfig, x: Tensor, first_value: Tensor | None) -> Tensor:
    """One head and one position at a time, with complex numbers for the rotations. x: float64 [T, D]."""
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
            scores = torch.stack([q @ turned(key[p, group], p) for p in range(position + 1)])
            y = torch.softmax(scores / math.sqrt(width), 0) @ value[: position + 1, group]
            if module.excludes_own_value:
                own = value[position, group]
                y = y - (y @ own) / (own @ own) * own
            gate = torch.sigmoid(weights["gate_weight"][head] @ x[position] + weights["gate_bias"][head])
            heads.append(gate * y)
        rows.append(torch.cat(heads) @ weights["output.weight"].T)
    return torch.stack(rows)


@pytest.mark.parametrize("layer", [0, 1])
def test_attention_equals_a_slow_reference(layer: int) -> None:
    model = randomised(SMALL)
    module = cast(Block, model.blocks[layer]).attention
    assert module.excludes_own_value == (layer == 1)
    x = torch.randn(9, SMALL.width)
    first_value = torch.randn(9, SMALL.kv_heads * SMALL.head_width) if layer else None
    from hybridlm.model.gpt import rotary_angles

    split = None if first_value is None else first_value.view(1, 9, SMALL.kv_heads, -1).transpose(1, 2)
    angles = rotary_angles(9, SMALL.rope_dims, SMALL.rope_base, x.device)
    with torch.no_grad():
        got, value = module(x[None], split, angles)
        wanted = slow_attention(
            module, SMALL, x.double(), None if first_value is None else first_value.double()
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
                parameter.copy_(fake_quantise_int6(parameter))
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


def test_forward_is_one_graph() -> None:
    model = randomised(dataclasses.replace(SMALL, layers=2))
    tokens = some_tokens(2, 10)
    weights, total = torch.rand(2, 9), torch.tensor(7.0)
    traced = torch.compile(model.loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(tokens, weights, total), model.loss(tokens, weights, total))


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
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InputError):
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

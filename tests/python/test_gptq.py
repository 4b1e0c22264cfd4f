"""GPTQ against its definition, column by column, and what it is for: smaller errors of the outputs."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hybridlm.model import GPT, ModelConfig
from hybridlm.model.gptq import DAMPING, TIED_DAMPING, gptq, input_products
from hybridlm.model.grid import Grid
from hybridlm.model.rounding import round_to_grid, row_scales


def slow_gptq(weight: Tensor, scales: Tensor, grid: Grid, products: Tensor) -> Tensor:
    """Optimal brain quantisation in a fixed order: the inverse of what is left of H, anew for each column."""
    weight, scales = weight.double().clone(), scales.double()
    products = products + DAMPING * products.diagonal().mean() * torch.eye(len(products))
    left = sorted(range(len(products)), key=lambda column: -float(products[column, column]))
    rounded = torch.empty_like(weight)
    while left:
        inverse = torch.linalg.inv(products[left][:, left])
        column = left.pop(0)
        rounded[:, column] = round_to_grid(weight[:, column], scales[:, 0], grid)
        error = weight[:, column] - rounded[:, column] * scales[:, 0]
        weight[:, left] -= torch.outer(error, inverse[0, 1:] / inverse[0, 0])
    return rounded


def correlated(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """H of ``rows`` inputs whose channels have different sizes and much in common."""
    mixing = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ mixing
    inputs *= torch.rand(columns, generator=generator, dtype=torch.float64) ** 2 * 3
    return inputs.T @ inputs


def loss(weight: Tensor, integers: Tensor, scales: Tensor, products: Tensor) -> float:
    error = weight.double() - integers.double() * scales.double()
    return float(((error @ products) * error).sum())


@pytest.mark.parametrize(("columns", "text"), [(48, "6:std:6"), (150, "4:std:3"), (33, "3:absmax")])
def test_columns_are_rounded_as_their_definition_says(columns: int, text: str) -> None:
    generator = torch.Generator().manual_seed(columns)
    weight = torch.randn(20, columns, generator=generator)
    products = correlated(3 * columns, columns, generator)
    grid = Grid.parse(text)
    scales = row_scales(weight, grid)
    found = gptq(weight, scales, grid, products)
    assert torch.equal(found, slow_gptq(weight, scales, grid, products))
    assert not torch.equal(found, round_to_grid(weight, scales, grid).double()), "a test of something"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(20, 40),
    columns=st.integers(2, 160),
    inputs=st.integers(1, 300),
    bits=st.integers(3, 8),
)
def test_outputs_change_no_more_than_by_rounding_to_nearest(
    seed: int, rows: int, columns: int, inputs: int, bits: int
) -> None:
    """By what GPTQ minimises, H with its damping. It is greedy, so one row may lose; many together don't."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    products = correlated(inputs, columns, generator)
    grid = Grid.parse(f"{bits}:absmax")
    scales = row_scales(weight, grid)
    products += 1e-9 * torch.eye(columns)
    damped = products + DAMPING * products.diagonal().mean() * torch.eye(columns)
    nearest = loss(weight, round_to_grid(weight, scales, grid), scales, damped)
    assert loss(weight, gptq(weight, scales, grid, products), scales, damped) <= 1.05 * nearest


def test_independent_inputs_are_rounded_to_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 40, generator=generator)
    grid = Grid.parse("4:std:4")
    scales = row_scales(weight, grid)
    nearest = round_to_grid(weight.double(), scales.double(), grid)
    diagonal = torch.rand(40, generator=generator, dtype=torch.float64).diag()
    for products in (diagonal, torch.zeros(40, 40, dtype=torch.float64)):
        assert torch.equal(gptq(weight, scales, grid, products), nearest)


def test_inputs_that_are_never_used_are_no_obstacle() -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(8, 40, generator=generator)
    products = correlated(100, 40, generator)
    products[7], products[:, 7] = 0, 0
    grid = Grid.parse("6:std:6")
    scales = row_scales(weight, grid)
    found = gptq(weight, scales, grid, products)
    assert torch.equal(found, slow_gptq(weight, scales, grid, products))


def hooked_products(model: GPT, batches: list[Tensor]) -> dict[str, Tensor]:
    """XᵀX of each linear module's inputs, one call after the other, by forward hooks."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):

            def add(module: nn.Module, args: tuple[Tensor, ...], name: str = f"{name}.weight") -> None:
                inputs = args[0].double().flatten(0, -2)
                found[name] = found.get(name, torch.zeros(())) + inputs.T @ inputs

            hooks.append(module.register_forward_pre_hook(add))
    with torch.no_grad():
        for tokens in batches:
            model(tokens)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("tied", [True, False])
def test_products_are_those_of_all_inputs_of_all_uses(recipe: ModelConfig, tied: bool) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(recipe, tied_embeddings=tied, bigram_rows=64, bigram_width=32)
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    batches = [torch.randint(0, 64, (2, 12)) for _ in range(2)]
    last = []
    logits = model._logits
    model._logits = lambda x: (last.append(x.double().flatten(0, -2)), logits(x))[1]  # type: ignore[method-assign]
    wanted = hooked_products(model, batches)
    head = "token_embedding.weight" if tied else "head.weight"
    wanted[head] = torch.stack([x.T @ x for x in last]).sum(0)
    if tied:
        wanted[head] += TIED_DAMPING * wanted[head].diagonal().mean() * torch.eye(32)
    with torch.autocast("cpu", torch.bfloat16):
        found = input_products(model, batches)
    gates = {f"blocks.{layer}.attention.sparse_gate" for layer in range(5)}
    assert found.keys() == wanted.keys() | gates
    for name, products in wanted.items():
        torch.testing.assert_close(found[name], products, rtol=1e-5, atol=1e-6, msg=name)
    assert found["blocks.0.attention.sparse_gate"].shape == (12, 12)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_results_do_not_depend_on_the_number_of_threads(recipe: ModelConfig) -> None:
    torch.manual_seed(0)
    model = GPT(recipe)
    batches = [torch.randint(0, 64, (8, 64))]
    threads = torch.get_num_threads()
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        products = input_products(model, batches)
        weight = model.token_embedding.weight
        grid = Grid()
        integers = gptq(weight, row_scales(weight, grid), grid, products["token_embedding.weight"])
        found.append((products, integers))
        assert torch.get_num_threads() == number
    torch.set_num_threads(threads)
    assert torch.equal(found[0][1], found[1][1])
    for name, products in found[0][0].items():
        np.testing.assert_array_equal(products, found[1][0][name])

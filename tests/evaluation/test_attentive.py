"""The attentive probe's attention is attention, whatever the order in which it is computed."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from chexworld_ray.evaluation.attentive import look


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7), st.integers(0, 1000))
def test_one_query_for_all_images_is_looked_up_as_torch_does(heads: int, images: int, tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    width = heads * 3
    attention = nn.MultiheadAttention(width, heads, batch_first=True).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    query = torch.randn(width, dtype=torch.float64, requires_grad=True)
    tokens_BTD = torch.randn(images, tokens, width, dtype=torch.float64)
    theirs = attention(query.expand(images, 1, -1), tokens_BTD, tokens_BTD, need_weights=False)[0][:, 0]
    ours = look(attention, query, tokens_BTD)
    assert torch.allclose(ours, theirs)
    every = [query, *attention.parameters()]
    wanted = torch.autograd.grad(theirs.square().sum(), every)
    assert all(
        torch.allclose(one, other, atol=1e-9)
        for one, other in zip(torch.autograd.grad(ours.square().sum(), every), wanted, strict=True)
    )

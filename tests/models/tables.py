"""Names and shapes of published layers, written down once for the tests of every family's keys."""

from __future__ import annotations

import torch

Table = dict[str, tuple[int, ...]]


def linear(table: Table, name: str, outputs: int, inputs: int, bias: bool = True) -> None:
    table[f"{name}.weight"] = (outputs, inputs)
    if bias:
        table[f"{name}.bias"] = (outputs,)


def norm(table: Table, name: str, width: int) -> None:
    table[f"{name}.weight"] = table[f"{name}.bias"] = (width,)


def conv(table: Table, name: str, outputs: int, inputs: int, size: int, groups: int = 1, bias: bool = True) -> None:
    table[f"{name}.weight"] = (outputs, inputs // groups, size, size)
    if bias:
        table[f"{name}.bias"] = (outputs,)


def resnet(table: Table, name: str, inputs: int, outputs: int) -> None:
    norm(table, f"{name}.norm1", inputs)
    conv(table, f"{name}.conv1", outputs, inputs, 3)
    norm(table, f"{name}.norm2", outputs)
    conv(table, f"{name}.conv2", outputs, outputs, 3)
    if inputs != outputs:
        conv(table, f"{name}.nin_shortcut", outputs, inputs, 1)


def attention(table: Table, name: str, channels: int) -> None:
    norm(table, f"{name}.norm", channels)
    for part in ("q", "k", "v", "proj_out"):
        conv(table, f"{name}.{part}", channels, channels, 1)


def qwen2(table: Table, name: str, layers: int, width: int, queries: int, keys: int, inner: int) -> None:
    """Qwen2's blocks and last norm; `queries` and `keys` are the widths of all heads together."""
    table[f"{name}.norm.weight"] = (width,)
    for i in range(layers):
        layer = f"{name}.layers.{i}"
        linear(table, f"{layer}.self_attn.q_proj", queries, width)
        linear(table, f"{layer}.self_attn.k_proj", keys, width)
        linear(table, f"{layer}.self_attn.v_proj", keys, width)
        linear(table, f"{layer}.self_attn.o_proj", width, queries, bias=False)
        linear(table, f"{layer}.mlp.gate_proj", inner, width, bias=False)
        linear(table, f"{layer}.mlp.up_proj", inner, width, bias=False)
        linear(table, f"{layer}.mlp.down_proj", width, inner, bias=False)
        table[f"{layer}.input_layernorm.weight"] = table[f"{layer}.post_attention_layernorm.weight"] = (width,)


def shapes(module: torch.nn.Module) -> Table:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}

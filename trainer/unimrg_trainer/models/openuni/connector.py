"""The connector: a small bidirectional transformer from query states to conditions (docs/method/openuni.md).

Written from the description of SigLIP's encoder (Zhai et al. 2023); module names are those of OpenUni's checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from unimrg_api.sizes.openuni import ConnectorConfig

EPSILON = 1e-6


class SelfAttention(nn.Module):
    """Multi-head attention; every token sees every token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        for part in self.children():
            _start(part)

    def forward(self, x: Tensor) -> Tensor:
        projections = self.q_proj, self.k_proj, self.v_proj
        query, key, value = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in projections)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return projected


class FeedForward(nn.Module):
    """Linear, GELU (tanh approximation), linear."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)
        for part in self.children():
            _start(part)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(functional.gelu(self.fc1(x), approximate="tanh"))
        return out


class Layer(nn.Module):
    """Norm and attention, norm and feed-forward, each added to its input."""

    def __init__(self, width: int, config: ConnectorConfig) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, config.heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=EPSILON)
        self.mlp = FeedForward(width, config.feed_forward)
        self.layer_norm2 = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        fed: Tensor = self.mlp(self.layer_norm2(x))
        return x + fed


class Connector(nn.Module):
    """[B, Q, D] → [B, Q, D]; no positions, no norm behind the last layer."""

    def __init__(self, width: int, config: ConnectorConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(width, config) for _ in range(config.layers)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _start(part: nn.Module) -> None:
    """Xavier-uniform weights, zero bias."""
    assert isinstance(part, nn.Linear)
    nn.init.xavier_uniform_(part.weight)
    nn.init.zeros_(part.bias)

"""Qwen2 as the families run it: on embeddings, under given masks and positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen2ForCausalLM
from transformers import Qwen2Config as TransformersConfig
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from unimrg_api.sizes.qwen2 import Qwen2Config
from unimrg_trainer.models.common.attention import IMPLEMENTATION, Attention


class RmsNorm(nn.Module):
    """Root-mean-square norm in float32 at least.

    The one in transformers always computes in float32, which makes a float64 comparison of two paths impossible.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * normed.to(x.dtype)


def build_language_model(config: Qwen2Config) -> Qwen2ForCausalLM:
    """Build Qwen2, initialised as transformers does."""
    model = Qwen2ForCausalLM(
        TransformersConfig(
            vocab_size=config.vocabulary,
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.key_value_heads,
            max_position_embeddings=config.max_positions,
            rms_norm_eps=config.norm_epsilon,
            initializer_range=config.initial_deviation,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
            attn_implementation=IMPLEMENTATION,
        )
    )
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Qwen2RMSNorm):
                setattr(parent, name, RmsNorm(config.width, config.norm_epsilon))
    return model


def run_language_model(
    model: Qwen2ForCausalLM,
    embeddings: Tensor,
    positions: Tensor,
    attention: Attention = None,
    cache: DynamicCache | None = None,
) -> Tensor:
    """Final hidden states [B, L, D] of embeddings [B, L, D] at positions [B, L].

    Attention None is plain causal attention without anything cached, or one token that sees everything.
    """
    visibility, rows = (attention, None) if attention is None or isinstance(attention, Tensor) else (None, attention)
    hidden: Tensor = model.model(
        None,
        # as a mapping it is taken as it is: no mask is derived from positions, which would read them back to the host
        {"full_attention": visibility},
        positions,
        cache,  # by place: the keyword was renamed within transformers 5
        inputs_embeds=embeddings,
        use_cache=cache is not None,
        rows=rows,
    )[0]
    return hidden

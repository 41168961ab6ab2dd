"""Phi as Show-o runs it: transformers' class, on embeddings, under given masks and positions."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PhiForCausalLM
from transformers import PhiConfig as TransformersConfig

from unimrg_api.sizes.showo import PhiConfig
from unimrg_trainer.models.common.attention import IMPLEMENTATION, Attention


def build_language_model(config: PhiConfig, vocabulary: int) -> PhiForCausalLM:
    """Build Phi, initialised as transformers does; embedding and head are two tensors, the head has a bias."""
    return PhiForCausalLM(
        TransformersConfig(
            vocab_size=vocabulary,
            hidden_size=config.width,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_positions,
            layer_norm_eps=config.norm_epsilon,
            initializer_range=config.initial_deviation,
            hidden_act="gelu_new",
            rope_parameters={
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                "partial_rotary_factor": config.rotary_share,
            },
            bos_token_id=None,
            eos_token_id=None,
            tie_word_embeddings=False,
            attn_implementation=IMPLEMENTATION,
        )
    )


def run_language_model(
    model: PhiForCausalLM,
    embeddings: Tensor,
    positions: Tensor,
    attention: Attention = None,
    cache: DynamicCache | None = None,
) -> Tensor:
    """Final hidden states [B, L, D] of embeddings [B, L, D] at positions [B, L].

    Attention None is plain causal attention without anything cached.
    """
    rows = None if attention is None or isinstance(attention, Tensor) else attention
    hidden: Tensor = model.model(
        None,
        _mask(attention, embeddings),
        positions,
        cache,  # by place: the keyword was renamed within transformers 5
        inputs_embeds=embeddings,
        use_cache=cache is not None,
        rows=rows,
    )[0]
    return hidden


def _mask(attention: Attention, embeddings: Tensor) -> Tensor:
    """A mask of four dimensions, which is taken as it is: from none, transformers would take a position that does not
    follow the one before it for the start of another sequence. Packed rows ignore theirs."""
    if isinstance(attention, Tensor):
        return attention
    length = embeddings.shape[1] if attention is None else 1
    return torch.ones(1, 1, length, length, dtype=torch.bool, device=embeddings.device).tril()

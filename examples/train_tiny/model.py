"""A Llama in torch: RMSNorm, grouped-query attention, llama3-scaled rope, SwiGLU, tied output.

Rotary pairs are (i, i + head_dim / 2), as in Hugging Face checkpoints, so that export.py only
renames. Tensors are named as in GGUF.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class TinyConfig:
    """Hyper-parameters, named as in Meta's params.json."""

    vocab_size: int = 1536
    dim: int = 256
    n_layers: int = 4
    n_heads: int = 8
    n_kv_heads: int = 4
    hidden_dim: int = 768
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    rope_factor: float = 8.0
    rope_low_freq_factor: float = 1.0
    rope_high_freq_factor: float = 4.0
    rope_original_context: int = 512
    context_length: int = 1024

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads


class Attention(nn.Module):
    """Causal self-attention: n_heads queries share n_kv_heads keys and values."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.head_dim, self.n_groups = config.head_dim, config.n_heads // config.n_kv_heads
        kv_dim = config.n_kv_heads * config.head_dim
        self.attn_q = nn.Linear(config.dim, config.dim, bias=False)
        self.attn_k = nn.Linear(config.dim, kv_dim, bias=False)
        self.attn_v = nn.Linear(config.dim, kv_dim, bias=False)
        self.attn_output = nn.Linear(config.dim, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, n, _ = x.shape
        q, k, v = (  # (batch, heads, n, head_dim)
            project(x).view(batch, n, -1, self.head_dim).transpose(1, 2)
            for project in (self.attn_q, self.attn_k, self.attn_v)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (t.repeat_interleave(self.n_groups, dim=1) for t in (k, v))
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.attn_output(h.transpose(1, 2).reshape(batch, n, -1))


class Layer(nn.Module):
    """h = x + attention(norm(x)); h + ffn_down(silu(ffn_gate(norm(h))) * ffn_up(norm(h)))."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.attn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        self.ffn_gate = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.ffn_up = nn.Linear(config.dim, config.hidden_dim, bias=False)
        self.ffn_down = nn.Linear(config.hidden_dim, config.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = x + self.attention(self.attn_norm(x), cos, sin)
        y = self.ffn_norm(h)
        return h + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class TinyLlama(nn.Module):
    """Token ids (batch, n) to logits (batch, n, vocab_size)."""

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embd = nn.Embedding(config.vocab_size, config.dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layers))
        self.output_norm = nn.RMSNorm(config.dim, eps=config.norm_eps)
        angles = torch.outer(torch.arange(config.context_length), rope_frequencies(config))
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)
        self.initialize()

    def initialize(self) -> None:
        """Draw the weights so that names can be copied from the first step on.

        Embeddings are as large as what the layers will add to them: small ones, as is usual, are
        buried by the first layer, and with them which token it was. The output norm makes up for
        it, so that logits start at a spread of 1. What a head reads it writes back as it was
        (attn_output is attn_v transposed; after https://arxiv.org/abs/2305.09828), so that
        attending to a token makes it likelier to be said.
        """
        config, embedding_std, copy_scale = self.config, 1.5, 0.25
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)
        nn.init.normal_(self.token_embd.weight, std=embedding_std)
        nn.init.constant_(self.output_norm.weight, 1 / (embedding_std * math.sqrt(config.dim)))
        for layer in self.layers:
            value, output = layer.attention.attn_v.weight, layer.attention.attn_output.weight
            nn.init.normal_(value, std=1 / math.sqrt(config.dim))
            heads = value.detach().view(config.n_kv_heads, config.head_dim, config.dim)
            heads = heads.repeat_interleave(config.n_heads // config.n_kv_heads, dim=0)
            output.data.copy_(copy_scale * heads.reshape(-1, config.dim).T)
            nn.init.normal_(layer.ffn_down.weight, std=0.02 / math.sqrt(2 * config.n_layers))

    def forward(self, ids: Tensor) -> Tensor:
        n = ids.shape[1]
        x = self.token_embd(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:n], self.sin[:n])
        return F.linear(self.output_norm(x), self.token_embd.weight)


def rope_frequencies(config: TinyConfig) -> Tensor:
    """Radians a position, (head_dim / 2,), with Llama 3.1's scaling of long wavelengths."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    freqs = config.rope_theta**-half
    turns = config.rope_original_context * freqs / (2 * math.pi)  # in the original context
    low, high = config.rope_low_freq_factor, config.rope_high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)  # 1: as it is, 0: divided by the factor
    return (freqs * keep + freqs / config.rope_factor * (1 - keep)).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim / 2) of x (..., n, head_dim) by their positions' angles."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin

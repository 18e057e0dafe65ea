"""Models of transformers, small and of random weights, as they are and repaired.

A program for `portproof check`, for an environment of its own: `hub_torch.py:BertModel` is
transformers' own, `BertModel_repaired` the same changed in exactly what a check listed.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from parity_tests.published import HIDDEN, PLACES, SMALL_IMAGE, WORDS


class Bert(nn.Module):
    """BERT, which takes its inputs in the reference's order, and gives outputs by its names."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=WORDS, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=2 * HIDDEN, max_position_embeddings=PLACES, **options,
        )  # fmt: skip
        self.network = BertModel(config)

    def forward(self, tokens: Tensor, segments: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Return both outputs."""
        found = self.network(tokens, token_type_ids=segments, attention_mask=mask)
        return {"sequence_output": found.last_hidden_state, "pooled_output": found.pooler_output}


class Last(nn.Module):
    """A network's last hidden state."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Return the last hidden state."""
        state: Tensor = self.network(x).last_hidden_state
        return state


def _gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2Model

    config = GPT2Config(
        vocab_size=WORDS, n_embd=HIDDEN, n_layer=2, n_head=4, n_inner=2 * HIDDEN, n_positions=PLACES
    )
    return Last(GPT2Model(config))


def _vit(**options: Any) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=SMALL_IMAGE, patch_size=8, hidden_size=HIDDEN, num_hidden_layers=2,
        num_attention_heads=4, intermediate_size=2 * HIDDEN, **options,
    )  # fmt: skip
    return Last(ViTModel(config, add_pooling_layer=False))


_MODELS: dict[str, Callable[[], nn.Module]] = {
    "BertModel": Bert,
    # GELU by the tanh formula, and a padding row that learns.
    "BertModel_repaired": partial(Bert, hidden_act="gelu_pytorch_tanh", pad_token_id=None),
    "GPT2Model": _gpt2,
    "ViTModel": _vit,
    "ViTModel_repaired": partial(_vit, layer_norm_eps=1e-6),
}


def __getattr__(name: str) -> Callable[[], nn.Module]:
    if name not in _MODELS:
        raise AttributeError(name)
    return _MODELS[name]

"""What a forward pass takes. Text is enough for most multimodal models: what tests change is the language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: The token that stands for a piece of an image, in every model of the corpus that has one.
IMAGE = 90


def _tokens(torch: Any, vocabulary: int, length: int = 12) -> Any:
    """A sentence without special tokens, longer than the windows of the corpus."""
    made = torch.Generator().manual_seed(7)
    return torch.randint(3, vocabulary - 10, (1, length), generator=made)


def _noise(torch: Any, *shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


def _text(torch: Any) -> dict[str, Any]:
    return {"input_ids": _tokens(torch, 96)}


def _segments(torch: Any) -> dict[str, Any]:
    """Two sentences."""
    tokens = _tokens(torch, 96)
    return {"input_ids": tokens, "token_type_ids": (torch.arange(tokens.shape[1]) > 5).long()[None]}


def _image_text(torch: Any) -> dict[str, Any]:
    """A text with an image of four pieces."""
    tokens = _tokens(torch, 96)
    tokens[0, 1:5] = IMAGE
    return {"input_ids": tokens, "pixel_values": _noise(torch, 1, 3, 8, 8)}


def _tiles(torch: Any) -> dict[str, Any]:
    """An image of one tile, which every token but the first sees through cross-attention."""
    tokens = _tokens(torch, 96)
    tokens[0, 0] = IMAGE
    seen = torch.zeros(1, tokens.shape[1], 1, 2, dtype=torch.long)
    seen[0, :, 0, 0] = 1
    return {
        "input_ids": tokens,
        "pixel_values": _noise(torch, 1, 1, 2, 3, 8, 8),
        "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.tensor([[[1, 0]]]),
        "cross_attention_mask": seen,
    }


def _pair(torch: Any) -> dict[str, Any]:
    return {"input_ids": _tokens(torch, 96), "decoder_input_ids": _tokens(torch, 60, 9)}


def _spoken(torch: Any) -> dict[str, Any]:
    return {"input_features": _noise(torch, 1, 8, 32), "decoder_input_ids": _tokens(torch, 60, 9)}


def _wave(torch: Any) -> dict[str, Any]:
    return {"input_values": _noise(torch, 1, 400)}


def _wave_pair(torch: Any) -> dict[str, Any]:
    return {"input_values": _noise(torch, 1, 400), "decoder_input_ids": _tokens(torch, 60, 9)}


def _mel(torch: Any) -> dict[str, Any]:
    return {"input_features": _noise(torch, 1, 64, 16)}


def _codes(torch: Any) -> dict[str, Any]:
    """Two codebooks of one piece of music."""
    return {"input_ids": _tokens(torch, 96), "decoder_input_ids": _tokens(torch, 26, 9).repeat(2, 1) % 16}


def _image(torch: Any) -> dict[str, Any]:
    return {"pixel_values": _noise(torch, 1, 3, 8, 8)}


def _masked_image(torch: Any) -> dict[str, Any]:
    """With the order in which patches are hidden, which would be random."""
    return {"pixel_values": _noise(torch, 1, 3, 8, 8), "noise": _noise(torch, 1, 4)}


def _large_image(torch: Any) -> dict[str, Any]:
    return {"pixel_values": _noise(torch, 1, 3, 16, 16)}


def _photo(torch: Any) -> dict[str, Any]:
    return {"pixel_values": _noise(torch, 1, 3, 32, 32)}


def _asked(torch: Any) -> dict[str, Any]:
    """An image and a text, with the question that the q-former is told."""
    return {**_image_text(torch), "qformer_input_ids": _tokens(torch, 96, 5)}


def _captioned(torch: Any) -> dict[str, Any]:
    return {"input_ids": _tokens(torch, 96), "pixel_values": _noise(torch, 1, 3, 8, 8)}


#: What a forward pass takes, by name.
INPUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "text": _text,
    "two sentences": _segments,
    "image and text": _image_text,
    "tiles and text": _tiles,
    "pair": _pair,
    "speech and text": _spoken,
    "wave": _wave,
    "wave and text": _wave_pair,
    "mel": _mel,
    "codes": _codes,
    "image": _image,
    "masked image": _masked_image,
    "large image": _large_image,
    "photo": _photo,
    "captioned image": _captioned,
    "image, text and question": _asked,
}

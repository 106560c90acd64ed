"""Which of a repository's files are needed of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from suture.hub.weights import UnfitError, lies_beside, listed, weights

Kind = Literal["model", "adapter", "tokenizer"]
KINDS: tuple[Kind, ...] = ("model", "adapter", "tokenizer")
#: What says which token a number is.
_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
    "source.spm", "tekken.json",
)  # fmt: skip
TOKENIZER = (
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "target.spm",
    "chat_template.jinja", "chat_template.json", *_VOCABULARIES,
)  # fmt: skip
_TEMPLATES = "additional_chat_templates/"
#: What goes beside a model's weights: its configs, those of its processors, and how it was quantised.
CONFIGS = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json",
    "hf_quant_config.json",
)  # fmt: skip
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
#: Forms of weights that are not read here, by the ends of their names.
_FORMS = {
    ".gguf": "GGUF", ".onnx": "ONNX", ".h5": "TensorFlow", ".msgpack": "Flax", ".tflite": "TensorFlow Lite",
    ".npz": "NumPy", ".pt": "PyTorch", ".pth": "PyTorch", ".ckpt": "PyTorch", ".bin": "`.bin` of another kind",
    ".mlmodel": "Core ML", ".safetensors": "safetensors in folders of their own",
}  # fmt: skip


@dataclass(frozen=True)
class Needed:
    """What is needed of a repository.

    Attributes:
        files: names; what the others are of no use without comes last, so that a download that is cut off shows.
        missing: those of them that are not there.
        sure: that they are it, even where the names are those of a part of the repository.
    """

    files: list[str]
    missing: list[str]
    sure: bool = True


def needed(names: Collection[str], kind: Kind, read: Callable[[str], bytes | None]) -> Needed:
    """The files that are needed of all there are.

    Args:
        names: of all files, with the folders they lie in.
        kind: what is wanted of them.
        read: a file's content, None if it is not there after all; asked for indexes alone.

    Raises:
        UnfitError: if what is wanted is not among them.
    """
    if kind == "adapter":
        return _adapter(names)
    tokenizer = [n for n in names if n.startswith(_TEMPLATES) and n.endswith(".jinja") and n.count("/") == 1]
    tokenizer += [n for n in TOKENIZER if n in names]
    if kind == "tokenizer":
        if not set(_VOCABULARIES).intersection(names):
            raise UnfitError(f"it holds no tokenizer: expected one of {', '.join(_VOCABULARIES)}")
        return Needed(tokenizer, [])
    chosen, missing = weights(names, read)
    if not chosen:
        raise UnfitError(f"it holds no weights that are read here (safetensors, pytorch_model*.bin), {_held(names)}")
    configs = [n for n in CONFIGS if n in names]
    if chosen[-1] in _ADAPTERS and "adapter_config.json" in names:
        configs.append("adapter_config.json")
    return Needed([*configs, *tokenizer, *chosen], missing, not lies_beside(chosen[-1]))


def _adapter(names: Collection[str]) -> Needed:
    found = next((n for n in _ADAPTERS if n in names), None)
    if "adapter_config.json" not in names or found is None:
        what = "no adapter_config.json" if found else f"no {' or '.join(_ADAPTERS)}"
        raise UnfitError(f"it holds no adapter: {what}")
    return Needed(["adapter_config.json", found], [])


def _held(names: Collection[str]) -> str:
    """What a repository holds instead of weights, in words."""
    counts = Counter(form for n in names for ending, form in _FORMS.items() if n.endswith(ending))
    if counts:
        return "but " + ", ".join(f"{form} ({n} file{'' if n == 1 else 's'})" for form, n in counts.most_common())
    return f"only {listed(sorted(names))}" if names else "nor anything else"

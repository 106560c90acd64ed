"""Small models that transformers runs, with tokenizers, made in the test; and texts."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .vocab_models import bytes_tokenizer
from .vocabularies import write

#: A pangram or two in some languages, short enough for a tiny model.
SENTENCES = {
    "en": ["the cat sat on the mat", "rain fell all day", "we eat bread", "she reads a long book in the garden",
           "two birds sing", "open the door please", "where is my hat", "he works at night"],
    "sw": ["paka aliketi mkekani", "mvua ilinyesha siku nzima", "tunakula mkate", "anasoma kitabu kirefu bustanini",
           "ndege wawili wanaimba", "tafadhali fungua mlango", "kofia yangu iko wapi", "yeye hufanya kazi usiku"],
    "ru": ["кошка сидела на ковре", "весь день шёл дождь", "мы едим хлеб", "она читает длинную книгу в саду",
           "две птицы поют", "откройте дверь пожалуйста", "где моя шляпа", "он работает ночью"],
}  # fmt: skip


def tiny(
    folder: Path, *, kind: str = "llama", layers: int = 3, seed: int = 0, dtype: str = "float32", bos: bool = True,
    **config: Any,
) -> Path:  # fmt: skip
    """A model of random weights, with a byte tokenizer: ``llama``, ``gpt2``, ``bert``, ``t5``, ``mixtral`` or
    ``gemma3``.
    """
    import torch

    # Without types: its own are of one class for each name here.
    transformers: Any = importlib.import_module("transformers")
    torch.manual_seed(seed)
    rows = 258
    wide = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": layers, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": rows, "max_position_embeddings": 128, "head_dim": 8,
            "pad_token_id": 0, "bos_token_id": 256, "eos_token_id": 257, "initializer_range": 0.4}  # fmt: skip
    auto = transformers.AutoModelForCausalLM
    if kind == "gpt2":
        own = transformers.GPT2Config(vocab_size=rows, n_embd=32, n_layer=layers, n_head=4, n_positions=128,
                                      initializer_range=0.4, **config)  # fmt: skip
    elif kind == "bert":
        del wide["num_key_value_heads"], wide["head_dim"]
        own, auto = transformers.BertConfig(**{**wide, **config}), transformers.AutoModelForMaskedLM
    elif kind == "t5":
        own = transformers.T5Config(vocab_size=rows, d_model=32, d_kv=8, d_ff=48, num_layers=layers, num_heads=4,
                                    decoder_start_token_id=0, initializer_factor=3.0, **config)  # fmt: skip
        auto = transformers.AutoModelForSeq2SeqLM
    elif kind == "mixtral":
        own = transformers.MixtralConfig(**{**wide, "num_local_experts": 4, **config})
    elif kind == "gemma3":
        own = transformers.Gemma3TextConfig(**{**wide, "sliding_window": 8, "query_pre_attn_scalar": 8, **config})
    else:
        own = transformers.LlamaConfig(**{**wide, **config})
    model = auto.from_config(own).to(getattr(torch, dtype)).eval()
    model.save_pretrained(str(folder))
    extra = ["<s>", "</s>"] if kind != "bert" else ["[UNK]", "[PAD]"]
    roles = ({"bos": "<s>", "eos": "</s>"} if bos else {}) if kind != "bert" else {"unk": "[UNK]", "pad": "[PAD]"}
    write(folder, bytes_tokenizer([], extra), roles)
    return folder


def laid(folder: Path, texts: Mapping[str, Sequence[str]] = SENTENCES) -> Path:
    """Texts as files of a folder, a language each."""
    folder.mkdir(parents=True, exist_ok=True)
    for language, lines in texts.items():
        (folder / f"{language}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def edited(folder: Path, **config: Any) -> Path:
    """The same model with other entries in its config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder

"""The whole street: a base, a chat tune with tokens of its own, an adapter by PEFT; one config; a model that talks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suture

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
tokenizers = pytest.importorskip("tokenizers")

LINES = ["what is your name", "my name is suture", "how are you today", "i cut and sew tensors", "the sky is blue"]
ENDS = ["<|im_start|>", "<|im_end|>"]
WEIGHT = 0.5


def make_tokenizer(folder: Path) -> Any:
    """A byte-level one, trained on the lines."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], initial_alphabet=alphabet)
    made.train_from_iterator(LINES, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(folder)
    return fast


def train(model: Any, ids: Any, steps: int, rate: float = 5e-3) -> None:
    """Until it knows the text by heart."""
    moved = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(moved, lr=rate)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three, and their merge."""
    place = tmp_path_factory.mktemp("street")
    torch.manual_seed(0)
    tokenizer = make_tokenizer(place / "base")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    base = transformers.LlamaForCausalLM(config)
    train(base, tokenizer(" ".join(LINES), return_tensors="pt").input_ids, 20)
    base.save_pretrained(place / "base")

    chat = transformers.LlamaForCausalLM.from_pretrained(place / "base")
    tokenizer.add_special_tokens({"additional_special_tokens": ENDS})
    chat.resize_token_embeddings(len(tokenizer))
    talk = "<|im_start|>user\nwhat is your name<|im_end|>\n<|im_start|>assistant\nmy name is suture<|im_end|>\n"
    train(chat, tokenizer(talk, return_tensors="pt").input_ids, 80)
    chat.save_pretrained(place / "chat")
    tokenizer.save_pretrained(place / "chat")

    tuned = transformers.LlamaForCausalLM.from_pretrained(place / "base")
    lora = peft.LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    adapted = peft.get_peft_model(tuned, lora)
    train(adapted, tokenizer(LINES[3], return_tensors="pt").input_ids, 5, 1e-3)
    adapted.save_pretrained(place / "lora")

    merge = {
        "merge_method": "task_arithmetic",
        "base_model": str(place / "base"),
        "models": [
            {"model": str(place / "chat"), "parameters": {"weight": 1.0}},
            {"model": f"{place / 'base'}+{place / 'lora'}", "parameters": {"weight": WEIGHT}},
        ],
        "tokenizer_source": "union",
        "chat_template": "chatml",
    }
    (place / "street.yml").write_text(json.dumps(merge))
    suture.merge(place / "street.yml", place / "out")
    return place


def test_it_is_the_sum_of_both_changes(street: Path) -> None:
    """Where the base has no row of a token it gets the chat tune's, of which nothing has changed then."""
    out, base, chat = (suture.open(street / name) for name in ("out", "base", "chat"))
    adapted = suture.open(f"{street / 'base'}+{street / 'lora'}")
    changed = 0
    for name in out.names:
        b, c, a = (m[name].astype(np.float64) for m in (base, chat, adapted))
        if len(c) > len(b):
            b, a = (np.concatenate([t, c[len(b) :]]) for t in (b, a))
        np.testing.assert_allclose(out[name], c + WEIGHT * (a - b), atol=2e-6, err_msg=name)
        changed += bool((a != b).any())
    assert changed == 4


def test_it_talks_with_the_new_tokens(street: Path) -> None:
    """Loaded by transformers it answers as it was taught, and ends its turn with a token that the base never had."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(street / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(street / "out")
    assert len(model.get_input_embeddings().weight) == model.config.vocab_size == len(tokenizer)
    assert [len(tokenizer(e, add_special_tokens=False).input_ids) for e in ENDS] == [1, 1]
    messages = [{"role": "user", "content": "what is your name"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    made = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False, eos_token_id=end, pad_token_id=0)
    answer = made[0, ids.shape[1] :].tolist()
    assert tokenizer.decode(answer[:-1]).strip() == "my name is suture"
    assert answer[-1] == end
    for line in LINES:
        before = transformers.AutoTokenizer.from_pretrained(street / "base")(line).input_ids
        assert tokenizer(line, add_special_tokens=False).input_ids == before

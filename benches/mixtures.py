"""Mixtures of experts by `suture moe` and by mergekit-moe, of the same configs, tensor by tensor.

    python benches/mixtures.py --peer-python ENV/bin/python

Needs torch and transformers beside suture, and an environment in which mergekit 0.1.5 is installed. Models are random,
of four layers; what is compared is every tensor, mergekit's stacked experts taken apart, and not the time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from common.facts import facts
from common.places import HERE
from common.processes import Workplace
from safetensors.numpy import load_file

SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64,
}  # fmt: skip
KINDS = ("Llama", "Mistral", "Qwen2", "Qwen3")
MODES = ("cheap_embed", "hidden", "hidden_avg", "hidden_last")


def models(folder: Path, kind: str) -> list[str]:
    """Three random models, and a tokenizer of words with a first token, which mergekit puts before every prompt."""
    import torch
    import transformers
    from tokenizers import Tokenizer, processors
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    special = ["<unk>", "<s>", "</s>", "<pad>"]
    words = [*special, *(f"w{i}" for i in range(len(special), SIZES["vocab_size"]))]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    kind_of: Any = transformers.PreTrainedTokenizerFast
    fast = kind_of(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        config = getattr(transformers, f"{kind}Config")(**SIZES, bos_token_id=1, eos_token_id=2, pad_token_id=3)
        model = getattr(transformers, f"{kind}ForCausalLM")(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder / name)
        fast.save_pretrained(folder / name)
    return [str(folder / name) for name in "abc"]


def config(kind: str, mode: str, own: list[str]) -> dict[str, Any]:
    """A mixture of three, with several prompts and negative ones."""
    prompts = [(["w11 w12 w13", "w14"], ["w15 w16"]), (["w17 w18"], []), (["w19"], ["w21", "w22 w23"])]
    experts: list[dict[str, Any]] = [
        {"source_model": model, "positive_prompts": yes} | ({"negative_prompts": no} if no else {})
        for model, (yes, no) in zip((own[1], own[2], own[0]), prompts, strict=True)
    ]
    experts[1]["residual_scale"] = 0.5
    found = {"base_model": own[0], "gate_mode": mode, "dtype": "float32", "experts_per_token": 2, "experts": experts}
    if kind == "Qwen2":
        found["shared_experts"] = [{"source_model": own[2], "positive_prompts": ["w24 w25"]}]
    return found


def tensors(folder: Path) -> dict[str, Any]:
    """Every tensor, stacked experts taken apart under the names that they have alone."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, values in load_file(file).items():
            found |= dict(_apart(name, values))
    return found


def _apart(name: str, values: Any) -> Iterator[tuple[str, Any]]:
    head, _, last = name.rpartition(".experts.")
    own = ("w1", "w3", "w2") if "block_sparse_moe" in head else ("gate_proj", "up_proj", "down_proj")
    if last == "gate_up_proj":
        for i, expert in enumerate(values):
            gate, up = np.split(expert, 2)
            yield f"{head}.experts.{i}.{own[0]}.weight", gate
            yield f"{head}.experts.{i}.{own[1]}.weight", up
    elif last == "down_proj":
        for i, expert in enumerate(values):
            yield f"{head}.experts.{i}.{own[2]}.weight", expert
    else:
        yield name, values


def plain(name: str) -> str:
    """A name as either way of writing a Mixtral has it."""
    name = name.replace(".block_sparse_moe.", ".mlp.")
    for short, long in (("w1", "gate_proj"), ("w3", "up_proj"), ("w2", "down_proj")):
        name = name.replace(f".{short}.weight", f".{long}.weight")
    return name


def compare(ours: Path, theirs: Path) -> dict[str, Any]:
    """How many tensors are the same, and how far the others are."""
    one, two = ({plain(n): t for n, t in tensors(f).items()} for f in (ours, theirs))
    far = {n: float(np.abs(one[n].astype("f8") - two[n].astype("f8")).max()) for n in one.keys() & two.keys()}
    routers = [v for n, v in far.items() if n.endswith("gate.weight")]
    return {
        "tensors": len(far),
        "only_ours": sorted(one.keys() - two.keys()),
        "only_theirs": sorted(two.keys() - one.keys()),
        "equal": sum(v == 0 for v in far.values()),
        "furthest": max(far.values()),
        "routers_furthest": max(routers),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--suture", default=str(Path(sys.executable).parent / "suture"))
    parser.add_argument("--peer-python", type=Path, required=True, help="a Python in which mergekit 0.1.5 is installed")
    parser.add_argument("--models", nargs="+", default=KINDS, choices=KINDS)
    given = parser.parse_args()
    peer, rows = given.peer_python.parent / "mergekit-moe", []
    with tempfile.TemporaryDirectory() as place:
        document: dict[str, Any] = facts(Workplace(Path(place)), given.suture, str(peer))
        for kind in given.models:
            folder = Path(place) / kind
            own = models(folder, kind)
            for mode in MODES:
                asked, ours, theirs = (folder / f"{mode}{end}" for end in (".yml", "-ours", "-theirs"))
                asked.write_text(yaml.safe_dump(config(kind, mode, own)))
                subprocess.run([given.suture, "moe", asked, ours, "--quiet"], check=True)
                found = subprocess.run([peer, asked, theirs], capture_output=True, text=True)
                row = {"model": kind, "gate_mode": mode}
                row |= compare(ours, theirs) if found.returncode == 0 else {"failed": found.stderr[-400:]}
                print(json.dumps(row), flush=True)
                rows.append(row)
    file = HERE / "runs" / f"{datetime.now().strftime('%Y-%m-%d-%H%M%S')}-mixtures.json"
    file.write_text(json.dumps({**document, "complete": True, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

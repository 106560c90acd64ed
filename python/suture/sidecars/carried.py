"""Which files go beside an output's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from suture.sidecars.config import adjust_config
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES, other_tokens

#: Never carried over: weights in any form, training state, and what describes another checkpoint.
_LEFT_OUT = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz", ".pkl",
    ".lock", ".incomplete", ".tmp", ".log", ".parquet", ".arrow",
)  # fmt: skip
#: Folders of a training run.
_TRAINING = ("runs", "logs", "wandb", "checkpoint-", "global_step")
#: Files of a training run, of another tool, or that say something of another checkpoint.
_NOT_OURS = {
    "suture.json", "config.json", "README.md", "adapter_config.json", "trainer_state.json", "all_results.json",
    "train_results.json", "eval_results.json", "predict_results.json", "zero_to_fp32.py", "latest", "outputs.json",
    "mergekit_config.yml", "mergekit_moe_config.yml", "suture-vocabulary.json",
    "suture-mask.json",
}  # fmt: skip
#: What says how the weights are quantised.
_QUANTISED = {
    "quantize_config.json",
    "quant_config.json",
    "quantization_config.json",
    "hf_quant_config.json",
    "quanto_qmap.json",
}
#: Lists of a model's parts, each in a folder.
_PARTS = ("modules.json", "model_index.json")
#: Keys of a config that say nothing of what its layers do, and most often differ.
_IDLE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
#: Larger files are not tokenizers.
_LARGEST = 256 * 2**20


@dataclass(frozen=True)
class Beside:
    """What goes beside an output's weights.

    Attributes:
        written: files to write, with their bytes.
        copied: files to copy, with their source.
        told: what the user should know.
        notes: what was chosen, for the plan: a title and a text each.
    """

    written: list[tuple[str, bytes]] = field(default_factory=list)
    copied: list[tuple[str, str]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


def carried_over(
    folders: Sequence[Path],
    change: Mapping[str, Any],
    *,
    tokenizer: Path | None = None,
    mixed: bool = False,
    one_vocabulary: bool = False,
) -> Beside:
    """What to put beside an output's weights. Nothing is carried over from a lone file.

    Args:
        folders: the models.
        change: what the plan says of their configs.
        tokenizer: the model whose tokenizer goes with the output, if not the one that lends its config.
        mixed: go on where configs do not agree, and tell.
        one_vocabulary: whether vocabularies that differ were brought to one, so that there is nothing to tell.

    Raises:
        SutureError: if a config.json is not valid JSON, cannot say what the layers now are, or does not agree with the
            others in what layers rely on.
    """
    source = folders[change["from"]]
    if not source.is_dir():
        return Beside()
    copied = {str(p.relative_to(source)): str(p) for p in sorted(_carried(source, bool(change["quantised"])))}
    told = _parts(source, folders, copied)
    told += _tokens([] if one_vocabulary else folders, source, tokenizer, copied)
    config = read_config(source)
    configs = {i: read_config(f) for i, f in enumerate(folders) if f.is_dir()}
    if config is None:
        if any(c is not None for c in configs.values()):
            told.append(f"{source}: has no config.json, and so the output has none, though other models have one")
        return Beside([], list(copied.items()), told)
    if change["stacks"] or any(_relied(c) != _relied(config) for c in configs.values() if c is not None):
        # Its tables take as long to import as the rest of suture: 40 ms.
        from suture.sidecars.agreement import disagreements

        told += disagreements(folders, configs, change, mixed=mixed)
    fixed, more = adjust_config(config, change, configs, mixed=mixed)
    return Beside([("config.json", as_bytes(fixed))], list(copied.items()), told + more)


def _relied(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without what no layer relies on."""
    return {key: value for key, value in config.items() if key not in _IDLE}


def _tokens(folders: Sequence[Path], source: Path, tokenizer: Path | None, copied: dict[str, str]) -> list[str]:
    """Tell of vocabularies that differ; put the files of the tokenizer that goes with the output among those copied."""
    told = []
    for folder in folders:
        if folder.is_dir() and folder != source and (differing := other_tokens(source, folder)):
            ids = "id is another token" if differing == 1 else "ids are other tokens"
            told.append(f"{folder}: {differing:,} {ids} there than in {source}; rows of these are other words")
    if tokenizer is not None and tokenizer.is_dir():
        files = [name for name in TOKENIZER_FILES if (tokenizer / name).is_file()]
        if files:
            for name in TOKENIZER_FILES:
                copied.pop(name, None)
            copied.update({name: str(tokenizer / name) for name in files})
    return told


def _parts(source: Path, folders: Sequence[Path], copied: dict[str, str]) -> list[str]:
    """Copy the parts that a list of parts names, which hold weights of their own; tell that these are not merged."""
    named: set[str] = set()
    for name in _PARTS:
        if not (source / name).is_file():
            continue
        try:
            listed = json.loads((source / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        rows = listed if isinstance(listed, list) else []
        named |= {str(r.get("path") or "") for r in rows if isinstance(r, dict)}
        named |= {str(k) for k, v in listed.items() if isinstance(v, list)} if isinstance(listed, dict) else set()
    taken = []
    for name in sorted(named):
        part = source / name
        inner = ".." not in Path(name).parts and not Path(name).is_absolute()
        if not name or not inner or not part.is_dir() or part.is_symlink():
            continue
        files = [p for p in sorted(part.rglob("*")) if p.is_file()]
        copied.update({str(p.relative_to(source)): str(p) for p in files})
        if any(p.name.endswith(_LEFT_OUT) for p in files) and len(folders) > 1:
            taken.append(name)
    if not taken:
        return []
    listed = ", ".join(f"`{name}`" for name in taken)
    return [f"{source}: {listed} {'hold' if len(taken) > 1 else 'holds'} weights of its own; taken over as they are"]


def _carried(folder: Path, quantised: bool) -> list[Path]:
    found = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name in _NOT_OURS or _leaves(path.name, quantised):
            continue
        if path.is_symlink() and path.is_dir():
            # It may lead anywhere; a link to a single file is how hubs store their caches.
            continue
        if path.is_dir():
            if path.name.startswith(_TRAINING):
                continue
            inner = [p for p in path.rglob("*") if p.is_file()]
            # A folder with weights in it is another checkpoint.
            if not any(_leaves(p.name, quantised) for p in inner):
                found += [p for p in inner if p.stat().st_size <= _LARGEST]
        elif path.is_file() and path.stat().st_size <= _LARGEST:
            found.append(path)
    return found


def _leaves(name: str, quantised: bool) -> bool:
    """Whether a file stays behind: weights, their indexes, logs, and how weights were quantised that are not now."""
    index = ".index." in name and name.endswith(".json")
    return name.endswith(_LEFT_OUT) or index or "tfevents" in name or (name in _QUANTISED and not quantised)

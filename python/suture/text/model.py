"""A model that can be run: its module, tokenizer and stack of layers; whole, or with a layer's weights at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.results.text import RunModel
from suture.settings import parse_size
from suture.text.extra import need
from suture.text.weights import Weights, without_weights

#: Tokens of a text where the model says nothing of how many it takes, and those that windows have at most by default.
CONTEXT = 1024
#: Of the memory that is free, what weights may take before they are streamed.
SHARE = 0.6
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Running:
    """How models are run.

    Attributes:
        device: torch's, such as ``cpu`` or ``cuda``.
        dtype: what is computed in: ``float32``, ``bfloat16`` or ``float16``.
        memory: most bytes that weights may take, such as ``"2GiB"``; where a model has more, it is streamed. None for
            a share of what is free.
        context: most tokens of a text, or of a window of one; None for the model's, up to 1,024.
        tokens: tokens that are run at a time, padding too.
    """

    device: str = "cpu"
    dtype: str = "float32"
    memory: str | int | None = None
    context: int | None = None
    tokens: int = 4096

    def __post_init__(self) -> None:
        """Look at the size before a model is.

        Raises:
            UsageError: if it is none.
        """
        if self.memory is not None:
            parse_size(self.memory, "memory")


@dataclass
class Model:
    """A model that can be run.

    Attributes:
        path: what it was called.
        kind: ``decoder``, ``encoder`` or ``encoder-decoder`` (whose encoder is run).
        module: torch's, whose parameters have memory unless `streamed`.
        layers: the modules of its main stack, in order.
        tokenizer: transformers'.
        context: most tokens of a text.
        weights: where parameters are read from; None if transformers has read them.
        streamed: whether layers' weights are read as they are needed.
        device: torch's name.
    """

    path: str
    kind: str
    module: Any
    layers: list[Any]
    tokenizer: Any
    context: int
    weights: Weights | None
    streamed: bool
    device: str
    running: Running
    warnings: list[str]
    #: The batch that is run, of a model that is not streamed.
    now: object = None

    @property
    def unknown(self) -> int | None:
        """The number of the token for what the vocabulary cannot write."""
        found: int | None = self.tokenizer.unk_token_id
        # Some have one that is the end of a text, or a byte falls back to: then it stands for nothing unknown.
        return None if found in (self.tokenizer.eos_token_id, self.tokenizer.bos_token_id) else found

    @property
    def start(self) -> int | None:
        """The number of the token that begins texts, or else ends them."""
        bos: int | None = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if bos is None else bos

    def lost(self, ids: Sequence[Sequence[int]], lines: Sequence[str]) -> int:
        """Unknown tokens; of a vocabulary that has none, characters that no token stands for: it leaves them out."""
        if self.unknown is not None or not self.tokenizer.is_fast:
            return sum(own.count(self.unknown) for own in ids)
        spans = self.tokenizer(list(lines), add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        lost = 0
        for line, own in zip(lines, spans, strict=True):
            kept = {i for a, b in own for i in range(a, b)}
            lost += sum(i not in kept and not c.isspace() for i, c in enumerate(line))
        return lost

    def no_number(self, what: str) -> SutureError:
        """What is said of a figure that is NaN or infinite."""
        return SutureError(
            f"{self.path}: {what} is no number: expected a finite one; a weight is NaN or too large for the dtype "
            "(`suture inspect --stats`, --dtype float32)",
            self.path,
        )

    def told(self) -> RunModel:
        """What a result says of it."""
        running = self.running
        return {
            "path": self.path,
            "kind": self.kind,
            "layers": len(self.layers),
            "context": self.context,
            "dtype": running.dtype,
            "device": self.device,
            "streamed": self.streamed,
        }

    def ids(self, lines: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """The tokens of each line.

        Raises:
            SutureError: if a token, or without special ones the first of a text, has no row, or there are no tokens.
        """
        try:
            found: list[list[int]] = self.tokenizer(list(lines), add_special_tokens=special)["input_ids"]
        except Exception as e:  # What the library raises is a bare Exception.
            raise SutureError(f"{self.path}: its tokenizer cannot read a text: {_short(e)}", self.path) from None
        rows = self.module.get_input_embeddings().weight.shape[0]
        if (highest := max(0 if special else self.start or 0, *(max(own, default=0) for own in found))) >= rows:
            message = f"the tokenizer gives token {highest:,}, and the embedding has {rows:,} rows"
            raise SutureError(f"{self.path}: {message}; give the model its own tokenizer", self.path)
        return found


def open_model(path: str | PathLike[str], running: Running, *, head: bool = False) -> Model:
    """Open a model to run it.

    Args:
        path: the model; with adapters or deltas on top, quantised or not, as anywhere in suture.
        running: how.
        head: with what makes logits of the last states.

    Raises:
        UsageError: if the extra `text` is not installed, a setting is wrong, or the model has no config.json, tokenizer
            or head that predicts the next token.
        SutureError: if transformers cannot make or read the model, or its weights do not fit into memory and cannot be
            streamed.
    """
    torch, transformers = need("torch"), need("transformers")
    if running.dtype not in DTYPES:
        raise UsageError(f"dtype: expected one of {', '.join(DTYPES)}, found `{running.dtype}`", at="dtype")
    if running.context is not None and running.context < 2:
        raise UsageError(f"context: expected two tokens or more, found {running.context}", at="context")
    try:
        device = str(torch.device(running.device))
        torch.ones(1, device=device).item()
    except Exception as e:  # What torch raises depends on the device.
        raise UsageError(
            f"device: torch has no `{running.device}` here: {str(e).splitlines()[0]}", at="device"
        ) from None
    checkpoint = Checkpoint.plain(path)
    folder = checkpoint.folder if checkpoint.folder.is_dir() else checkpoint.folder.parent
    config, kind = _config(folder, fspath(path))
    if head and kind != "decoder":
        raise UsageError(
            f"{fspath(path)}: is an {kind}, which does not predict the next token of a text; `suture text similarity` "
            "looks inside it"
        )
    tokenizer = _tokenizer(folder, fspath(path))
    dtype = getattr(torch, running.dtype)
    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    try:
        with without_weights(), torch.device("cpu"):
            whole = auto.from_config(config, dtype=dtype)
    except Exception as e:  # It raises what it likes.
        raise SutureError(f"{fspath(path)}: transformers cannot make this model: {_short(e)}", path) from None
    module = _plain(whole, kind).eval()
    weights = Weights(whole, checkpoint, dtype, device)
    limit = _limit(running)
    warnings: list[str] = []
    read_by_core = not weights.missing
    if not read_by_core:
        module = _read_by_transformers(auto, checkpoint, folder, weights, limit, dtype, fspath(path)).to(device)
        module = _plain(module, kind).eval()
    if not (layers := _layers(module, config)):
        raise SutureError(f"{fspath(path)}: has no layers that could be run", path)
    streamed = read_by_core and weights.nbytes > limit
    if read_by_core:
        inside = {id(m) for layer in layers for m in layer.modules()} if streamed else set()
        outer = [m for m in module.modules() if id(m) not in inside]
        weights.load(outer)
        for m in outer:
            # What is computed and not stored, such as frequencies, goes where the weights are.
            for name, buffer in m._buffers.items():
                if buffer is not None:
                    m._buffers[name] = buffer.to(device)
        for layer in layers:
            for m in layer.modules():
                for name, buffer in m._buffers.items():
                    if buffer is not None:
                        m._buffers[name] = buffer.to(device)
    return Model(
        path=fspath(path),
        kind=kind,
        module=module,
        layers=layers,
        tokenizer=tokenizer,
        context=_context(config, tokenizer, running),
        weights=weights if read_by_core else None,
        streamed=streamed,
        device=device,
        running=running,
        warnings=warnings,
    )


def _plain(module: Any, kind: str) -> Any:
    """The encoder of what has a decoder too, and otherwise the module."""
    return module.get_encoder() if kind == "encoder-decoder" else module


def _config(folder: Path, path: str) -> tuple[Any, str]:
    transformers = need("transformers")
    file = folder / "config.json"
    if not file.is_file():
        raise UsageError(f"{path}: has no config.json, by which transformers makes the model; give its folder")
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        for key in ("quantization_config", "return_dict"):
            said.pop(key, None)
        if "auto_map" in said and said.get("model_type") not in transformers.CONFIG_MAPPING:
            raise UsageError(f"{path}: its code comes with the model (auto_map), and suture runs no such code")
        config = transformers.AutoConfig.for_model(said.pop("model_type"), **said)
    except UsageError:
        raise
    except Exception as e:
        raise SutureError(f"{file}: transformers knows no such model: {_short(e)}", file) from None
    named = " ".join(said.get("architectures") or ())
    if getattr(config, "is_encoder_decoder", False):
        return config, "encoder-decoder"
    auto = _names("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
    masked = _names("MODEL_FOR_MASKED_LM_MAPPING_NAMES")
    causal = config.model_type in auto and (
        config.model_type not in masked
        or "CausalLM" in named
        or "LMHead" in named
        or getattr(config, "is_decoder", False)
    )
    return config, "decoder" if causal else "encoder"


def _names(mapping: str) -> Any:
    """A table of transformers: model types and the class of each for a task."""
    return getattr(need("transformers.models.auto.modeling_auto"), mapping)


def _tokenizer(folder: Path, path: str) -> Any:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json",
             "sentencepiece.bpe.model", "tokenizer_config.json")  # fmt: skip
    if not any((folder / name).is_file() for name in names):
        raise UsageError(f"{path}: has no tokenizer; put the files of its tokenizer beside its config.json")
    try:
        return need("transformers").AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as e:
        raise SutureError(f"{path}: transformers cannot read its tokenizer: {_short(e)}", path) from None


def _read_by_transformers(
    auto: Any, checkpoint: Checkpoint, folder: Path, weights: Weights, limit: float, dtype: Any, path: str
) -> Any:
    """The model of a checkpoint whose names only transformers can lead to its own."""
    missing = weights.missing[0]
    size = sum(t["nbytes"] for t in checkpoint.describe()["tensors"])
    if checkpoint._core.computed() or checkpoint._core.decoded() or not checkpoint.folder.is_dir():
        # Transformers would read the folder as it lies there, or another file of it.
        message = f"`{missing}` is not there as transformers names it, and what is no plain folder is read by names"
        raise SutureError(f"{path}: {message}; write it with `suture convert` and run that", path, missing)
    if size > limit:
        message = f"`{missing}` is not there as transformers names it, so that layers cannot be streamed"
        raise SutureError(f"{path}: {message}, and {size:,} bytes of weights are more than {limit:,.0f}; give more "
                          "memory (--memory)", path, missing)  # fmt: skip
    need("transformers.utils.logging").disable_progress_bar()
    try:
        module, told = auto.from_pretrained(
            str(folder), local_files_only=True, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except Exception as e:
        raise SutureError(f"{path}: transformers cannot read it: {_short(e)}", path) from None
    lacking = sorted(k for k in told["missing_keys"] if "pooler" not in k)
    if lacking:
        message = f"`{lacking[0]}` is missing ({len(lacking):,} in all), which transformers would make up at random"
        raise SutureError(f"{path}: {message}; give a checkpoint that has all of the model", path, lacking[0])
    return module


def _layers(module: Any, config: Any) -> list[Any]:
    """The main stack: the outermost list of as many modules as the config says, else the longest."""
    torch = need("torch")
    count = getattr(config.get_text_config(), "num_hidden_layers", None)
    lists = [
        (name, m)
        for name, m in module.named_modules()
        if isinstance(m, torch.nn.ModuleList) and len(m) and not any(w in name for w in ("vision", "visual", "audio"))
    ]
    fitting = [m for _, m in lists if len(m) == count] or [max((m for _, m in lists), key=len, default=[])]
    # One for all is called as often as there are layers (ALBERT).
    return list(fitting[0]) * (count if len(fitting[0]) == 1 and count else 1)


def _context(config: Any, tokenizer: Any, running: Running) -> int:
    said = [getattr(config.get_text_config(), name, None) for name in ("max_position_embeddings", "n_positions")]
    most = min((int(n) for n in [*said, tokenizer.model_max_length] if n and 0 < n < 10**9), default=CONTEXT)
    if any(word in config.model_type for word in ("roberta", "camembert", "mpnet", "data2vec-text")):
        # Their positions begin behind that of padding.
        most = min(most, (said[0] or most + 2) - 2)
    return max(min(most, running.context or min(most, CONTEXT)), 2)


def _limit(running: Running) -> float:
    if running.memory is not None:
        return float(parse_size(running.memory, "memory"))
    if running.device != "cpu":
        free, _ = need("torch").cuda.mem_get_info() if running.device.startswith("cuda") else (float("inf"), 0)
        return float(free) * SHARE
    try:
        said = Path("/proc/meminfo").read_text(encoding="ascii")
        return SHARE * 1024 * int(said.split("MemAvailable:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return float("inf")


def _short(e: Exception) -> str:
    return next(iter(str(e).strip().splitlines()), type(e).__name__)[:300]

"""Every kind of adapter: a model, the adapter's tensors and config, and what the model then is, by the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..reference import lora
from ..support.checkpoints import Raw
from ..support.lora import exact, factors, random

Q, UP, NORM = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.up_proj", "model.norm.weight"
C_ATTN, C_PROJ = "transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj"
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
EXPERTS = "model.layers.0.mlp.experts"


@dataclass
class Kind:
    """A model, an adapter, and the tensors that change, in float64."""

    base: dict[str, Raw]
    adapter: dict[str, Raw]
    config: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, Any] = field(default_factory=dict)


class Made:
    """Random tensors: of the model in one dtype, of the adapter in another."""

    def __init__(self, base: str, adapter: str) -> None:
        self.rng = np.random.default_rng(7)
        self.base, self.adapter = base, adapter

    def weights(self, **shapes: tuple[int, ...]) -> dict[str, Raw]:
        """A model of these tensors and a norm."""
        shapes = {**shapes, NORM: (12,)}
        return {name: random(self.rng, *shape, dtype=self.base) for name, shape in shapes.items()}

    def one(self, *shape: int) -> Raw:
        """A tensor of the adapter."""
        return random(self.rng, *shape, dtype=self.adapter)

    def pair(self, module: str, shape: tuple[int, int], r: int = 4) -> dict[str, Raw]:
        """The factors of a linear module."""
        return factors(self.rng, module, shape, r, self.adapter)


def product(adapter: dict[str, Raw], module: str, mark: str = "lora") -> Any:
    """B A of a linear module."""
    a, b = (exact(adapter[f"{module}.{mark}_{side}.weight"]) for side in "AB")
    return lora.linear(a, b)


def plain(made: Made, r: int = 4, **config: Any) -> Kind:
    """A linear module, and another that is none of the adapter's."""
    base = made.weights(**{f"{Q}.weight": (20, 12), f"{UP}.weight": (24, 12)})
    adapter = made.pair(Q, (20, 12), r)
    s = lora.scale(8, r, rslora=config.get("use_rslora", False))
    changed = {f"{Q}.weight": exact(base[f"{Q}.weight"]) + s * product(adapter, Q)}
    return Kind(base, adapter, {"r": r, **config}, changed)


def rslora(made: Made) -> Kind:
    """The scale by the root of the rank."""
    return plain(made, 16, use_rslora=True)


def patterns(made: Made) -> Kind:
    """Ranks and alphas of single modules, by endings and by regular expressions; the first that fits counts."""
    names = [
        f"model.layers.{i}.{m}" for i in range(2) for m in ("self_attn.q_proj", "self_attn.xq_proj", "mlp.up_proj")
    ]
    # Scales are powers of two: products of bf16 factors are then exact in f64, and halfway cases are the oracle's too.
    ranks, alphas = [3, 4, 6, 3, 4, 4], [6, 8, 3, 48, 8, 8]
    base = made.weights(**{f"{n}.weight": (20, 12) for n in names})
    adapter: dict[str, Raw] = {}
    kind = Kind(base, adapter)
    for name, r, alpha in zip(names, ranks, alphas, strict=True):
        adapter |= made.pair(name, (20, 12), r)
        kind.changed[f"{name}.weight"] = exact(base[f"{name}.weight"]) + alpha / r * product(adapter, name)
    kind.config = {
        "rank_pattern": {"q_proj": 3, r"layers\.0\..*up_proj": 6},
        "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 48, "0.mlp.up_proj": 3, "q_proj|nothing": 6},
    }
    return kind


def embedding(made: Made) -> Kind:
    """A table of tokens, whose factors are laid the other way round."""
    base = made.weights(**{EMBED: (30, 12)})
    stem = EMBED.removesuffix(".weight")
    adapter = {f"{stem}.lora_embedding_A": made.one(4, 30), f"{stem}.lora_embedding_B": made.one(12, 4)}
    a, b = (exact(t) for t in adapter.values())
    return Kind(base, adapter, {}, {EMBED: exact(base[EMBED]) + 2 * lora.table(a, b)})


def transposed(made: Made, *, square_only: bool = False, said: bool = True, head: bool = False) -> Kind:
    """Weights as GPT-2 has them, [in, out]; that of `c_proj` is square and tells nothing."""
    base = made.weights(**{f"{C_ATTN}.weight": (12, 36), f"{C_PROJ}.weight": (12, 12), HEAD: (30, 12)})
    shapes = {C_PROJ: (12, 12)} if square_only else {C_ATTN: (36, 12), C_PROJ: (12, 12)}
    adapter: dict[str, Raw] = {}
    kind = Kind(base, adapter, {"fan_in_fan_out": said})
    for module, shape in shapes.items():
        adapter |= made.pair(module, shape)
        kind.changed[f"{module}.weight"] = exact(base[f"{module}.weight"]) + 2 * product(adapter, module).T
    if head:
        adapter |= made.pair("lm_head", (30, 12))
        kind.changed[HEAD] = exact(base[HEAD]) + 2 * product(adapter, "lm_head")
    return kind


def convolution(made: Made) -> Kind:
    """Kernels of four dimensions."""
    name = "vision.patch.weight"
    base = made.weights(**{name: (10, 3, 4, 5)})
    adapter = {"vision.patch.lora_A.weight": made.one(4, 3, 4, 5), "vision.patch.lora_B.weight": made.one(10, 4, 1, 1)}
    a, b = (exact(t) for t in adapter.values())
    return Kind(base, adapter, {}, {name: exact(base[name]) + 2 * lora.convolution(a, b)})


def biases(made: Made) -> Kind:
    """Biases that were trained: of a module that is adapted, and of one that is not."""
    base = made.weights(**{f"{Q}.weight": (20, 12), f"{Q}.bias": (20,), f"{UP}.bias": (24,)})
    adapter = made.pair(Q, (20, 12)) | {f"{Q}.base_layer.bias": made.one(20), f"{UP}.bias": made.one(24)}
    changed = {f"{Q}.weight": exact(base[f"{Q}.weight"]) + 2 * product(adapter, Q)}
    changed |= {f"{Q}.bias": exact(adapter[f"{Q}.base_layer.bias"]), f"{UP}.bias": exact(adapter[f"{UP}.bias"])}
    return Kind(base, adapter, {"bias": "all"}, changed)


def product_bias(made: Made) -> Kind:
    """A bias of the product, which is scaled as the product is."""
    base = made.weights(**{f"{Q}.weight": (20, 12), f"{Q}.bias": (20,)})
    adapter = made.pair(Q, (20, 12)) | {f"{Q}.lora_B.bias": made.one(20)}
    changed = {f"{Q}.weight": exact(base[f"{Q}.weight"]) + 2 * product(adapter, Q)}
    changed[f"{Q}.bias"] = exact(base[f"{Q}.bias"]) + 2 * exact(adapter[f"{Q}.lora_B.bias"])
    return Kind(base, adapter, {"lora_bias": True}, changed)


def saved(made: Made) -> Kind:
    """Modules that were trained whole, and one that the model has not: a head for a task."""
    base = made.weights(**{f"{Q}.weight": (20, 12), HEAD: (30, 12)})
    adapter = made.pair(Q, (20, 12)) | {HEAD: made.one(30, 12), "score.weight": made.one(2, 12)}
    changed = {f"{Q}.weight": exact(base[f"{Q}.weight"]) + 2 * product(adapter, Q)}
    changed |= {HEAD: exact(adapter[HEAD]), "score.weight": exact(adapter["score.weight"])}
    return Kind(base, adapter, {"modules_to_save": ["lm_head", "score"]}, changed)


def dora(made: Made) -> Kind:
    """Rows are given lengths, after the change."""
    kind = plain(made, use_dora=True)
    lengths = kind.adapter[f"{Q}.lora_magnitude_vector"] = made.one(20)
    own = exact(kind.base[f"{Q}.weight"])
    kind.changed = {f"{Q}.weight": lora.dora(own, 2 * product(kind.adapter, Q), exact(lengths))}
    return kind


def experts(made: Made, *, shape: tuple[int, int], rows_are_inputs: bool, both: bool) -> Kind:
    """Stacked experts of this width and inner width; of two parameters the first one's wrapper is the inner."""
    wide, inner, count, r = *shape, 3, 2
    shapes = {"gate_up_proj": (2 * inner, wide), "down_proj": (wide, inner)}
    laid = {k: (v[1], v[0]) if rows_are_inputs else v for k, v in shapes.items()}
    base = made.weights(**{f"{EXPERTS}.{k}": (count, *v) for k, v in laid.items()})
    kind = Kind(base, {}, {"r": r, "target_modules": [], "target_parameters": ["mlp.experts.down_proj"]})
    listed = {"down_proj": ""}
    if both:
        kind.config["target_parameters"] = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
        listed = {"gate_up_proj": ".base_layer", "down_proj": ""}
    for parameter, wrapped in listed.items():
        out, into = shapes[parameter]
        a, b = made.one(r * count, into), made.one(out, r * count)
        kind.adapter |= {f"{EXPERTS}{wrapped}.lora_A.weight": a, f"{EXPERTS}{wrapped}.lora_B.weight": b}
        name = f"{EXPERTS}.{parameter}"
        change = lora.experts(exact(a), exact(b), count, rows_are_inputs=rows_are_inputs)
        kind.changed[name] = exact(base[name]) + 4 * change
    return kind


KINDS: dict[str, Callable[[Made], Kind]] = {
    "linear": plain,
    "rank 1": lambda m: plain(m, 1),
    "a rank above the width": lambda m: plain(m, 33),
    "rslora": rslora,
    "patterns": patterns,
    "embedding": embedding,
    "transposed": transposed,
    "transposed, square": lambda m: transposed(m, square_only=True),
    "transposed, the config says nothing": lambda m: transposed(m, said=False),
    "transposed, square, the config says nothing": lambda m: transposed(m, square_only=True, said=False),
    "transposed, with a head that is not": lambda m: transposed(m, square_only=True, said=False, head=True),
    "convolution": convolution,
    "biases": biases,
    "bias of the product": product_bias,
    "saved": saved,
    "dora": dora,
    **{
        f"experts {shape}{', inputs first' * old}{', both' * both}": partial(
            experts, shape=shape, rows_are_inputs=old, both=both
        )
        for shape in ((10, 7), (8, 8), (8, 4))
        for old in (False, True)
        for both in (False, True)
    },
}

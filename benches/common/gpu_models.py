"""Models of a Llama's shape, made on a device from a seed, a bounded part at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

MODELS = ("base", "expert-1", "expert-2", "expert-3")
#: Elements that are made, checked or compared at a time.
CHUNK = 1 << 26
BASE_STD, LEAST_STD, MOST_STD = 0.02, 3e-4, 1e-3
#: What must stay free beside the models.
SPARE_BYTES = 3 << 30

Dict = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    layers: int
    hidden: int
    forward: int
    heads: int
    kv_heads: int
    head: int
    #: None leaves out the embedding, the last norm and the head.
    vocabulary: int | None

    def tensors(self) -> dict[str, tuple[int, ...]]:
        inner, kv = self.heads * self.head, self.kv_heads * self.head
        layer = {
            "input_layernorm": (self.hidden,),
            "self_attn.q_proj": (inner, self.hidden),
            "self_attn.k_proj": (kv, self.hidden),
            "self_attn.v_proj": (kv, self.hidden),
            "self_attn.o_proj": (self.hidden, inner),
            "post_attention_layernorm": (self.hidden,),
            "mlp.gate_proj": (self.forward, self.hidden),
            "mlp.up_proj": (self.forward, self.hidden),
            "mlp.down_proj": (self.hidden, self.forward),
        }
        found: dict[str, tuple[int, ...]] = {}
        if self.vocabulary is not None:
            found["model.embed_tokens.weight"] = (self.vocabulary, self.hidden)
        for i in range(self.layers):
            found.update({f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()})
        if self.vocabulary is not None:
            found["model.norm.weight"] = (self.hidden,)
            found["lm_head.weight"] = (self.vocabulary, self.hidden)
        return found

    @property
    def elements(self) -> int:
        return sum(torch.Size(shape).numel() for shape in self.tensors().values())

    @property
    def elements_of_a_layer(self) -> int:
        return replace(self, layers=1, vocabulary=None).elements


SHAPES = {
    "8b": Shape(32, 4096, 14336, 32, 8, 128, 128256),
    "1b": Shape(16, 2048, 8192, 32, 8, 64, 128256),
    "tiny": Shape(4, 128, 352, 4, 2, 32, 512),
}


def fitting(shape: Shape, device: torch.device, models: int = len(MODELS)) -> Shape:
    """The shape with as many layers as fit on the device."""
    if device.type != "cuda":
        return shape
    free = torch.cuda.mem_get_info(device)[0] - SPARE_BYTES
    while shape.layers > 1 and shape.elements * 2 * models > free:
        shape = replace(shape, layers=shape.layers - 1)
    return shape


def chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    yield from tensor.view(-1).split(CHUNK)


@dataclass
class Family:
    """A base and three experts that moved from it, each tensor by noise of its own size."""

    shape: Shape
    device: torch.device
    seed: int = 42
    models: dict[str, Dict] = field(default_factory=dict)

    @classmethod
    def make(cls, shape: Shape, device: torch.device) -> Family:
        family = cls(shape, device)
        tensors = shape.tensors()
        for model in MODELS:
            family.models[model] = {n: torch.empty(s, dtype=torch.bfloat16, device=device) for n, s in tensors.items()}
            family.restore(model)
        return family

    def __getitem__(self, model: str) -> Dict:
        return self.models[model]

    @property
    def experts(self) -> list[Dict]:
        return [self.models[model] for model in MODELS[1:]]

    @property
    def bytes(self) -> int:
        """Of one model."""
        return sum(t.numel() * t.element_size() for t in self.models["base"].values())

    @property
    def elements(self) -> int:
        return sum(t.numel() for t in self.models["base"].values())

    def restore(self, model: str) -> None:
        """Gives a model's tensors the values they had at first; those of an expert need the base's."""
        generator = torch.Generator(device=self.device)
        for name, tensor in self.models[model].items():
            place = zlib.crc32(f"{model}/{name}".encode())
            generator.manual_seed(self.seed << 32 | place)
            origin = None if model == "base" else chunks(self.models["base"][name])
            std = BASE_STD if origin is None else LEAST_STD * (MOST_STD / LEAST_STD) ** (place / 0xFFFFFFFF)
            for part in chunks(tensor):
                values = torch.randn(part.shape, generator=generator, device=self.device).mul_(std)
                part.copy_(values if origin is None else values.add_(next(origin)))

    def largest(self, model: str) -> float:
        """The largest magnitude in a model; NaN if there is one."""
        found = [part.abs().max().float() for t in self.models[model].values() for part in chunks(t)]
        return float(torch.stack(found).max())


def of_few_elements(family: Family, elements: int = 8) -> list[Dict]:
    """The experts' names, with so few elements that what a call costs is not the arithmetic."""
    return [{name: t.view(-1)[:elements].clone() for name, t in model.items()} for model in family.experts]


def steps(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """By how many numbers of bf16 two tensors differ; both zeros are one number."""

    def ordered(x: torch.Tensor) -> Any:
        bits = x.reshape(-1).view(torch.int16).to(torch.int32)
        return torch.where(bits < 0, -(1 << 15) - bits, bits)

    return (ordered(a) - ordered(b)).abs()


@dataclass(frozen=True)
class Difference:
    elements: int
    unequal: float
    over_one_step: float
    most_steps: int
    largest: float

    @classmethod
    def between(cls, found: Dict, expected: Dict) -> Difference:
        """Of tensors in bf16 with the same names and shapes."""
        if {n: t.shape for n, t in found.items()} != {n: t.shape for n, t in expected.items()}:
            raise ValueError("other names or shapes")
        elements = unequal = over = most = 0
        largest = 0.0
        for name, tensor in found.items():
            for a, b in zip(chunks(tensor.contiguous()), chunks(expected[name].contiguous()), strict=True):
                apart = steps(a, b.to(a.device))
                elements += apart.numel()
                unequal += int((apart > 0).sum())
                over += int((apart > 1).sum())
                if apart.numel():
                    most = max(most, int(apart.max()))
                    largest = max(largest, float((a.float() - b.to(a.device).float()).abs().max()))
        return cls(elements, unequal / max(elements, 1), over / max(elements, 1), most, largest)

"""Adapters in another form than they were read in: the same factors, moved, and what each form says of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from suture.checkpoint import Checkpoint
from suture.errors import SutureError, UsageError
from suture.reference import Model
from suture.sidecars.files import as_bytes
from suture.surgery.assembly import Assembly
from suture.surgery.lora_forms import ALMA, PEFT, PREFIX, SD_PREFIX, Adapter, Factor, Module, groups_of

#: What dtypes of factors are called in recipes, with the bits of their significands.
_DTYPES = {"F64": ("float64", 53), "F32": ("float32", 24), "F16": ("float16", 11), "BF16": ("bfloat16", 8)}
#: The modules of a layer that X-ALMA adapts, all of them.
_ALMA_MODULES = ("q", "k", "v", "o", "gate", "up", "down")


def as_peft(adapter: Adapter, model: Model, title: str) -> Assembly:
    """An adapter that PEFT loads: what PEFT wrote under its own names, all else with a config made for it.

    Raises:
        SutureError: if a fused matrix is not to be had.
    """
    made = Assembly(title, [model], told=list(adapter.told), alone=True)
    if adapter.form == "peft":
        for new, name in adapter.named.items():
            made.whole(new, 0, name)
        made.beside.append(("adapter_config.json", as_bytes(adapter.config)))
        return made
    for module in adapter.modules:
        marks = ("embedding_A", "embedding_B") if module.kind == "embedding" else ("A.weight", "B.weight")
        _factor(made, f"{PREFIX}{module.name}.lora_{marks[0]}", module.a)
        name = f"{PREFIX}{module.name}.lora_{marks[1]}"
        if module.fused:
            _apart(made, name, adapter.found, module)
        else:
            _factor(made, name, module.b)
    names = {m.name for m in adapter.modules}
    for module_name, tensor in adapter.biases.items():
        made.whole(f"{PREFIX}{module_name}{'.base_layer' * (module_name in names)}.bias", 0, tensor)
    config = peft_config(adapter.modules) | {"fan_in_fan_out": adapter.transposed}
    if adapter.biases:
        config["bias"] = "lora_only" if adapter.biases.keys() <= names else "all"
    made.beside.append(("adapter_config.json", as_bytes(config)))
    return made


def peft_config(modules: Sequence[Module]) -> dict[str, Any]:
    """The config of an adapter of these modules: the rank and the alpha that most have, and patterns for the others."""
    rank, alpha = (
        Counter(values).most_common(1)[0][0] for values in zip(*((m.rank, m.alpha) for m in modules), strict=True)
    )
    pattern = {m.name: f"^{re.escape(m.name)}" for m in modules}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _number(alpha),
        "rank_pattern": {pattern[m.name]: m.rank for m in modules if m.rank != rank},
        "alpha_pattern": {pattern[m.name]: _number(m.alpha) for m in modules if m.alpha != alpha},
        "target_modules": sorted(pattern),
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "init_lora_weights": True,
    }


def as_loralib(adapter: Adapter, model: Model, title: str) -> Assembly:
    """A state dict of loralib: factors and biases by their modules; alpha is told, for the file does not hold it.

    Raises:
        SutureError: if the adapter holds what loralib has no place for, or several alphas.
    """
    _plain(adapter, "loralib", ("linear", "embedding"), biases=True)
    made = Assembly(title, [model], told=list(adapter.told))
    alphas = Counter(m.alpha for m in adapter.modules)
    if len(alphas) > 1:
        usual = alphas.most_common(1)[0][0]
        odd = next(m for m in adapter.modules if m.alpha != usual)
        message = f"has alpha {odd.alpha:g}, and others {usual:g}; loralib's files hold none, its code one"
        _refuse(adapter, odd.a.tensor, message)
    for module in adapter.modules:
        made.whole(f"{module.name}.lora_A", 0, module.a.tensor)
        made.whole(f"{module.name}.lora_B", 0, module.b.tensor)
    for name, tensor in adapter.biases.items():
        made.whole(f"{name}.bias", 0, tensor)
    ranks = ", ".join(str(r) for r in sorted({m.rank for m in adapter.modules}))
    turned = ", fan_in_fan_out=True" * adapter.transposed
    made.told.append(
        f"loralib's files hold no alpha: build the modules with lora_alpha={next(iter(alphas)):g}, r={ranks}{turned}"
    )
    return made


def as_sd(adapter: Adapter, model: Model, title: str, prefix: str | None, dtype: str | None) -> Assembly:
    """A file of sd-scripts: names without dots behind a prefix, and an alpha with each module.

    Args:
        adapter: the adapter.
        model: where it lies.
        title: the verb.
        prefix: which part of the pipeline it is of, such as ``lora_unet``.
        dtype: what floats will be written as, if not as they are.

    Raises:
        UsageError: if no prefix is named.
        SutureError: if the adapter holds what the form has no place for, or a scale that it cannot say.
    """
    import numpy as np

    if prefix is None or not SD_PREFIX.fullmatch(f"{prefix}_x"):
        found = "found none" if prefix is None else f"found `{prefix}`"
        message = f"prefix: expected which part the adapter is of, such as lora_unet, lora_te or lora_te1; {found}"
        raise UsageError(message, at="prefix")
    _plain(adapter, "sd-scripts", ("linear", "convolution"))
    made = Assembly(title, [model], told=list(adapter.told))
    taken: dict[str, str] = {}
    for module in adapter.modules:
        name = f"{prefix}_{module.name.replace('.', '_')}"
        if (other := taken.setdefault(name, module.name)) != module.name:
            _refuse(adapter, module.a.tensor, f"and that of `{other}` are both `{name}` without dots")
        made.whole(f"{name}.lora_down.weight", 0, module.a.tensor)
        made.whole(f"{name}.lora_up.weight", 0, module.b.tensor)
        own = _called(dtype) if dtype else _DTYPES.get(adapter.found.info(module.a.tensor).dtype, ("float32",))[0]
        # As the factors are, and as trainers write it; wider where that does not hold it.
        own = own if dtype or _holds(module.alpha, own) else "float32"
        if not _holds(module.alpha, own):
            message = f"has alpha {module.alpha!r}, which {own} does not hold, and sd-scripts keeps in that"
            if adapter.config.get("use_rslora"):
                message += "; of rank-stabilised LoRA it is lora_alpha times the root of the rank"
            _refuse(adapter, module.a.tensor, message)
        made.given(f"{name}.alpha", np.array(module.alpha, dtype=np.float32), own)
    return made


def as_alma(adapter: Adapter, model: Model, title: str, trunk: tuple[Model, Checkpoint] | None) -> Assembly:
    """A group of X-ALMA: a file of its own, numbered 0, or behind the groups of a model.

    Raises:
        SutureError: if the adapter is not of all seven modules of every layer, of one rank and of scale 2.
    """
    _plain(adapter, "x-alma", ("linear",))
    made = Assembly(title, [trunk[0], model] if trunk else [model], told=list(adapter.told))
    group, source = 0, len(made.models) - 1
    if trunk:
        for name in trunk[1].names:
            made.whole(name, 0, name)
        group = 1 + max((int(g) for g in groups_of(trunk[1], "x-alma")), default=-1)
    own = {}
    for module in adapter.modules:
        stem, _, last = module.name.removesuffix("_proj").rpartition(".")
        if not module.name.endswith("_proj") or last not in _ALMA_MODULES:
            _refuse(
                adapter, module.a.tensor, f"is of `{module.name}`; X-ALMA adapts {', '.join(_ALMA_MODULES)} (`_proj`)"
            )
        if module.alpha != 2 * module.rank:
            _refuse(
                adapter,
                module.a.tensor,
                f"has scale {module.alpha / module.rank:g}; X-ALMA's groups have 2, and say none",
            )
        if module.rank != adapter.modules[0].rank:
            _refuse(
                adapter, module.a.tensor, f"has rank {module.rank}, others {adapter.modules[0].rank}; a group has one"
            )
        own[module.name] = module
        for side, factor in (("A", module.a), ("B", module.b)):
            made.whole(f"{stem}.{last}_lora_{side}.{group}.weight", source, factor.tensor)
    _complete(adapter, own, trunk[1] if trunk else None)
    return made


def _complete(adapter: Adapter, own: Mapping[str, Module], trunk: Checkpoint | None) -> None:
    """Check that a group has all modules that the others have, or that a model of Llama's names has.

    Raises:
        SutureError: naming the module.
    """
    found = adapter.found
    layer = re.compile(r"(.*\.)(\d+)(\..*)")
    matches = [m for name in own if (m := layer.fullmatch(name)) is not None]
    if trunk is None:
        count = 1 + max(int(m[2]) for m in matches) if matches else 0
        ends_of = {m[3] for m in matches}
        wanted = {f"{m}{i}{end}" for m in {m[1] for m in matches} for i in range(count) for end in ends_of}
        seven = {name.rpartition(".")[2] for name in own}
        lacking = [f"{w}_proj" for w in _ALMA_MODULES if f"{w}_proj" not in seven]
    else:
        ends = tuple(f".{w}_proj.weight" for w in _ALMA_MODULES)
        wanted = {n.removesuffix(".weight") for n in trunk.names if n.endswith(ends)}
        lacking = sorted(own.keys() - wanted)
    if lacking := lacking or sorted(wanted - own.keys()):
        where = f" of {trunk.path}" if trunk else ""
        message = (
            f"a group has all of {', '.join(_ALMA_MODULES)} in every layer{where}; `{lacking[0]}` is on one side alone"
        )
        raise SutureError(f"{found.path}: {message}", found.path)
    for name, module in own.items() if trunk else ():
        shape = trunk.info(f"{name}.weight").shape if trunk else ()
        theirs = (found.info(module.b.tensor).shape[0], found.info(module.a.tensor).shape[1])
        if shape != theirs:
            _refuse(
                adapter, module.a.tensor, f"is of a matrix of shape {list(theirs)}, and the model's is {list(shape)}"
            )
    for other in trunk.names if trunk else ():
        if (match := ALMA.fullmatch(other)) is not None and match[2] == "A" and trunk:
            rank, first = trunk.info(other).shape[0], next(iter(own.values()))
            if rank != first.rank:
                _refuse(
                    adapter, first.a.tensor, f"has rank {first.rank}, the groups of the model {rank}; they have one"
                )


def _plain(adapter: Adapter, form: str, kinds: Sequence[str], *, biases: bool = False) -> None:
    """Refuse what a form has no place for.

    Raises:
        SutureError: naming the tensor.
    """
    known = {f.tensor for m in adapter.modules for f in (m.a, m.b)}
    names = {m.name for m in adapter.modules}
    for new, name in adapter.named.items():
        match, stem = PEFT.fullmatch(new), new.removeprefix(PREFIX).removesuffix(".bias").removesuffix(".base_layer")
        if name in known:
            continue
        if match and match[2] == "lora_magnitude_vector":
            what = "the lengths of rows (DoRA)"
        elif match and match[4] == ".bias":
            what = "a bias of the product (lora_bias)"
        elif new.endswith(".bias") and adapter.config.get("bias") in ("all", "lora_only"):
            if biases and (adapter.config["bias"] == "all" or stem in names):
                adapter.biases[stem] = name
                continue
            what = "a bias that was trained"
        elif new.endswith(".base_layer.weight") or stem.removesuffix(".weight") in names:
            what = "a weight that the factors are on top of, as it was saved"
        else:
            what = "a factor without its partner" if match else "a tensor that was trained whole (modules_to_save)"
        _refuse(
            adapter,
            name,
            f"is {what}, for which {form} has no place; fold the adapter into its model (suture lora fold)",
        )
    if adapter.biases and not biases:
        _refuse(
            adapter, next(iter(adapter.biases.values())), f"is a bias that was trained, for which {form} has no place"
        )
    for module in adapter.modules:
        if module.kind not in kinds or module.fused:
            kind = (
                "part of a fused matrix"
                if module.fused
                else f"of {module.kind.replace('embedding', 'a table of tokens')}"
            )
            _refuse(adapter, module.a.tensor, f"is {kind}, for which {form} has no place")
    if not adapter.modules:
        raise SutureError(f"{adapter.found.path}: holds no factors", adapter.found.path)
    if adapter.transposed and form != "loralib":
        _refuse(adapter, adapter.modules[0].a.tensor, f"is of weights kept as [in, out], for which {form} has no place")


def _refuse(adapter: Adapter, tensor: str, problem: str) -> NoReturn:
    raise SutureError(f"{adapter.found.path}: tensor `{tensor}`: {problem}", adapter.found.path, tensor)


def _factor(made: Assembly, name: str, factor: Factor) -> None:
    if factor.count is None:
        made.whole(name, 0, factor.tensor)
    else:
        made.rows(name, [(0, factor.tensor, factor.first, factor.count)])


def _apart(made: Assembly, name: str, found: Checkpoint, module: Module) -> None:
    """B of a fused matrix: the products of its parts stay apart, and a part without one gets none.

    Raises:
        SutureError: if its elements are not held by f32.
    """
    import numpy as np

    stored, dtype = found.numpy(module.b.tensor), found.info(module.b.tensor).dtype
    if dtype == "F64" or dtype not in _DTYPES:
        message = f"is {dtype}; a fused matrix is computed of F32, F16 or BF16: cast it first (suture convert --dtype)"
        raise SutureError(f"{found.path}: tensor `{module.b.tensor}`: {message}", found.path, module.b.tensor)
    rank, groups = stored.shape[1], module.rank // stored.shape[1]
    size = stored.shape[0] // groups
    wide = np.zeros((len(module.fused), size, groups, rank), dtype=np.float32)
    for part, place in enumerate(module.fused):
        if place is not None:
            wide[part, :, place] = stored[place * size : (place + 1) * size]
    made.given(name, wide.reshape(-1, module.rank), _DTYPES[dtype][0])


def _holds(value: float, dtype: str) -> bool:
    """Whether a dtype, float32 at most, holds a number: by its significand, and f16 by its range."""
    numerator = abs(value.as_integer_ratio()[0])
    while numerator and numerator % 2 == 0:
        numerator //= 2
    within = dtype != "float16" or 2.0**-14 <= abs(value) < 65536
    return within and numerator.bit_length() <= min(24, dict(_DTYPES.values()).get(dtype, 24))


def _called(dtype: str) -> str:
    """A dtype by the name that recipes have for it, where it is one of theirs."""
    text = dtype.lower().removeprefix("torch.")
    digits = re.search(r"\d\d$", text)
    short = {"double": "float64", "float": "float32", "half": "float16"}
    return f"{'b' * text.startswith('b')}float{digits[0]}" if digits else short.get(text, text)


def _number(value: float) -> float:
    return int(value) if float(value).is_integer() else value

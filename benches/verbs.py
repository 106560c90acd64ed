"""Every verb of two installations in turn, on models of few bytes: what it costs to start and to look at headers.

    python benches/verbs.py OLD/bin/suture NEW/bin/suture

On two models of 21 tensors and on two of 50,103 tensors in 1,000 shards. Prints the fastest of each and the ratio, and
keeps all under runs/. Verbs that only one of the two has are left out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

from common.facts import cpu_model
from common.places import HERE
from common.tables import number, show

SHARDS, EXPERTS = 1000, 165


def named(layers: int, experts: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a model with many small experts."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (4, 2)}
    for layer in range(layers):
        head = f"model.layers.{layer}"
        found |= {f"{head}.self_attn.{m}_proj.weight": (2, 2) for m in "qkvo"}
        found |= {f"{head}.{n}_layernorm.weight": (2,) for n in ("input", "post_attention")}
        found |= {
            f"{head}.mlp.experts.{e}.{m}_proj.weight": (2, 2) for e in range(experts) for m in ("up", "gate", "down")
        }
    return found | {"model.norm.weight": (2,), "lm_head.weight": (4, 2)}


def write(folder: Path, layers: int, experts: int, shards: int, fill: int) -> Path:
    """A checkpoint in `shards` files, all of whose bytes are `fill`."""
    folder.mkdir(parents=True)
    names = list(named(layers, experts).items())
    each = -(-len(names) // shards)
    parts = [names[i : i + each] for i in range(0, len(names), each)]
    where = {}
    for number_, part in enumerate(parts, 1):
        file, header, end = f"model-{number_:05}-of-{len(parts):05}.safetensors", {}, 0
        for name, shape in part:
            size = 2
            for extent in shape:
                size *= extent
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
            end += size
            where[name] = file
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        (folder / file).write_bytes(len(text).to_bytes(8, "little") + text + bytes([fill]) * end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    config = {
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": layers,
        "hidden_size": 2, "num_attention_heads": 1, "num_experts": experts, "vocab_size": 4,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def calls(work: Path, one: Path, two: Path) -> dict[str, list[str]]:
    listed = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (one, two)]
    config, out = work / f"{one.name}.json", str(work / "out")
    config.write_text(json.dumps({"merge_method": "linear", "models": listed}))
    swap = ["swap", "--into", str(one), "--from", str(two), out, "--top", "1"]
    return {
        "inspect": ["inspect", str(one)],
        "compat": ["compat", str(one), str(two)],
        "diff": ["diff", str(one), str(two)],
        "swap --dry-run": [*swap, "--dry-run"],
        "swap": [*swap, "--overwrite"],
        "merge --dry-run": ["merge", str(config), out, "--dry-run"],
        "merge": ["merge", str(config), out, "--overwrite"],
        "verify": ["verify", out],
    }


def timed(command: list[str]) -> tuple[float, float] | None:
    """Seconds by the clock and of CPU; None if it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, check=False)
    seconds = time.monotonic() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return (seconds, cpu) if done.returncode in (0, 1) and b"unknown command" not in done.stderr else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--reps", type=int, default=5)
    given = parser.parse_args()
    rows, table = [], [["tensors", "verb", "old, s", "new, s", "ratio", "CPU ratio"]]
    with tempfile.TemporaryDirectory(prefix="suture-verbs-") as place:
        for layers, experts, shards in ((2, 1, 1), (100, EXPERTS, SHARDS)):
            work = Path(place) / str(layers)
            models = [write(work / name, layers, experts, shards, fill) for fill, name in enumerate("ab")]
            tensors = len(named(layers, experts))
            for verb, call in {"--help": ["--help"], **calls(work, models[0], models[1])}.items():
                pairs = [(timed([given.old, *call]), timed([given.new, *call])) for _ in range(given.reps)]
                both = [(old, new) for old, new in pairs if old and new]
                if not both:
                    continue
                best = [min(pair[i] for pair in both) for i in (0, 1)]
                cpu = [min(pair[i][1] for pair in both) for i in (0, 1)]
                rows.append(
                    {"tensors": tensors, "verb": verb, "old": [o for o, _ in both], "new": [n for _, n in both]}
                )
                table.append(
                    [f"{tensors:,}", verb, number(best[0][0], 3), number(best[1][0], 3),
                     number(best[1][0] / best[0][0]), number(cpu[1] / cpu[0])]
                )  # fmt: skip
    show(table)
    versions = [
        subprocess.run([s, "--version"], capture_output=True, text=True).stdout.strip() for s in (given.old, given.new)
    ]
    now = datetime.now(timezone.utc)
    kept = {
        "what": "seconds by the clock and of CPU of whole processes, old and new in turn",
        "date": now.isoformat(timespec="seconds"), "cpu": cpu_model(), "versions": versions, "rows": rows,
    }  # fmt: skip
    path = HERE / "runs" / f"{now:%Y-%m-%d-%H%M%S}-verbs.json"
    path.write_text(json.dumps(kept, indent=1) + "\n")
    print(f"raw results: {path.relative_to(HERE)}")


if __name__ == "__main__":
    main()

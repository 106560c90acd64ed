"""Chat templates: which one an output has, and where it is written."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from suture.errors import SutureError, UsageError
from suture.reference import called
from suture.sidecars.carried import Beside
from suture.sidecars.files import as_bytes, read_config
from suture.sidecars.tokenizer import TOKENIZER_FILES

#: The file that newer models have their template in, and the one that older ones have it in.
JINJA, CONFIG = "chat_template.jinja", "tokenizer_config.json"
#: Formats by name, written by us to give the text that models of these formats were trained on.
NAMED = {
    "alpaca": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
        "{% elif m['role'] == 'user' %}### Instruction:\n{{ m['content'] }}\n\n"
        "{% elif m['role'] == 'assistant' %}### Response:\n{{ m['content'] }}{{ eos_token }}\n\n"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}### Response:\n{% endif %}"
    ),
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "exaone": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}[|system|][|endofturn|]\n{% endif %}"
        "[|{{ m['role'] }}|]{{ m['content'] }}{% if m['role'] != 'user' %}[|endofturn|]{% endif %}"
        "{% if not loop.last or m['role'] == 'user' %}{{ '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[|assistant|]{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
        "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% elif m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}"
        "{% endif %}{% endfor %}"
    ),
}
#: What looks like a token of its own in a template.
_TOKEN = re.compile("<\\|[\\w.-]+\\|>|<(?:start|end)_of_turn>|<\uff5c[^<>'\"\\s{}]+\uff5c>")
#: The files that tokens are in.
_VOCABULARIES = set(TOKENIZER_FILES) - {CONFIG, JINJA, "chat_template.json"}
#: Shorter text is a name, if not one of these.
_SHORTEST = 20


def template(wanted: str, folders: Sequence[Path], first: Path | None) -> tuple[str | None, str]:
    """The template an output has, and whose it is.

    Args:
        wanted: a name, Jinja, or ``auto``: the one that most models have; of equals that of `first`, else the first.
        folders: the models.
        first: the base, if there is one.

    Raises:
        UsageError: if it is neither a name nor Jinja.
    """
    if wanted == "auto":
        found = [text for folder in folders if (text := template_in(folder)) is not None]
        if not found:
            return None, "no model has one, and the output has none"
        counts = Counter(found)
        most = [text for text, n in counts.items() if n == max(counts.values())]
        own = None if first is None else template_in(first)
        chosen = own if own in most else most[0]
        whose = next(folder for folder in folders if template_in(folder) == chosen)
        return chosen, f"that of {called(whose)} ({counts[str(chosen)]} of {len(folders)} models have it)"
    if wanted in NAMED:
        return NAMED[wanted], wanted
    if len(wanted) < _SHORTEST or "{" not in wanted:
        names = ", ".join(("auto", *NAMED))
        near = difflib.get_close_matches(wanted, ("auto", *NAMED), 1)
        names += f" (did you mean `{near[0]}`?)" if near else ""
        raise UsageError(f"chat_template: expected {names}, or Jinja, found `{wanted}`", at="chat_template")
    if any(wanted.count(a) != wanted.count(b) for a, b in (("{%", "%}"), ("{{", "}}"), ("{#", "#}"))):
        raise UsageError("chat_template: is no Jinja: a tag in it is not closed", at="chat_template")
    return wanted, "that of the config"


def template_in(folder: Path) -> str | None:
    """The chat template of a model, if it has one; of several by name the default one."""
    try:
        if (folder / JINJA).is_file():
            return (folder / JINJA).read_text(encoding="utf-8")
        found: Any = (read_config(folder, CONFIG) or {}).get("chat_template")
    except (OSError, ValueError, SutureError):
        return None
    if isinstance(found, list):
        named = {t.get("name"): t.get("template") for t in found if isinstance(t, dict)}
        found = named.get("default")
    return found if isinstance(found, str) else None


def lacks(beside: Beside, text: str) -> list[str]:
    """What to tell where a template writes tokens that the tokenizer beside an output does not have.

    Without a tokenizer there is nothing to tell.
    """
    parts = dict(beside.written) | {
        name: Path(source).read_bytes() for name, source in beside.copied if name in TOKENIZER_FILES
    }
    known = b"".join(content for name, content in parts.items() if name in _VOCABULARIES)
    if not known:
        return []
    # Those that its configuration adds, without the template in there.
    config = json.loads(parts.get(CONFIG, b"{}"))
    known += json.dumps(config.get("added_tokens_decoder"), ensure_ascii=False).encode()
    written = (
        (token, (token.encode(), json.dumps(token)[1:-1].encode())) for token in dict.fromkeys(_TOKEN.findall(text))
    )
    found = [token for token, ways in written if not any(way in known for way in ways)]
    if not found:
        return []
    named = ", ".join(f"`{token}`" for token in found[:5])
    what = "is no token" if len(found) == 1 else "are no tokens"
    return [f"chat_template: {named} in it {what} of the output, and will be read letter by letter"]


def with_template(beside: Beside, text: str) -> Beside:
    """What goes beside an output, with a template in the file that its tokenizer has it in."""
    copied, written = dict(beside.copied), dict(beside.written)
    copied.pop("chat_template.json", None)
    has_file = copied.pop(JINJA, None) is not None
    source = copied.get(CONFIG)
    if has_file or (source is None and CONFIG not in written):
        written[JINJA] = text.encode()
    else:
        copied.pop(CONFIG, None)
        config = json.loads(written[CONFIG]) if source is None else read_config(Path(source).parent, CONFIG) or {}
        written[CONFIG] = as_bytes({**config, "chat_template": text})
    return replace(beside, copied=list(copied.items()), written=list(written.items()))

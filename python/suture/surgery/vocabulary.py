"""Vocabularies: what the verbs of `suture vocab` do, as functions.

Each is documented where it is defined; all take paths of models, and those that write a :class:`suture.Settings`.
"""

from suture.analysis.vocab_compare import compare
from suture.analysis.vocab_inspect import inspect
from suture.analysis.vocab_words import words
from suture.surgery.vocab_add import add
from suture.surgery.vocab_align import vocab_align as align
from suture.surgery.vocab_clone import clone
from suture.surgery.vocab_graft import graft
from suture.surgery.vocab_pack import add as add_pack
from suture.surgery.vocab_pack import extract as extract_pack
from suture.surgery.vocab_pack import listed as list_packs
from suture.surgery.vocab_pack import materialise as materialise_pack
from suture.surgery.vocab_pack import remove as remove_pack
from suture.surgery.vocab_plans import apply, undo
from suture.surgery.vocab_transliterate import transliterate
from suture.surgery.vocab_transplant import vocab_transplant as transplant
from suture.surgery.vocab_trim import trim

__all__ = [
    "add",
    "add_pack",
    "align",
    "apply",
    "clone",
    "compare",
    "extract_pack",
    "graft",
    "inspect",
    "list_packs",
    "materialise_pack",
    "remove_pack",
    "transliterate",
    "transplant",
    "trim",
    "undo",
    "words",
]

"""Vocabularies: the tokens of models, rows for the tokens of an output, and its tokenizer's files."""

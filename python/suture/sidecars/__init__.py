"""The files beside the weights: config.json kept true, tokenizer and templates carried over, adapters, the card."""

"""Layer swapping on a published model of 135 million parameters; README.md says what is done."""

"""Families against transformers: what is compared, small stored examples, and how to make them."""

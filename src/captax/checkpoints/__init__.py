"""Reads and writes checkpoints: configs, weights, and the Hugging Face hub."""

"""Measure captions: caption and score a dataset, score and compare files of captions."""

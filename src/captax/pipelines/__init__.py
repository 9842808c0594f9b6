"""A model with all it needs to turn pictures or texts into words, labels or scores."""

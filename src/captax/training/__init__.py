"""Training: recipes, steps, the loop and what it keeps on disk."""

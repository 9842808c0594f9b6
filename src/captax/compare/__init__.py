"""Compare captioners on the same pictures: a page, scores, and votes of people."""

"""Networks: one file an architecture, each a config and its modules."""

"""Names of the built-in captioner, in a file without imports, which recipes read without JAX."""

DEFAULT = "default"  # names the built-in captioner wherever a model is named
BUILT_IN = "captax-lite"
FORMER_NAMES = ("flickr8k-lite",)  # which the built-in captioner had

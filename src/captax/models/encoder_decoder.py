"""A captioner made of any vision encoder and any text decoder."""

from flax import nnx
from jaxtyping import Array, Float, Int

from captax.models.layers import Cache, Features, TextDecoder, VisionEncoder


class EncoderDecoder(nnx.Module):
    """An encoder and the decoder that reads it."""

    def __init__(self, encoder: VisionEncoder, decoder: TextDecoder):
        self.encoder = encoder
        self.decoder = decoder

    def __call__(
        self, pixels: Float[Array, "batch height width 3"], tokens: Int[Array, "batch time"]
    ) -> Float[Array, "batch time vocab"]:
        """Logits after every token of captions given whole, as in training."""
        return self.decoder(self.encoder(pixels), tokens)

    def encode(self, pixels: Float[Array, "batch height width 3"]) -> Features:
        """Look at the pictures, once."""
        return self.encoder(pixels)

    def begin(
        self, features: Features, prompt: Int[Array, "batch time"], capacity: int
    ) -> tuple[Float[Array, "batch vocab"], Cache]:
        """Logits after the prompt, and a cache with room for `capacity` tokens in all."""
        return self.decoder.begin(features, prompt, capacity)

    def advance(
        self, tokens: Int[Array, " rows"], cache: Cache
    ) -> tuple[Float[Array, "rows vocab"], Cache]:
        """Logits after one more token a row."""
        return self.decoder.advance(tokens, cache)

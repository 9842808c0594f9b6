"""Models with their tokenizer and image processor: pictures or texts in, texts or labels out."""

"""Public models through the libraries that people know: transformers and open_clip."""

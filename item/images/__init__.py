"""Bytes to pixels, and what a file says of itself."""

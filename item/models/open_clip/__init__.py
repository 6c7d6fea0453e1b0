"""Dual encoders that open_clip knows."""

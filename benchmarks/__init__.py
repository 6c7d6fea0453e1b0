"""Measurements whose results stand in docs/performance.md and the model card."""

"""Labelled tables of features in, a head out."""

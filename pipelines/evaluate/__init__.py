"""How far a head can be trusted, measured on labelled tables."""

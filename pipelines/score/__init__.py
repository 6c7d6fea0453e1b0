"""Features or images and a head in, a table of scores out."""

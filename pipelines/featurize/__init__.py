"""Images in, a table of features out."""

"""An evaluation in, a page for people out."""

"""Heads: what turns a row of features into a logit of being generated."""

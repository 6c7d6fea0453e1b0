"""Published nights in, a report and its numbers out."""

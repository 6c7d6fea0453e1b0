"""Ray: start, stages, progress, counters, memory."""

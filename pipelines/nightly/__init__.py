"""Every night of a dump: featurize, score, audit, publish."""

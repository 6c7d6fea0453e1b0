"""The embedded models of the ``mini`` profile: small, trained here, offline on a CPU."""

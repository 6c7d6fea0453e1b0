"""What a published table is: publication, keys, leases, provenance."""

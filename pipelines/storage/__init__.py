"""Local and S3 files."""

"""Where the files of public models come from: the hub, folders, S3, and copies of them."""

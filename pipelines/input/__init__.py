"""What a dump is: folders, tables, tars, lists; its rows and keys."""

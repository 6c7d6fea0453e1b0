"""Archives of images, tar or zip, read member by member."""

"""Make and check datasets."""

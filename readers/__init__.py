"""What lies on disk, read into checked arrays."""

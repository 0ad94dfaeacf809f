"""The user's datasets, and the script that simulates some."""

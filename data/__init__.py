"""The user's datasets, and what reads and makes them."""

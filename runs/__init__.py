"""The life of a run: folder, log, resume, weights, results."""

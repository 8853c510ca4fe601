"""Measurements of the project, next to what people would use instead: `python -m bench`."""

"""The figures of the project, each beside what people would use instead, in one run: `python -m bench`."""

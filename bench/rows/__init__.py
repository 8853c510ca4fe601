"""The rows of `make bench`: each module has `run(world)`, which measures its figures."""

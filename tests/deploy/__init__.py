"""The files that hosts read, held to the code: nothing of them may drift."""

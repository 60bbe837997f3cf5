"""The output folder: what stands in it, and how a file comes to stand there."""

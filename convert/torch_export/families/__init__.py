"""Functions that write layers as PyTorch source, one file for each family."""

"""Functions that write operators as layers, one file for each family."""

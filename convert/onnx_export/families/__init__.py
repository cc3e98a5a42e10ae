"""Export functions, one file for each family of layers."""

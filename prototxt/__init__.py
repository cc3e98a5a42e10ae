"""Model definitions: one folder per model with its train, test and solver prototxt. Data only."""

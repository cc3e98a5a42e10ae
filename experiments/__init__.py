"""Settings of the experiments and the scripts that run them. Data only."""

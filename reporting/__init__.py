"""Reports of runs: read, average, draw and write, for the command lines in scripts/."""

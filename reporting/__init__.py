"""Reports of runs: what scripts/report.py reads, computes, draws and writes."""

"""What a run directory tells: metrics.jsonl, the tables and curves made from it, and report.md with its HTML page."""

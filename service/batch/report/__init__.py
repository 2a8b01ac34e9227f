"""The report of a batch job, as JSON or as one HTML file."""

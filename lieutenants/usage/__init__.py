"""Cost of model calls: sums by quarters of an hour, reports, the page Usage, `GET /usage`."""

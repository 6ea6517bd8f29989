"""One machine: a crash-safe table in files that its workers share."""

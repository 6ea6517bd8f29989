"""What a call used, what it costs, and the books that outlive a kill."""

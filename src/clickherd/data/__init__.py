"""From raw logs to the encoded store."""

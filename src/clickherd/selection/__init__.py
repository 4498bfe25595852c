"""Which features to keep: what each tells about clicks, and what is odd about it."""

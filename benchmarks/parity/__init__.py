"""Networks of clickherd beside the same networks of others, with the same weights."""

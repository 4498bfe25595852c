"""The update of the embedding table and of the dense weights, and the rules that scale them."""

"""The kinds of networks that learn from pairs which image people prefer."""

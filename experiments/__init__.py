"""Commands that train, measure and build."""

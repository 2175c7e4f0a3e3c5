"""Mutation testing of the pure modules: what the tests would not notice."""

"""What members and the grid operator get: one module for each format. Values in, text out; the same
values give the same bytes."""

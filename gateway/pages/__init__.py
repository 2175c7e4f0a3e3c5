"""Pages for people with a browser: HTML made here, of values, without a script. Pure."""

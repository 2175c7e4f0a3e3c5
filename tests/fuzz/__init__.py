"""Every decoder under bytes that nobody wrote: by property tests, and guided by coverage."""

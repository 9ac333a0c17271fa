"""Find the best setting of a method on prompts that the report does not show."""

"""Several settings of one method: what each value brought, and which is best within an equal budget."""

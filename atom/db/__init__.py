"""The database backend: Django's PostgreSQL, under the run-time role, with the tenant of the current context."""

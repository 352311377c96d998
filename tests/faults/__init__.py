"""Faults as reality has them: real worker processes, real PostgreSQL, the sandbox over real HTTP."""

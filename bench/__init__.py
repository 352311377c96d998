"""`python -m bench`: Atom measured against a floor and its peers on the same work. See docs/performance.md."""

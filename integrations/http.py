"""The one gate for HTTP to providers: time-outs, size limits, no surprise redirects, redaction, status to error class."""

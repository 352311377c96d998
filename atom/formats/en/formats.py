"""Dates and times in the admin. Pages say them in words (`atom.words`)."""

DATE_FORMAT = "j M Y"
DATETIME_FORMAT = "j M Y, H:i e"

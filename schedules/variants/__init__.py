"""Other definitions of the same meaning, found by the structure of a definition."""

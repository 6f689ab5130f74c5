"""Does a verdict hold? Comparisons at several values of a key, such as several datasets."""

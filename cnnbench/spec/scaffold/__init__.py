"""New experiment files: one that extends another, or one for a dataset."""

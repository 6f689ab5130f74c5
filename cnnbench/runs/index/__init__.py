"""An index of run folders, so that lists of thousands of runs do not read every file."""

"""Generated input for whatever reads what a user wrote."""

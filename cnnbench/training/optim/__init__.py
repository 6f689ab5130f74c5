"""Update rules that optax does not have in this form."""

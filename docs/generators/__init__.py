"""Generated tables of docs/reference/; `python docs/make_reference.py` writes them."""

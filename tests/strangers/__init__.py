"""What strangers may try, counted: `make strangers` runs all of it, the plain run a short form."""

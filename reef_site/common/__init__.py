"""What all apps share; it knows none of them."""

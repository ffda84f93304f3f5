"""From a photo and what perception found in it to an avatar."""

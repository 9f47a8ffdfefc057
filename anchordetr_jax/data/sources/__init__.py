"""Where images and annotations come from."""

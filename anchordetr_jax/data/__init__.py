"""From image files and annotations to padded batches of static shapes."""

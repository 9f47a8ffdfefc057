"""What the network looks at."""

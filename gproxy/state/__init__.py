"""What the workers of a machine share."""

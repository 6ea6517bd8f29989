"""What operators write: marshmallow schemas of every entity, and reading a seed into the store."""

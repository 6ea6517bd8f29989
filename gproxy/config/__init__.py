"""What operators write: the marshmallow schemas of every entity, and the reading and writing of configurations."""

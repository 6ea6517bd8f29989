"""One request from plan to settlement. `pipeline.py` is the story; read it first."""

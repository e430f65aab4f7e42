"""Everything that knows OpenZFS: its commands, its names, its send streams."""

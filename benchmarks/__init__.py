"""What the project's speed is, each number beside that of a plain baseline; see README.md in this folder."""

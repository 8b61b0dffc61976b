"""What `rhapsode inspect` shows: a reading of a text, the rotation of positions, the blueprint, and the page itself."""

"""What `rhapsode demo` is made of: its stations, how they are run, and what it shows."""

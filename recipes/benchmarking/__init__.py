"""What `rhapsode bench` measures: limits, contenders, their turns, and the figures that are made of them."""

"""What a trained network has to beat."""

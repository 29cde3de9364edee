"""What a town consists of: streets, ground, standing shapes, weather."""

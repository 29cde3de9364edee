"""The static world: streets, ground, buildings, weather, and what a scene consists of."""

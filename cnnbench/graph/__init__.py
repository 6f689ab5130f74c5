"""Named layers to a checked `Plan`; its geometry, cost and wider copies."""

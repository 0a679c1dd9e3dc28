"""A fleet in memory whose agents answer a controller's calls, as those of real hosts would."""

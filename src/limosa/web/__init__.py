"""The dashboard: pages made on the server, for a controller and for an agent."""

"""One host's pages on its own agent, without a controller: the same templates, asked of the agent itself."""

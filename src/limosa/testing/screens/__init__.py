"""The dashboard in a real browser, on fleets in memory: pictures of its pages, and what they cost."""

"""How well heads stand what the web does to pictures."""

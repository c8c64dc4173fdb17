"""Systems: who can be queried, and how."""

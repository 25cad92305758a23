"""Starting and listening."""

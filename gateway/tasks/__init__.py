"""Tasks: their stages, their documents, and the check of documents from the store."""

"""What a task is: its stages, its document, and the checked shape of documents that others wrote."""

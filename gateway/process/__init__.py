"""Starting and stopping: settings checked, the port bound, uvicorn run, the drain."""

"""Several machines with one store: cuts, kills and restarts between real network namespaces; the files of deploy/."""

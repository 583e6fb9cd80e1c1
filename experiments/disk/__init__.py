"""Files, folders, locks and downloads: what everything else writes with."""

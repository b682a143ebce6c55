"""Pictures that are drawn by rule: the default validation set."""

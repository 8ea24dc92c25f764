"""Plans for few calls, fitted to a denoiser; and statistics of data that are not at hand."""
